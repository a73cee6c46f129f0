package flows

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// ColdMove gives a server another host, another flavor, or both, with its power off, and leaves it to its owner to confirm or revert that.
//
// The guest is off on the source before the first byte is copied, and starts on the target only after the switch: at no moment may two hosts start it. What is
// on the source stays there until somebody confirms; so every step before the switch is undone by starting the source again, and everything after it by
// Revert.
func (f *Flows) ColdMove() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("the server lives on the target; from here a revert is the way back")
	return define(cloud.IntentColdMove, f.coldMoveFinished,
		// The claim comes first, as in boot: nobody's guest is stopped for a move that has no target.
		workflow.Step("choose-target", f.chooseColdTarget, f.leaveColdTarget),
		workflow.Step("stop-source", f.stopSource, f.resumeSource, workflow.TimeLimit(f.StopGrace+callMargin)),
		// Closed rather than cut off: opening the same attachment again makes the source the writer again.
		workflow.Step("close-volumes-source", f.closeColdVolumes, f.reopenColdVolumes, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("open-volumes-target", f.openColdVolumes, f.closeTargetVolumes, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("export-source", f.exportSource, f.unexportSource, workflow.TimeLimit(discardMax)),
		workflow.Step("prepare-target", f.prepareCold, f.discardCold, workflow.TimeLimit(volumeCopyMax)),
		// One transaction: from here on nobody starts the server on the source.
		workflow.Step("switch", f.switchCold, nil, workflow.PointOfNoReturn(), forward),
		workflow.Step("start-target", f.startCold, nil, forward, workflow.TimeLimit(startMax)),
		workflow.Step("end-export-source", f.unexportSource, nil, forward, workflow.TimeLimit(discardMax)),
	)
}

// staysPut reports whether the server is resized on the host it is on.
func staysPut(m *cloud.Migration) bool { return m.Target == m.Source }

// sharesDisk reports whether source and target keep the server's files in one directory.
func (f *Flows) sharesDisk(m *cloud.Migration) bool {
	return placement.ResolvedKind(f.report(m.Source), f.report(m.Target)) == cloud.MigrateShared
}

// pulls reports whether the root disk must be copied to the target.
func pulls(s *cloud.Server, m *cloud.Migration) bool {
	return s.RootDevice() == nil && !staysPut(m) && m.Kind == cloud.MigrateBlock
}

// wasOn reports whether the server ran before it was moved.
func wasOn(s *cloud.Server) bool { return s.Resize != nil && s.Resize.OldState == cloud.VMActive }

// changeCold changes the run's server and migration in one transaction. A server that is not being resized any more aborts the run.
func (f *Flows) changeCold(ctx context.Context, r *run, change func(tx *store.Tx, s *cloud.Server, m *cloud.Migration) error) error {
	return f.update(ctx, r, func(tx *store.Tx, s *cloud.Server) error {
		if s.Resize == nil {
			return workflow.Abort(cloud.Errorf(cloud.KindConflict, "server %s is not being resized", s.ID))
		}
		return changeMigration(tx, r, func(m *cloud.Migration) error { return change(tx, s, m) })
	})
}

// setTask sets the server's task, unless a delete has been asked meanwhile.
func setTask(s *cloud.Server, task cloud.TaskState) {
	if s.Task != cloud.TaskDeleting {
		s.Task = task
	}
}

// chooseColdTarget claims a target for the server as it will be.
func (f *Flows) chooseColdTarget(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil {
		return err
	}
	switch {
	case s.Resize == nil || m.NewFlavor == nil || s.Resize.Migration != m.ID:
		return workflow.Abort(cloud.Errorf(cloud.KindConflict, "server %s is not being resized", s.ID))
	case m.Target != "": // committed by an earlier attempt
		return r.Set(stateGeneration, s.Generation)
	case s.Host != m.Source:
		return workflow.Abort(cloud.Errorf(cloud.KindConflict, "server %s is on host %s, not on %s", s.ID, s.Host, m.Source))
	case s.RootDevice() == nil && m.NewFlavor.RootGiB < s.Flavor.RootGiB: // Nova's words
		return workflow.Abort(cloud.Errorf(cloud.KindInvalid, "Resize error: Unable to resize disk down."))
	}
	var generation int64
	_, err = f.land(ctx, r, landing{request: placement.ForColdMove(&s, &m, r.Args.Tried), migration: m.ID, commit: func(tx *store.Tx, host cloud.HostName) error {
		current, err := store.Get(tx, serversTable, s.ID)
		if err != nil {
			return err
		}
		generation = bump(&current)
		current.Updated = now()
		if err := store.Put(tx, serversTable, s.ID, current); err != nil {
			return err
		}
		if host == m.Source { // both flavors' room is kept until one of them is given up
			if err := f.claimBoth(tx, &current, &m); err != nil {
				return err
			}
		}
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			source, target := f.report(m.Source), f.report(host)
			m.Target, m.TargetAddress, m.Kind = host, target.MigrationAddress, placement.KindOf(&s, source, target)
			return advance(m, cloud.MigrationPreMigrating)
		})
	}})
	if err != nil {
		return err
	}
	return r.Set(stateGeneration, generation)
}

