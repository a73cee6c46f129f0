package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/fence"
	"github.com/godwit-cloud/godwit/internal/recovery"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// fenceAgainAfter is how soon a BMC that confirmed nothing is asked again; an attempt is patient by itself.
const fenceAgainAfter = 10 * time.Second

// bmcs turns hosts off by their BMCs. It implements flows.Fencer. Calls for one host that come at once share one attempt.
type bmcs struct {
	*leader
	work sync.WaitGroup

	mu    sync.Mutex
	tries map[cloud.HostName]*fencing // guarded by mu
}

// fencing is one attempt to turn a host off, or its result.
type fencing struct {
	stop  context.CancelFunc
	ended time.Time
	proof string
	err   error
}

func newBMCs(l *leader) *bmcs { return &bmcs{leader: l, tries: map[cloud.HostName]*fencing{}} }

// Isolate implements flows.Fencer.
func (b *bmcs) Isolate(ctx context.Context, host cloud.HostName) (proof string, err error) {
	proof, evidence, err := b.isolate(ctx, host)
	b.tell(ctx, host, evidence, err)
	return proof, err
}

func (b *bmcs) isolate(ctx context.Context, host cloud.HostName) (proof string, e fence.Evidence, err error) {
	record, ok := store.Lookup(b.Store.View(), tables.BMCs, host)
	if !ok {
		return "", e, cloud.Errorf(cloud.KindUnsupported, "no BMC of host %s is known", host)
	}
	driver, err := fence.New(fence.SettingsOf(record))
	if err != nil {
		return "", e, err
	}
	evidence, err := fence.Isolate(ctx, driver, fence.Patience{})
	if err != nil {
		return "", evidence, err
	}
	how := "turned off"
	if evidence.Already {
		how = "off already"
	}
	return fmt.Sprintf("host %s is %s, says its BMC %s after %.1f s", host, how, evidence.BMC, evidence.Took.Seconds()), evidence, nil
}

// tell writes what the BMC answered last, for operators.
func (b *bmcs) tell(ctx context.Context, host cloud.HostName, e fence.Evidence, failure error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeMax)
	defer cancel()
	_, err := b.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		held, err := store.Peek(tx, tables.BMCs, host)
		if err != nil || held == nil {
			return err
		}
		next := *held
		next.Power, next.Error = e.Power.String(), ""
		if failure != nil {
			next.Error = failure.Error()
		} else {
			next.Confirmed = time.Now().UTC()
		}
		return store.Put(tx, tables.BMCs, host, next)
	})
	if err != nil {
		b.log.Warn("what a BMC answered was not written", "host", host, "error", err)
	}
}

// begin starts an attempt in the background unless one runs or one has failed just now. Its end is written to the host's BMC record.
func (b *bmcs) begin(ctx context.Context, host cloud.HostName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.tries[host]; t != nil && (t.ended.IsZero() || t.err == nil || time.Since(t.ended) < fenceAgainAfter) {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	t := &fencing{stop: stop}
	b.tries[host] = t
	b.work.Go(func() {
		defer stop()
		proof, evidence, err := b.isolate(ctx, host)
		if ctx.Err() != nil {
			return // the host is heard, or another leads
		}
		b.mu.Lock()
		t.proof, t.err, t.ended = proof, err, time.Now()
		b.mu.Unlock()
		b.tell(ctx, host, evidence, err)
		if err != nil {
			b.log.Error("a dead host's BMC does not confirm that it is off", "host", host, "error", err)
		}
	})
}

// known is what is known of the host's power. What was found out in an earlier silence is forgotten by forget.
func (b *bmcs) known(v store.View, host cloud.HostName) recovery.Fence {
	_, ok := store.Lookup(v, tables.BMCs, host)
	out := recovery.Fence{Known: ok}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tries[host]
	if !ok || t == nil || t.ended.IsZero() {
		return out
	}
	out.Off, out.Proof = t.err == nil, t.proof
	if t.err != nil {
		out.Error = t.err.Error()
	}
	return out
}

// forget drops what was found out: the host is heard, so it is not off. It ends an attempt that is being made, which would turn the returned host off.
func (b *bmcs) forget(host cloud.HostName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.tries[host]; t != nil {
		t.stop()
		delete(b.tries, host)
	}
}
