package hostapi

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// progressKept bounds the migrations whose latest figures wait to be sent. A host moves a handful of servers at once; past the
// bound further migrations' figures are dropped (they are for show, outcomes do not travel this way).
const progressKept = 256

// Outbox holds the latest of everything the host has to say. Putting never blocks. Values are cloned, so the caller may
// go on using them. Safe for concurrent use.
//
// Memory is bounded by the host's own size: one value for each server present, one for each of progressKept migrations.
type Outbox struct {
	mu           sync.Mutex
	facts        *slot[*hostpb.HostEvent]                  // of a host or of a volume service
	observations map[string]*slot[*hostpb.ServerState]     // by server
	progress     map[string]*slot[*hostpb.MigrationUpdate] // by migration; forgotten once sent
	telemetry    *hostpb.HostEvent                         // nil: nothing unsent
	every        time.Duration                             // that the server wants telemetry; 0: not at all
	changed      chan struct{}                             // capacity 1: "something is unsent"
}

type slot[T any] struct {
	value T
	sent  bool
}

func newOutbox() *Outbox {
	return &Outbox{
		observations: map[string]*slot[*hostpb.ServerState]{},
		progress:     map[string]*slot[*hostpb.MigrationUpdate]{},
		changed:      make(chan struct{}, 1),
	}
}

// PutFacts replaces the host's facts. No session begins before the first facts are put.
func (o *Outbox) PutFacts(facts *hostpb.HostFacts) {
	o.putFacts(&hostpb.HostEvent{Event: &hostpb.HostEvent_Facts{Facts: proto.CloneOf(facts)}})
}

// PutVolumeFacts is PutFacts for a volume service.
func (o *Outbox) PutVolumeFacts(facts *hostpb.VolumeFacts) {
	o.putFacts(&hostpb.HostEvent{Event: &hostpb.HostEvent_VolumeFacts{VolumeFacts: proto.CloneOf(facts)}})
}

func (o *Outbox) putFacts(event *hostpb.HostEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.facts = &slot[*hostpb.HostEvent]{value: event}
	o.wake()
}

// PutObservation replaces what was last seen of a server. One that is older than the value held (smaller epoch, then smaller
// seq) is ignored, so concurrent observers need no order. A server that is absent and has no disks is forgotten
// once that has been said; in the next session its silence says the same.
func (o *Outbox) PutObservation(state *hostpb.ServerState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if held := o.observations[state.GetServerId()]; held != nil && older(state, held.value) {
		return
	}
	o.observations[state.GetServerId()] = &slot[*hostpb.ServerState]{value: proto.CloneOf(state)}
	o.wake()
}

func older(a, b *hostpb.ServerState) bool {
	if a.GetEpoch() != b.GetEpoch() {
		return a.GetEpoch() < b.GetEpoch()
	}
	return a.GetSeq() < b.GetSeq()
}

// PutProgress replaces a migration's figures; older ones (smaller seq) are ignored.
func (o *Outbox) PutProgress(update *hostpb.MigrationUpdate) {
	o.mu.Lock()
	defer o.mu.Unlock()
	held := o.progress[update.GetMigrationId()]
	if held == nil && len(o.progress) >= progressKept || held != nil && update.GetSeq() < held.value.GetSeq() {
		return
	}
	o.progress[update.GetMigrationId()] = &slot[*hostpb.MigrationUpdate]{value: proto.CloneOf(update)}
	o.wake()
}

func (o *Outbox) wake() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// restart marks everything unsent: a new session begins.
func (o *Outbox) restart() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.facts != nil {
		o.facts.sent = false
	}
	for _, s := range o.observations {
		s.sent = false
	}
	o.wake()
}

// take returns what is unsent, facts first, and considers it sent. It returns nothing while there are no facts.
func (o *Outbox) take() []*hostpb.HostEvent {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.facts == nil {
		return nil
	}
	var out []*hostpb.HostEvent
	if !o.facts.sent {
		o.facts.sent = true
		out = append(out, o.facts.value)
	}
	for id, s := range o.observations {
		if s.sent {
			continue
		}
		s.sent = true
		out = append(out, &hostpb.HostEvent{Event: &hostpb.HostEvent_Observation{Observation: s.value}})
		if s.value.GetDomain() == hostpb.DomainState_DOMAIN_STATE_ABSENT && !s.value.GetDisksPresent() {
			delete(o.observations, id)
		}
	}
	if o.telemetry != nil {
		out = append(out, o.telemetry)
		o.telemetry = nil
	}
	for id, s := range o.progress {
		out = append(out, &hostpb.HostEvent{Event: &hostpb.HostEvent_Progress{Progress: s.value}})
		delete(o.progress, id)
	}
	return out
}

// ready waits until there are facts to begin a session with.
func (o *Outbox) ready(ctx context.Context) error {
	for {
		o.mu.Lock()
		has := o.facts != nil
		o.mu.Unlock()
		if has {
			return nil
		}
		select {
		case <-o.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