// claimBoth makes the server's claim on its own host the greater of what it has and what it is to have.
func (f *Flows) claimBoth(tx *store.Tx, s *cloud.Server, m *cloud.Migration) error {
	after := *s
	after.Flavor = *m.NewFlavor
	return setClaim(tx, s, s.Host, cloud.Claim{Server: s.ID, Migration: m.ID, Resources: s.Resources().Most(after.Resources())})
}

// setClaim replaces the server's claim on a host.
func setClaim(tx *store.Tx, s *cloud.Server, host cloud.HostName, claim cloud.Claim) error {
	return changeUsage(tx, host, s.Group, func(u *cloud.Usage, g *cloud.ServerGroup) bool {
		placement.Claim(u, g, claim)
		return true
	})
}

// leaveColdTarget undoes chooseColdTarget.
func (f *Flows) leaveColdTarget(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || m.Target == "" {
		return ignoreMissing(err)
	}
	return ignoreMissing(f.update(ctx, r, func(tx *store.Tx, s *cloud.Server) error {
		if s.Host == m.Target {
			return setClaim(tx, s, s.Host, cloud.Claim{Server: s.ID, Resources: s.Resources()})
		}
		return release(tx, s, m.Target)
	}))
}

// stopSource shuts the guest down.
func (f *Flows) stopSource(ctx context.Context, r *run) error {
	err := f.changeCold(ctx, r, func(_ *store.Tx, s *cloud.Server, m *cloud.Migration) error {
		setTask(s, cloud.TaskResizeMigrating)
		return advance(m, cloud.MigrationMigrating)
	})
	if err != nil {
		return err
	}
	err = f.stop(ctx, r)
	if s, look := f.server(r); look == nil && !wasOn(&s) {
		return ignoreMissing(err) // it may never have been started on this host
	}
	return err
}

// resumeSource undoes stopSource: the guest runs again where it was, if it did.
func (f *Flows) resumeSource(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil {
		return ignoreMissing(err)
	}
	host, call, spec, err := f.onHost(r, itsHost)
	if err != nil {
		return ignoreMissing(err)
	}
	if staysPut(&m) || f.sharesDisk(&m) { // the target may have taken the directory for its own, or made the disk larger
		if _, err := host.Prepare(ctx, &hostpb.PrepareRequest{Call: call, Spec: spec, KeepDisk: true}); err != nil {
			return err
		}
	}
	if !wasOn(&s) || s.Task == cloud.TaskDeleting {
		return nil
	}
	_, err = host.Start(ctx, &hostpb.StartRequest{Call: call, Spec: spec})
	return err
}

// closeColdVolumes closes the source's attachments at the volume services. Their records stay.
func (f *Flows) closeColdVolumes(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || staysPut(&m) {
		return err
	}
	return f.closeVolumes(ctx, r)
}

// reopenColdVolumes undoes it, before the guest is started again.
func (f *Flows) reopenColdVolumes(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || staysPut(&m) {
		return ignoreMissing(err)
	}
	return ignoreMissing(f.openVolumes(ctx, r))
}

// openColdVolumes opens the server's volumes for the target, as their only writer: the guest is off.
func (f *Flows) openColdVolumes(ctx context.Context, r *run) error {
	return f.openOnTarget(ctx, r, false)
}

// exportSource has the source serve the disk to the target.
func (f *Flows) exportSource(ctx context.Context, r *run) error {
	_, err := f.askExport(ctx, r)
	return err
}

