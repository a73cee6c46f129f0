package flows

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Migrate moves a running server to another host.
func (f *Flows) Migrate() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("the server runs on the target; only forward")
	return define(cloud.IntentMigrate, f.migrateFinished,
		// The claim comes first, as in boot: the target must not be given away while it gets ready.
		workflow.Step("choose-target", f.chooseTarget, f.leaveTarget),
		// The target may connect and read from now on; the source goes on writing until the target writes.
		workflow.Step("open-volumes-target", f.openTargetVolumes, f.closeTargetVolumes, workflow.TimeLimit(volumeCallMax)),
		// Disks and networks must be there before libvirt connects: it fills disks, it does not make them. Discard refuses while CPUs run there.
		workflow.Step("prepare-target", f.prepareTarget, f.discardTarget, workflow.TimeLimit(prepareMax)),
		// From here the engine no longer cancels: libvirt is asked to (Steer), and only its answer, or what both hosts say, decides. The step returns nil when
		// the server runs on the target and aborts when it is proved to be on the source; it never guesses.
		workflow.Step("copy", f.copy, nil, workflow.PointOfNoReturn(), workflow.NoUndo("a copy that failed left nothing but what prepare-target made")),
		// The record follows the guest at once, and the user sees ACTIVE: what is left to do is housekeeping.
		workflow.Step("switch", f.switchHost, nil, forward),
		// The target takes over the console's history, which only the source has, so before the source forgets it.
		workflow.Step("adopt-target", f.adoptTarget, nil, forward, workflow.TimeLimit(startMax)),
		// Most guests have written by now, which does the same; for the others the source loses the right to write here.
		workflow.Step("promote-volumes-target", f.promoteVolumes, nil, forward, workflow.TimeLimit(volumeCallMax)),
		// Last, because it destroys: the source's disk goes when everything else is known to be well.
		workflow.Step("release-source", f.releaseSource, nil, forward, workflow.TimeLimit(discardMax)),
		workflow.Step("close-volumes", f.closeSourceVolumes, nil, forward, workflow.TimeLimit(volumeCallMax)),
	)
}

// migration returns the run's migration, a copy.
func (f *Flows) migration(r *run) (cloud.Migration, error) {
	m, ok := store.Lookup(f.Records.View(), tables.Migrations, r.Args.Migration)
	if !ok {
		return cloud.Migration{}, workflow.Abort(cloud.E(cloud.KindNotFound, "", "migration "+string(r.Args.Migration), nil))
	}
	return *m, nil
}

// both returns the run's server and migration.
func (f *Flows) both(r *run) (cloud.Server, cloud.Migration, error) {
	m, err := f.migration(r)
	if err != nil {
		return cloud.Server{}, m, err
	}
	s, err := f.server(r)
	return s, m, err
}

// changeMigration changes the run's migration inside tx.
func changeMigration(tx *store.Tx, r *run, change func(*cloud.Migration) error) error {
	m, err := store.Get(tx, tables.Migrations, r.Args.Migration)
	if err != nil {
		return err
	}
	if err := change(&m); err != nil {
		return err
	}
	m.Updated = now()
	return store.Put(tx, tables.Migrations, m.ID, m)
}

// advance moves the migration's status on, and refuses illegal moves.
func advance(m *cloud.Migration, next cloud.MigrationStatus) error {
	if !m.Status.CanBecome(next) {
		return workflow.Abort(cloud.E(cloud.KindInternal, "", "migration "+string(m.ID), fmt.Errorf("illegal move from %s to %s", m.Status, next)))
	}
	m.Status = next
	return nil
}

