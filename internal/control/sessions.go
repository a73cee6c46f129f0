package control

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

const (
	// sessionTTL is how long a host still counts as up when the instance that held its stream died. A new instance usually has the stream again sooner.
	sessionTTL = 10 * time.Second
	// seenEvery bounds how often a session's last heartbeat is written: "updated at" in os-services, where ten seconds are plenty.
	seenEvery = 10 * time.Second
	// progressEvery bounds how often a migration's figures are written: a person looks once a second, and a write costs an fsync.
	progressEvery = time.Second
	// writeMax bounds one write; a store that takes longer has lost its quorum, and the session is better begun anew.
	writeMax = 10 * time.Second
)

// Sessions writes what hosts and volume services say. It implements hostapi.SessionHandler and hostapi.VolumeSessionHandler.
type Sessions struct {
	store    *store.Store
	endpoint string
	log      *slog.Logger
	*pulses
	book *telemetry.Book // nil: telemetry is dropped

	mu      sync.Mutex // guards what follows
	lease   *store.Lease
	hosts   map[cloud.HostName]*session
	volumes map[cloud.HostName]*volumeSession
}

// session is what is remembered of one host's stream. Only the host's own calls, which come in turn, touch it.
type session struct {
	since    time.Time
	lease    *store.Lease
	seen     time.Time                          // of the last write of the session record
	told     map[cloud.ServerID]bool            // servers observed in this session, until the first heartbeat
	complete bool                               // the first heartbeat has come: everything was told
	progress map[cloud.MigrationID]time.Time    // last written
	split    map[cloud.MigrationID]bool         // that post-copy has begun was written
	last     map[cloud.ServerID]lastObservation // what was written last, to write changes only
}

type lastObservation struct {
	power      cloud.PowerState
	reason     string
	generation int64
	epoch      int64
	failure    cloud.GuestFailure
	failures   int64
}

// NewSessions makes the handler of one server instance, whose name is endpoint.
func NewSessions(s *store.Store, endpoint string, log *slog.Logger) *Sessions {
	return &Sessions{store: s, endpoint: endpoint, log: log, pulses: newPulses(), hosts: map[cloud.HostName]*session{}, volumes: map[cloud.HostName]*volumeSession{}}
}