// askExport returns where the target finds the disk; nil when nothing is to be copied. Asking again is how an export survives the source agent's restart.
func (f *Flows) askExport(ctx context.Context, r *run) (*hostpb.DiskSource, error) {
	s, m, err := f.both(r)
	if err != nil || !pulls(&s, &m) || s.Host == m.Target {
		return nil, err
	}
	host, call, _, err := f.onHost(r, itsHost)
	if err != nil {
		return nil, err
	}
	return host.ExportDisk(ctx, &hostpb.ExportDiskRequest{Call: call, Peer: string(m.Target)})
}

// unexportSource ends it. A source that does not answer serves a disk that nobody asks for, until its agent starts again.
func (f *Flows) unexportSource(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil || !pulls(&s, &m) {
		return ignoreMissing(err)
	}
	return f.tidyUp(r, func(cloud.Server) cloud.HostName { return m.Source }, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.UnexportDisk(ctx, &hostpb.UnexportDiskRequest{Call: call})
		return err
	})
}

// becoming is the server as it is after the switch.
func (f *Flows) becoming(s *cloud.Server, m *cloud.Migration) cloud.Server {
	after := *s
	after.Host, after.Flavor = m.Target, *m.NewFlavor
	return after
}

// onColdTarget returns the target, and what it must know of the server as it will be.
func (f *Flows) onColdTarget(r *run) (hostpb.HostClient, *hostpb.Call, *hostpb.ServerSpec, error) {
	s, m, err := f.both(r)
	if err != nil {
		return nil, nil, nil, err
	}
	call, err := f.call(r)
	if err != nil {
		return nil, nil, nil, err
	}
	after := f.becoming(&s, &m)
	spec, err := Spec(f.Records.View(), &after)
	if err != nil {
		return nil, nil, nil, err
	}
	f.namePeers(spec, m.Target, m.Source)
	client, err := f.Hosts.Host(m.Target)
	return client, call, spec, err
}

// prepareCold makes the server ready on the target, with its disk.
func (f *Flows) prepareCold(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil {
		return err
	}
	source, err := f.askExport(ctx, r)
	if err != nil {
		return err
	}
	host, call, spec, err := f.onColdTarget(r)
	if err != nil {
		return err
	}
	_, err = host.Prepare(ctx, &hostpb.PrepareRequest{Call: call, Spec: spec, DiskSource: source, KeepDisk: !pulls(&s, &m)})
	return err
}

// discardCold undoes prepareCold. What is on the server's own host, or in a directory that it shares with the target, is not the target's to remove.
func (f *Flows) discardCold(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || staysPut(&m) {
		return ignoreMissing(err)
	}
	keep := f.sharesDisk(&m)
	return f.tidyUp(r, func(cloud.Server) cloud.HostName { return m.Target }, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Discard(ctx, &hostpb.DiscardRequest{Call: call, KeepDisks: keep})
		return err
	})
}

// switchCold makes the server what and where it will be. It takes a generation for that: in a directory that hosts share, the disk is held by whoever has the
// greatest, and the source has been called with the run's first one.
func (f *Flows) switchCold(ctx context.Context, r *run) error {
	var generation int64
	err := f.changeCold(ctx, r, func(tx *store.Tx, s *cloud.Server, m *cloud.Migration) error {
		if m.Status != cloud.MigrationMigrating {
			generation = s.Generation
			return nil // by an earlier attempt
		}
		generation = bump(s)
		if !staysPut(m) {
			if err := handOver(tx, s, m, m.Target); err != nil {
				return err
			}
		}
		s.Host, s.Flavor, s.Power = m.Target, *m.NewFlavor, cloud.PowerShutdown
		setTask(s, cloud.TaskResizeFinish)
		if err := bindPorts(tx, s, m.Target, portDown); err != nil {
			return err
		}
		return advance(m, cloud.MigrationPostMigrating)
	})
	if err != nil {
		return err
	}
	return r.Set(stateGeneration, generation)
}

const (
	// coldStartsMax bounds the attempts to start a server where it has been moved to; then its owner is told, and may revert.
	coldStartsMax = 6
	// coldStartsAwayMax bounds them on a host that does not answer: half a minute, in which an agent that was killed or updated is back.
	coldStartsAwayMax = 11
)

// startsEnough reports whether so many attempts are enough after the last one's error.
func startsEnough(attempt int, err error) bool {
	if cloud.Is(err, cloud.KindUnavailable) {
		return attempt >= coldStartsAwayMax
	}
	return attempt >= coldStartsMax
}