// chooseTarget claims a target and writes it into the migration.
func (f *Flows) chooseTarget(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil {
		return err
	}
	if m.Target != "" { // committed by an earlier attempt
		return r.Set(stateGeneration, s.Generation)
	}
	if s.Host != m.Source {
		return workflow.Abort(cloud.Errorf(cloud.KindConflict, "server %s is on host %s, not on %s", s.ID, s.Host, m.Source))
	}
	var generation int64
	land := f.land
	if m.Force && m.AskedTarget != "" {
		land = f.landForced
	}
	request := placement.ForMigration(&s, &m)
	request.Exclude = r.Args.Tried
	request.SourceDead = m.Type == cloud.TypeEvacuation && !tables.Connected(f.Records.View(), m.Source)
	_, err = land(ctx, r, landing{request: request, migration: m.ID, commit: func(tx *store.Tx, host cloud.HostName) error {
		current, err := store.Get(tx, serversTable, s.ID)
		if err != nil {
			return err
		}
		generation = bump(&current)
		if err := store.Put(tx, serversTable, s.ID, current); err != nil {
			return err
		}
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			source, target := f.report(m.Source), f.report(host)
			m.Target, m.TargetAddress, m.Kind = host, target.MigrationAddress, placement.KindOf(&s, source, target)
			return advance(m, cloud.MigrationPreparing)
		})
	}})
	if err != nil {
		return err
	}
	return r.Set(stateGeneration, generation)
}

func (f *Flows) report(host cloud.HostName) cloud.HostReport {
	if r, ok := store.Lookup(f.Records.View(), tables.HostReports, host); ok {
		return *r
	}
	return cloud.HostReport{Host: host}
}

// leaveTarget undoes chooseTarget. The migration keeps the target's name, so that people see what was tried.
func (f *Flows) leaveTarget(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || m.Target == "" {
		return ignoreMissing(err)
	}
	return ignoreMissing(f.update(ctx, r, func(tx *store.Tx, s *cloud.Server) error {
		if s.Host == m.Target {
			return nil // it lives there: not ours to give back
		}
		return release(tx, s, m.Target)
	}))
}

func (f *Flows) prepareTarget(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil {
		return err
	}
	host, call, spec, err := f.onHost(r, func(cloud.Server) cloud.HostName { return m.Target })
	if err != nil {
		return err
	}
	f.namePeers(spec, m.Target, m.Source)
	reply, err := host.Prepare(ctx, &hostpb.PrepareRequest{Call: call, Spec: spec, Incoming: true})
	if err != nil {
		return err
	}
	if address := reply.GetMigrationAddress(); address != "" {
		return r.Set(stateAddress, address)
	}
	return r.Set(stateAddress, m.TargetAddress)
}

// stateAddress is the name under which a run remembers where the target receives.
const stateAddress = "address"

func (f *Flows) discardTarget(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil {
		return ignoreMissing(err)
	}
	return f.tidyUp(r, func(cloud.Server) cloud.HostName { return m.Target }, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Discard(ctx, &hostpb.DiscardRequest{Call: call})
		return err
	})
}

// copy has libvirt move the guest, and returns when it is known where the guest is.
func (f *Flows) copy(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil {
		return err
	}
	if s.Host == m.Target {
		return nil // switched already
	}
	request, err := f.migrateRequest(r, &m)
	if err != nil {
		return err
	}
	if err := f.update(ctx, r, func(tx *store.Tx, _ *cloud.Server) error {
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			if m.Status == cloud.MigrationPostCopy {
				return nil
			}
			return advance(m, cloud.MigrationRunning)
		})
	}); err != nil {
		return err
	}
	return f.follow(ctx, r, &m, request)
}

func (f *Flows) migrateRequest(r *run, m *cloud.Migration) (*hostpb.MigrateRequest, error) {
	call, err := f.call(r)
	if err != nil {
		return nil, err
	}
	s, err := f.server(r)
	if err != nil {
		return nil, err
	}
	volumes, err := volumesOn(f.Records.View(), &s, m.Target)
	if err != nil {
		return nil, err
	}
	address := m.TargetAddress
	if _, err := r.Get(stateAddress, &address); err != nil {
		return nil, err
	}
	return &hostpb.MigrateRequest{
		Call: call, MigrationId: string(m.ID), TargetHost: string(m.Target), TargetAddress: address, CopyDisks: m.Kind == cloud.MigrateBlock,
		DowntimeMax: durationpb.New(f.Moves.DowntimeMax), BandwidthBytesPerSecond: f.Moves.BandwidthBytes, AutoConverge: f.Moves.AutoConverge,
		PostCopy: f.Moves.PostCopy, ParallelConnections: int32(f.Moves.ParallelConnections), TargetVolumes: volumes,
		SharedDirectory: placement.ResolvedKind(f.report(m.Source), f.report(m.Target)) == cloud.MigrateShared, TellDeparture: !f.Moves.PostCopy,
	}, nil
}