// Begin removes the sessions that an earlier process of this instance left in the store. Call it before serving agents.
func (s *Sessions) Begin(ctx context.Context) error {
	_, err := s.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		for _, table := range []store.Table[cloud.HostSession]{tables.HostSessions, tables.VolumeSessions} {
			if err := s.removeOwn(tx, table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove old host sessions: %w", err)
	}
	return nil
}

func (s *Sessions) removeOwn(tx *store.Tx, table store.Table[cloud.HostSession]) error {
	left, err := store.PeekList(tx, table, "")
	if err != nil {
		return err
	}
	for _, h := range left {
		if h.Endpoint != s.endpoint {
			continue
		}
		if err := store.Delete(tx, table, h.Host); err != nil {
			return err
		}
	}
	return nil
}

// leased returns this instance's lease, a new one when the old is lost.
func (s *Sessions) leased(ctx context.Context) (*store.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != nil && !lost(s.lease) {
		return s.lease, nil
	}
	l, err := s.store.Lease(ctx, sessionTTL)
	if err != nil {
		return nil, err
	}
	s.lease = l
	return l, nil
}

func lost(l *store.Lease) bool {
	select {
	case <-l.Lost():
		return true
	default:
		return false
	}
}

// HostUp implements hostapi.SessionHandler. A name that a volume service has is refused with cloud.KindConflict.
func (s *Sessions) HostUp(ctx context.Context, name cloud.HostName, facts *hostpb.HostFacts) error {
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	lease, err := s.leased(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	_, err = s.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		if err := introduce(tx, name, now); err != nil {
			return err
		}
		if err := putReport(tx, name, facts, now, managementAddress(ctx)); err != nil {
			return err
		}
		return store.PutLease(tx, tables.HostSessions, name, cloud.HostSession{Host: name, Endpoint: s.endpoint, Since: now, Seen: now}, lease)
	})
	if err != nil {
		return fmt.Errorf("host %s: begin session: %w", name, err)
	}
	s.beat(name, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[name] = &session{since: now, lease: lease, seen: now, told: map[cloud.ServerID]bool{}, progress: map[cloud.MigrationID]time.Time{}, split: map[cloud.MigrationID]bool{},
		last: map[cloud.ServerID]lastObservation{}}
	return nil
}

// introduce makes the record of a host that is seen for the first time.
func introduce(tx *store.Tx, name cloud.HostName, now time.Time) error {
	known, err := store.Peek(tx, tables.Hosts, name)
	if err != nil || known != nil {
		return err
	}
	volumes, err := store.Peek(tx, tables.VolumeServices, name)
	if err != nil {
		return err
	}
	if volumes != nil {
		return cloud.Errorf(cloud.KindConflict, "%s is the name of a volume service: give the host another one (agent.name)", name)
	}
	number, err := tables.Next(tx, tables.CountHosts)
	if err != nil {
		return err
	}
	return store.Put(tx, tables.Hosts, name, cloud.Host{
		Name: name, ID: uuid.NewString(), ServiceID: uuid.NewString(), Number: number, Zone: cloud.DefaultZone, Created: now, Updated: now,
	})
}

// putReport writes the host's report unless a newer one is there.
// management is where its agent dials from; empty: as it was.
func putReport(tx *store.Tx, name cloud.HostName, f *hostpb.HostFacts, now time.Time, management string) error {
	held, err := store.Peek(tx, tables.HostReports, name)
	if err != nil {
		return err
	}
	report := reportOf(name, f, now)
	if report.ManagementAddress = management; management == "" && held != nil {
		report.ManagementAddress = held.ManagementAddress
	}
	if held != nil && older(report.Generation, report.Seq, held.Generation, held.Seq) {
		return nil
	}
	return store.Put(tx, tables.HostReports, name, report)
}

// older orders what a host numbers itself: first by the agent's start, then by the message.
func older(generation, seq, heldGeneration, heldSeq int64) bool {
	return generation < heldGeneration || generation == heldGeneration && seq <= heldSeq
}

func reportOf(name cloud.HostName, f *hostpb.HostFacts, now time.Time) cloud.HostReport {
	r := cloud.HostReport{
		Host: name, Generation: f.GetGeneration(), Seq: f.GetSeq(), AgentVersion: f.GetAgentVersion(), LibvirtVersion: f.GetLibvirtVersion(),
		QEMUVersion: f.GetQemuVersion(), Hypervisor: f.GetHypervisor(), Virtualization: f.GetVirtualization(), Arch: f.GetArch(),
		CPUModels: f.GetCpuModels(), CPUModel: f.GetCpuModel(), CPUInfo: f.GetCpuInfo(), VCPUs: int(f.GetVcpus()), RAMMiB: int(f.GetRamMib()), RAMFreeMiB: int(f.GetRamFreeMib()),
		DiskGiB: int(f.GetDiskGib()), DiskFreeGiB: int(f.GetDiskFreeGib()), SharedDiskID: f.GetSharedDiskId(), MigrationAddress: f.GetMigrationAddress(), Images: f.GetImages(), PeerPort: int(f.GetPeerPort()),
		TunnelAddress: f.GetTunnelAddress(), SelfFencing: f.GetSelfFencing(), WakeMACs: f.GetWakeMacs(), Running: int(f.GetRunning()), UptimeSeconds: f.GetUptimeSeconds(), At: now,
	}
	r.Shared = sharedOf(f.GetShared())
	copy(r.Load[:], f.GetLoad())
	return r
}

// Event implements hostapi.SessionHandler.
func (s *Sessions) Event(ctx context.Context, name cloud.HostName, event *hostpb.HostEvent) error {
	s.beat(name, false) // before any write: a slow store must not make hosts look dead
	s.mu.Lock()
	on := s.hosts[name]
	s.mu.Unlock()
	if lost(on.lease) {
		return cloud.Errorf(cloud.KindUnavailable, "host %s: this server lost its lease in the store", name)
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	switch e := event.GetEvent().(type) {
	case *hostpb.HostEvent_Facts:
		return s.write(ctx, func(tx *store.Tx) error { return putReport(tx, name, e.Facts, time.Now().UTC(), "") })
	case *hostpb.HostEvent_Observation:
		return s.observed(ctx, name, on, e.Observation)
	case *hostpb.HostEvent_Progress:
		return s.progressed(ctx, on, e.Progress)
	case *hostpb.HostEvent_Telemetry:
		s.sampled(name, e.Telemetry)
		return nil
	case *hostpb.HostEvent_Heartbeat:
		return s.heartbeat(ctx, name, on)
	}
	return nil // a newer agent says something this server does not know
}

func (s *Sessions) write(ctx context.Context, fn func(tx *store.Tx) error) error {
	_, err := s.store.Update(ctx, fn)
	return err
}

// HostDown implements hostapi.SessionHandler.
func (s *Sessions) HostDown(name cloud.HostName) {
	s.mu.Lock()
	on := s.hosts[name]
	delete(s.hosts, name)
	s.mu.Unlock()
	s.end(name)
	if err := s.endSession(tables.HostSessions, name, on.since); err != nil {
		s.log.Warn("cannot write that a host is down; its lease will", "host", name, "error", err)
	}
}

// endSession removes the record of a session unless somebody newer holds the peer's stream.
func (s *Sessions) endSession(table store.Table[cloud.HostSession], name cloud.HostName, since time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeMax)
	defer cancel()
	return s.write(ctx, func(tx *store.Tx) error {
		held, err := store.Peek(tx, table, name)
		if err != nil || held == nil || held.Endpoint != s.endpoint || !held.Since.Equal(since) {
			return err
		}
		return store.Delete(tx, table, name)
	})
}

// heartbeat notes that the host lives. The first one says that everything was told: what was not is no longer there.
func (s *Sessions) heartbeat(ctx context.Context, name cloud.HostName, on *session) error {
	if !on.complete {
		if err := s.forgetUntold(ctx, name, on); err != nil {
			return err
		}
		on.complete, on.told = true, nil
	}
	s.beat(name, true)
	now := time.Now().UTC()
	if now.Sub(on.seen) < seenEvery {
		return nil
	}
	on.seen = now
	return s.write(ctx, func(tx *store.Tx) error {
		return store.PutLease(tx, tables.HostSessions, name, cloud.HostSession{Host: name, Endpoint: s.endpoint, Since: on.since, Seen: now}, on.lease)
	})
}

// forgetUntold removes the host's observations of servers it no longer speaks of.
func (s *Sessions) forgetUntold(ctx context.Context, name cloud.HostName, on *session) error {
	for _, o := range store.Prefixed(s.store, tables.Observations, tables.ObservationKey(name, "")) {
		if on.told[o.Server] {
			continue
		}
		err := s.write(ctx, func(tx *store.Tx) error {
			return store.Delete(tx, tables.Observations, tables.ObservationKey(name, o.Server))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// powers translates what libvirt says into Nova's numbers. A guest that moves still runs; one that arrives does not yet.
var powers = map[hostpb.DomainState]cloud.PowerState{
	hostpb.DomainState_DOMAIN_STATE_RUNNING:  cloud.PowerRunning,
	hostpb.DomainState_DOMAIN_STATE_OUTGOING: cloud.PowerRunning,
	hostpb.DomainState_DOMAIN_STATE_PAUSED:   cloud.PowerPaused,
	hostpb.DomainState_DOMAIN_STATE_SHUTOFF:  cloud.PowerShutdown,
	hostpb.DomainState_DOMAIN_STATE_CRASHED:  cloud.PowerCrashed,
	hostpb.DomainState_DOMAIN_STATE_INCOMING: cloud.PowerNone,
	hostpb.DomainState_DOMAIN_STATE_ABSENT:   cloud.PowerNone,
}

var failures = map[hostpb.GuestFailure]cloud.GuestFailure{
	hostpb.GuestFailure_GUEST_FAILURE_CRASHED:  cloud.FailureCrashed,
	hostpb.GuestFailure_GUEST_FAILURE_PANICKED: cloud.FailurePanicked,
	hostpb.GuestFailure_GUEST_FAILURE_WATCHDOG: cloud.FailureWatchdog,
	hostpb.GuestFailure_GUEST_FAILURE_IO_ERROR: cloud.FailureIOError,
	hostpb.GuestFailure_GUEST_FAILURE_SILENT:   cloud.FailureSilent,
	hostpb.GuestFailure_GUEST_FAILURE_NO_SPACE: cloud.FailureNoSpace,
}

// observed writes an observation when it says something new. A server that has neither domain nor disks is forgotten.
func (s *Sessions) observed(ctx context.Context, name cloud.HostName, on *session, state *hostpb.ServerState) error {
	id := cloud.ServerID(state.GetServerId())
	gone := state.GetDomain() == hostpb.DomainState_DOMAIN_STATE_ABSENT && !state.GetDisksPresent()
	if !on.complete && !gone {
		on.told[id] = true
	}
	now := lastObservation{powers[state.GetDomain()], state.GetReason(), state.GetGeneration(), state.GetEpoch(), failures[state.GetFailure()], state.GetFailureNumber()}
	if before, known := on.last[id]; known && before == now && !gone {
		return nil
	}
	key := tables.ObservationKey(name, id)
	err := s.write(ctx, func(tx *store.Tx) error {
		held, err := store.Peek(tx, tables.Observations, key)
		if err != nil {
			return err
		}
		if held != nil && older(state.GetEpoch(), state.GetSeq(), held.Epoch, held.Seq) {
			return nil
		}
		if gone {
			return store.Delete(tx, tables.Observations, key)
		}
		return store.Put(tx, tables.Observations, key, cloud.ServerObservation{
			Server: id, Host: name, Generation: state.GetGeneration(), Epoch: state.GetEpoch(), Seq: state.GetSeq(), Power: now.power, Reason: now.reason,
			At: time.Now().UTC(), Failure: now.failure, FailureDetail: state.GetFailureDetail(), FailureNumber: now.failures, FailureAt: state.GetFailureAt().AsTime(),
		})
	})
	if err != nil {
		return err
	}
	if gone {
		delete(on.last, id)
	} else {
		on.last[id] = now
	}
	return nil
}

// progressed writes a running migration's figures, at most once in progressEvery.
func (s *Sessions) progressed(ctx context.Context, on *session, u *hostpb.MigrationUpdate) error {
	id := cloud.MigrationID(u.GetMigrationId())
	now := time.Now().UTC()
	if now.Sub(on.progress[id]) < progressEvery && (!u.GetPostCopy() || on.split[id]) {
		return nil
	}
	for other, at := range on.progress { // forget the finished: a running one is written every second
		if now.Sub(at) > time.Minute {
			delete(on.progress, other)
			delete(on.split, other)
		}
	}
	if u.GetPostCopy() {
		on.split[id] = true
	}
	first := on.progress[id].IsZero() // of this session: an agent that started again counts from one again
	on.progress[id] = now
	return s.write(ctx, func(tx *store.Tx) error { return putProgress(tx, id, u, first, now) })
}