// stateUnstarted is the name under which a run remembers why the server does not run where it is now.
const stateUnstarted = "unstarted"

// startCold starts the guest on the host it now belongs to, if it ran before. One that cannot be started is left to its owner, who may revert.
func (f *Flows) startCold(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil || !wasOn(&s) || s.Task == cloud.TaskDeleting {
		return err
	}
	err = f.start(ctx, r)
	if err == nil || !startsEnough(r.Attempt, err) || errors.Is(err, context.Canceled) {
		return err
	}
	logger(r).Warn("the server does not start where it was moved to", "server", s.ID, "host", s.Host, "error", err)
	return r.Set(stateUnstarted, fmt.Sprintf("host %s: %v", s.Host, err))
}

// coldMoveFinished leaves the server to its owner's decision, or gives it back as it was.
func (f *Flows) coldMoveFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	m, err := f.migration(r)
	if err != nil {
		return ignoreMissing(err)
	}
	unstarted := ""
	if _, err := r.Get(stateUnstarted, &unstarted); err != nil {
		return err
	}
	if unstarted != "" {
		o = workflow.Outcome{Phase: workflow.Failed, Step: "start-target", Err: cloud.Errorf(cloud.KindUnavailable, "%s", unstarted)}
	}
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		switch {
		case s == nil:
			return endMigration(tx, r, o)
		case s.Resize != nil && s.Host == m.Target && m.Status == cloud.MigrationPostMigrating:
			return f.awaitDecision(tx, r, s, o)
		case elsewhere(r, &m, o):
			return tryColdElsewhere(tx, r, s)
		}
		return f.giveUpCold(tx, r, s, o)
	})
}

// awaitDecision leaves a server that has been moved to its owner, who confirms or reverts.
func (f *Flows) awaitDecision(tx *store.Tx, r *run, s *cloud.Server, o workflow.Outcome) error {
	if err := settle(tx, s, s.Host); err != nil {
		return err
	}
	s.Fault, s.Progress = nil, 100
	if o.Phase != workflow.Done {
		s.Fault = faultOf(o.Err)
	} else if wasOn(s) {
		s.Power, s.Launched = cloud.PowerRunning, now()
		if err := bindPorts(tx, s, s.Host, portActive); err != nil {
			return err
		}
	}
	err := changeMigration(tx, r, func(m *cloud.Migration) error {
		m.Error = textOf(o.Err)
		return advance(m, cloud.MigrationFinished)
	})
	if err != nil {
		return err
	}
	return become(s, cloud.VMResized)
}

// giveUpCold ends a move that did not happen: the server is what and where it was.
func (f *Flows) giveUpCold(tx *store.Tx, r *run, s *cloud.Server, o workflow.Outcome) error {
	if err := endMigration(tx, r, o); err != nil {
		return err
	}
	if err := dropResize(tx, s); err != nil {
		return err
	}
	s.Fault = faultOf(o.Err)
	return become(s, s.VMState)
}

// dropResize ends a resize for good: the server is its flavor and nothing else, in claims and quota.
func dropResize(tx *store.Tx, s *cloud.Server) error {
	before := s.Charged()
	s.Resize = nil
	if s.Host != "" {
		if err := setClaim(tx, s, s.Host, cloud.Claim{Server: s.ID, Resources: s.Resources()}); err != nil {
			return err
		}
	}
	return recharge(tx, s.Project, before, s.Charged())
}

// recharge corrects what a project is charged for.
func recharge(tx *store.Tx, project cloud.ProjectID, before, after cloud.Resources) error {
	if before == after {
		return nil
	}
	usage, err := store.Get(tx, tables.QuotaUsages, project)
	if err != nil {
		return ignoreMissing(err)
	}
	usage.Cores = max(0, usage.Cores+after.VCPUs-before.VCPUs)
	usage.RAMMiB = max(0, usage.RAMMiB+after.RAMMiB-before.RAMMiB)
	return store.Put(tx, tables.QuotaUsages, project, usage)
}

// tryColdElsewhere writes the intent that looks for another target. Meanwhile the guest runs where it did.
func tryColdElsewhere(tx *store.Tx, r *run, s *cloud.Server) error {
	setTask(s, cloud.TaskResizePrep)
	if err := tryElsewhere(tx, r); err != nil {
		return err
	}
	return changeMigration(tx, r, func(m *cloud.Migration) error {
		m.Status = cloud.MigrationQueued
		return nil
	})
}