const (
	// askAgainMin and askAgainMax bound the pause between two looks at hosts that are in doubt: the first is what a libvirtd needs to answer again, the last
	// keeps a host that is down from being asked in vain too often.
	askAgainMin = 100 * time.Millisecond
	askAgainMax = 2 * time.Second
)

// follow calls Migrate until the outcome is known.
func (f *Flows) follow(ctx context.Context, r *run, m *cloud.Migration, request *hostpb.MigrateRequest) error {
	var lostSince time.Time // zero while the source answers
	doubt := ""             // the last reason for doubt that was logged
	for pause := askAgainMin; ; pause = min(2*pause, askAgainMax) {
		reply, err := f.migrateOnce(ctx, m.Source, request)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && reply.GetDeparted() {
			if there, err := f.arrived(ctx, r, m); there || err != nil {
				return err
			}
			request.TellDeparture = false // the target does not bear it out: what libvirt on the source says counts
			continue
		}
		if err == nil {
			switch reply.GetOutcome() {
			case hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED:
				return r.Set(stateTotals, Stats(reply.GetStats()))
			case hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED:
				return workflow.Abort(cloud.Errorf(cloud.KindCancelled, "the migration was aborted on request"))
			case hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED:
				return workflow.Abort(cloud.Errorf(cloud.KindInternal, "host %s: %s", m.Source, reply.GetError()))
			case hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNSPECIFIED, hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNKNOWN, hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN:
				// one host's word is not enough
			}
			err = cloud.Errorf(cloud.KindUnavailable, "host %s cannot tell: %s", m.Source, reply.GetError())
		}
		if doubt != err.Error() { // a host that is away is asked many times and says the same
			doubt = err.Error()
			logger(r).Warn("migration in doubt, asking both hosts", "source", m.Source, "target", m.Target, "error", err)
		}
		source := f.look(ctx, m.Source, m.Server)
		if source != nil {
			lostSince = time.Time{}
		} else if lostSince.IsZero() {
			lostSince = time.Now()
		}
		lost := time.Duration(0)
		if !lostSince.IsZero() {
			lost = time.Since(lostSince)
		}
		switch judge(source, f.look(ctx, m.Target, m.Server), m.ID, lost, f.Doubt) {
		case completed:
			return nil
		case broken:
			return r.Set(stateBroken, fmt.Sprintf("post-copy broke off and the guest's memory is lost: %v", err))
		case failed:
			if err := f.wake(ctx, r, source); err != nil {
				logger(r).Warn("the guest stands still on the source, asking again", "source", m.Source, "error", err)
				break // without an end: the next look decides again
			}
			return workflow.Abort(fmt.Errorf("the server did not get to host %s: %w", m.Target, err))
		case goingOn:
			pause = askAgainMin
		case unknown: // ask again
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// wake lets a guest run on that a failed migration left standing on the source. libvirt resumes it itself, unless it lost its peer, or its own
// life, at the cut-over.
func (f *Flows) wake(ctx context.Context, r *run, source sighting) error {
	if !is(source, hostpb.DomainState_DOMAIN_STATE_PAUSED) {
		return nil
	}
	host, call, spec, err := f.onHost(r, func(s cloud.Server) cloud.HostName { return s.Host })
	if err != nil {
		return err
	}
	_, err = host.Start(ctx, &hostpb.StartRequest{Call: call, Spec: spec})
	return err
}

// migrateOnce calls Migrate on the source, waiting a moment for a source that is not connected.
func (f *Flows) migrateOnce(ctx context.Context, source cloud.HostName, request *hostpb.MigrateRequest) (*hostpb.MigrateReply, error) {
	wait, cancel := context.WithTimeout(ctx, askAgainMax)
	defer cancel()
	host, err := f.Hosts.WaitHost(wait, source)
	if err != nil {
		return nil, err
	}
	return host.Migrate(ctx, request)
}

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stateBroken is the name under which a run remembers why a guest was lost in post-copy. The run goes on as if it had arrived: its newest disk is on
// the target, where a hard reboot begins anew from it, and what is left on the source must never run.
const stateBroken = "broken"

// stateTotals is the name under which a run remembers QEMU's final figures.
const stateTotals = "totals"

// switchHost makes the target the server's host, and the migration completed, in one transaction.
func (f *Flows) switchHost(ctx context.Context, r *run) error {
	totals, err := f.totals(r)
	if err != nil {
		return err
	}
	lost := ""
	if _, err := r.Get(stateBroken, &lost); err != nil {
		return err
	}
	if lost == "" && totals != nil {
		settleStats(totals)
	}
	if err := f.rememberSource(ctx, r); err != nil {
		return err
	}
	return f.update(ctx, r, func(tx *store.Tx, s *cloud.Server) error {
		m, err := store.Get(tx, tables.Migrations, r.Args.Migration)
		if err != nil {
			return err
		}
		if m.Status.Final() {
			return nil // by an earlier attempt; whatever has been asked of the server since is not ours to touch
		}
		s.Host, s.Progress = m.Target, 100
		if err := handOver(tx, s, &m, m.Target); err != nil {
			return err
		}
		state, status := s.VMState, cloud.MigrationCompleted
		if lost != "" {
			state, status, s.Power = cloud.VMError, cloud.MigrationFailed, cloud.PowerCrashed
			s.Fault = &cloud.Fault{Code: http.StatusInternalServerError, Message: lost + ". A hard reboot starts the server from its disk.", Created: now()}
		}
		if err := become(s, state); err != nil {
			return err
		}
		if err := bindPorts(tx, s, m.Target, portActive); err != nil {
			return err
		}
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			m.Totals, m.Finished, m.Error = totals, now(), lost
			return advance(m, status)
		})
	})
}

// totals returns the final figures: QEMU's own, or the last seen when the source could not say.
func (f *Flows) totals(r *run) (*cloud.MigrationStats, error) {
	var stats cloud.MigrationStats
	found, err := r.Get(stateTotals, &stats)
	if err != nil {
		return nil, err
	}
	if !found {
		p, ok := store.Lookup(f.Records.View(), tables.Progress, r.Args.Migration)
		if !ok {
			return nil, nil
		}
		stats = p.Stats
	}
	return &stats, nil
}

// settleStats counts what was left at the last look as sent. libvirt's final figures may be from just before the end, and a guest runs on the target only when
// its disks' mirrors are drained and its memory is there.
func settleStats(s *cloud.MigrationStats) {
	s.DiskProcessed += s.DiskRemaining
	s.MemoryProcessed += s.MemoryRemaining
	s.DiskRemaining, s.MemoryRemaining = 0, 0
}

// adoptTarget makes the guest the target's own, with the console's history if the source can still give it.
func (f *Flows) adoptTarget(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil {
		return err
	}
	host, call, spec, err := f.onHost(r, func(cloud.Server) cloud.HostName { return m.Target })
	if err != nil {
		return err
	}
	_, err = host.Adopt(ctx, &hostpb.AdoptRequest{Call: call, Spec: spec, Console: f.consoleOn(ctx, r, m.Source)})
	return err
}

// consoleOn returns the console's history on a host; nil when it cannot be had, which is no reason to hold a migration up.
func (f *Flows) consoleOn(ctx context.Context, r *run, name cloud.HostName) []byte {
	host, err := f.Hosts.Host(name)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, inspectMax)
	defer cancel()
	reply, err := host.Console(ctx, &hostpb.ConsoleRequest{ServerId: string(r.Args.Server)})
	if err != nil {
		logger(r).Warn("the console's history stays behind", "host", name, "error", err)
		return nil
	}
	return reply.GetData()
}

// releaseSource removes what is left on the source. One that cannot be reached is left to clean up when it returns.
func (f *Flows) releaseSource(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil {
		return err
	}
	if err := f.confirm(ctx, r, &m); err != nil {
		return err
	}
	return f.tidyUp(r, func(cloud.Server) cloud.HostName { return m.Source }, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Discard(ctx, &hostpb.DiscardRequest{Call: call})
		return err
	})
}

// migrateFinished settles the claims of a move that succeeded, or gives the server back to its owner where it was.
func (f *Flows) migrateFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	m, err := f.migration(r)
	if err != nil {
		return ignoreMissing(err)
	}
	if m.Status == cloud.MigrationFailed {
		o.Phase = workflow.Failed // what was asked for failed, though the run got through: the guest was lost in post-copy
	}
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		if err := store.Delete(tx, tables.Progress, m.ID); err != nil {
			return err
		}
		if s != nil && elsewhere(r, &m, o) {
			return tryElsewhere(tx, r)
		}
		if err := endMigration(tx, r, o); err != nil || s == nil {
			return err
		}
		if err := store.Delete(tx, tables.Observations, tables.ObservationKey(staleSide(&m, s), s.ID)); err != nil {
			return err
		}
		if s.Host != m.Target || m.Target == "" {
			return become(s, s.VMState)
		}
		if err := release(tx, s, m.Source); err != nil {
			return err
		}
		return settle(tx, s, m.Target)
	})
}

// targetsMax is how many targets a migration tries when placement may choose, as many hosts as a boot does.
const targetsMax = bootHostsMax

// elsewhere reports whether the migration goes on with another target: one that placement chose could not get ready, and nothing was copied yet.
func elsewhere(r *run, m *cloud.Migration, o workflow.Outcome) bool {
	return o.Phase == workflow.Failed && o.Step == "prepare-target" && m.Target != "" && m.AskedTarget == "" && !m.AbortAsked &&
		len(r.Args.Tried)+1 < targetsMax && !cloud.Is(o.Err, cloud.KindCancelled) && !cloud.Is(o.Err, cloud.KindInvalid)
}

// tryElsewhere writes the intent that looks for another target. The migration and the server's task stay as they are, but for the target.
func tryElsewhere(tx *store.Tx, r *run) error {
	var again cloud.Intent
	err := changeMigration(tx, r, func(m *cloud.Migration) error {
		again = nextTry(r.Args, m.Target)
		m.Target, m.TargetAddress, m.Kind, m.Intent = "", "", "", again.ID
		return nil
	})
	if err != nil {
		return err
	}
	return store.Put(tx, tables.Intents, again.ID, again)
}

// endMigration gives a migration that was not completed its final status.
func endMigration(tx *store.Tx, r *run, o workflow.Outcome) error {
	return changeMigration(tx, r, func(m *cloud.Migration) error {
		if m.Status.Final() {
			return nil
		}
		m.Error, m.Finished = textOf(o.Err), now()
		return advance(m, failedStatus(o))
	})
}

// staleSide is the host on which the server is not.
func staleSide(m *cloud.Migration, s *cloud.Server) cloud.HostName {
	if s.Host == m.Target {
		return m.Source
	}
	return m.Target
}

// failedStatus is the status of a migration that did not happen, in Nova's sense: "error" when it never began to copy.
func failedStatus(o workflow.Outcome) cloud.MigrationStatus {
	switch {
	case cloud.Is(o.Err, cloud.KindCancelled):
		return cloud.MigrationCancelled
	case o.Step == "copy":
		return cloud.MigrationFailed
	}
	return cloud.MigrationError
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Stats reads a migration's figures from the wire.
func Stats(s *hostpb.MigrationStats) cloud.MigrationStats {
	return cloud.MigrationStats{
		MemoryTotal: s.GetMemoryTotal(), MemoryProcessed: s.GetMemoryProcessed(), MemoryRemaining: s.GetMemoryRemaining(), MemoryPageSize: s.GetMemoryPageSize(),
		DirtyBytesPerSecond: s.GetDirtyBytesPerSecond(), MemoryBytesPerSecond: s.GetMemoryBytesPerSecond(), MemoryIterations: s.GetMemoryIterations(),
		DiskTotal: s.GetDiskTotal(), DiskProcessed: s.GetDiskProcessed(), DiskRemaining: s.GetDiskRemaining(), DiskBytesPerSecond: s.GetDiskBytesPerSecond(),
		Downtime: s.GetDowntime().AsDuration(), Setup: s.GetSetup().AsDuration(), Elapsed: s.GetElapsed().AsDuration(),
	}
}
