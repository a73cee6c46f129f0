package flows

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Confirm ends a resize or a cold migration in favour of what the server is now: the way back is given up.
func (f *Flows) Confirm() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("what its owner has given up does not come back")
	return define(cloud.IntentConfirm, f.confirmFinished,
		workflow.Step("begin", f.beginDecision(cloud.MigrationConfirming), nil, workflow.NoUndo("a generation that is not used costs nothing")),
		workflow.Step("discard-source", f.discardSource, nil, workflow.PointOfNoReturn(), forward, workflow.TimeLimit(discardMax)),
		// What a resize in place kept for a revert goes too.
		workflow.Step("keep-target", f.keepTarget, nil, forward, workflow.TimeLimit(startMax)),
	)
}

// Revert ends it in favour of what the server was. The guest is off on the target before the source may start it.
func (f *Flows) Revert() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("the server is what it was; only forward")
	return define(cloud.IntentRevert, f.revertFinished,
		workflow.Step("begin", f.beginRevert, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		workflow.Step("stop-target", f.stopMoved, f.startMoved, workflow.TimeLimit(f.StopGrace+callMargin)),
		workflow.Step("close-volumes-target", f.closeColdVolumes, f.reopenColdVolumes, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("open-volumes-source", f.openBack, f.closeTargetVolumes, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("switch", f.switchBack, nil, workflow.PointOfNoReturn(), forward),
		// After the switch, because a disk that grew in place is exchanged for what it was: that is done once.
		workflow.Step("prepare-source", f.prepareBack, nil, forward, workflow.TimeLimit(prepareMax)),
		workflow.Step("start-source", f.startBack, nil, forward, workflow.TimeLimit(startMax)),
		workflow.Step("discard-target", f.discardMoved, nil, forward, workflow.TimeLimit(discardMax)),
	)
}

// beginDecision takes a generation and says in the migration what is being done.
func (f *Flows) beginDecision(status cloud.MigrationStatus) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		var generation int64
		err := f.changeCold(ctx, r, func(_ *store.Tx, s *cloud.Server, m *cloud.Migration) error {
			generation = bump(s)
			return advance(m, status)
		})
		if err != nil {
			return err
		}
		return r.Set(stateGeneration, generation)
	}
}

// beginRevert makes sure that there is a host to go back to, before the guest is touched.
func (f *Flows) beginRevert(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil {
		return err
	}
	if f.look(ctx, m.Source, m.Server) == nil {
		return cloud.Errorf(cloud.KindUnavailable, "host %s, to which server %s would go back, does not answer", m.Source, m.Server)
	}
	return f.beginDecision(cloud.MigrationReverting)(ctx, r)
}

// discardSource removes what the source kept for a revert. One that does not answer removes it when it returns.
func (f *Flows) discardSource(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || staysPut(&m) {
		return ignoreMissing(err)
	}
	keep := f.sharesDisk(&m)
	return f.tidyUp(r, func(cloud.Server) cloud.HostName { return m.Source }, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Discard(ctx, &hostpb.DiscardRequest{Call: call, KeepDisks: keep})
		return err
	})
}

// keepTarget tells the server's host that it stays as it is.
func (f *Flows) keepTarget(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return ignoreMissing(err)
	}
	spec, err := Spec(f.Records.View(), &s)
	if err != nil {
		return err
	}
	return f.tidyUp(r, itsHost, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Adopt(ctx, &hostpb.AdoptRequest{Call: call, Spec: spec})
		return err
	})
}

// confirmFinished makes the server an ordinary one.
func (f *Flows) confirmFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.decisionFinished(ctx, r, o, func(tx *store.Tx, s *cloud.Server, m *cloud.Migration) error {
		if !staysPut(m) {
			if err := release(tx, s, m.Source); err != nil {
				return err
			}
			if err := store.Delete(tx, tables.Observations, tables.ObservationKey(m.Source, s.ID)); err != nil {
				return err
			}
		}
		if err := dropResize(tx, s); err != nil {
			return err
		}
		m.Finished = now()
		if err := advance(m, cloud.MigrationConfirmed); err != nil {
			return err
		}
		if s.Power == cloud.PowerRunning {
			return become(s, cloud.VMActive)
		}
		return become(s, cloud.VMStopped)
	})
}

// decisionFinished ends a confirmation or a revert; one that did not happen may be asked for again.
func (f *Flows) decisionFinished(ctx context.Context, r *run, o workflow.Outcome, done func(tx *store.Tx, s *cloud.Server, m *cloud.Migration) error) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		if s == nil || s.Resize == nil {
			return nil
		}
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			if o.Phase == workflow.Done {
				return done(tx, s, m)
			}
			m.Error, s.Fault = textOf(o.Err), faultOf(o.Err)
			if m.Status != cloud.MigrationFinished {
				if err := advance(m, cloud.MigrationFinished); err != nil {
					return err
				}
			}
			return become(s, s.VMState)
		})
	})
}

// stopMoved shuts the guest down where it was moved to.
func (f *Flows) stopMoved(ctx context.Context, r *run) error {
	return ignoreMissing(f.stop(ctx, r)) // one that never started there has no domain
}

// startMoved undoes stopMoved.
func (f *Flows) startMoved(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil || s.Power != cloud.PowerRunning || s.Task == cloud.TaskDeleting {
		return ignoreMissing(err)
	}
	return ignoreMissing(f.start(ctx, r))
}

// openBack opens the server's volumes for the host it goes back to.
func (f *Flows) openBack(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil || s.Host == m.Source {
		return err
	}
	return f.openMove(ctx, r, movingVolumes{server: &s, migration: m.ID, host: m.Source})
}

// switchBack makes the server what and where it was, under a generation of its own as switchCold does.
func (f *Flows) switchBack(ctx context.Context, r *run) error {
	var generation int64
	err := f.changeCold(ctx, r, func(tx *store.Tx, s *cloud.Server, m *cloud.Migration) error {
		generation = bump(s)
		if s.Host != m.Source {
			if err := handOver(tx, s, m, m.Source); err != nil {
				return err
			}
		}
		s.Host, s.Flavor, s.Power = m.Source, s.Resize.Old, cloud.PowerShutdown
		return bindPorts(tx, s, m.Source, portDown)
	})
	if err != nil {
		return err
	}
	return r.Set(stateGeneration, generation)
}

// prepareBack makes the source ready with the disk that it kept.
func (f *Flows) prepareBack(ctx context.Context, r *run) error {
	host, call, spec, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	_, err = host.Prepare(ctx, &hostpb.PrepareRequest{Call: call, Spec: spec, KeepDisk: true})
	return err
}

// startBack starts the guest where it was, if it ran there.
func (f *Flows) startBack(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil || !wasOn(&s) || s.Task == cloud.TaskDeleting {
		return err
	}
	err = f.start(ctx, r)
	if err == nil || !startsEnough(r.Attempt, err) || errors.Is(err, context.Canceled) {
		return err
	}
	return r.Set(stateUnstarted, fmt.Sprintf("host %s: %v", s.Host, err))
}

// discardMoved removes what the target has. One that does not answer removes it when it returns.
func (f *Flows) discardMoved(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || staysPut(&m) {
		return ignoreMissing(err)
	}
	return f.discardCold(ctx, r)
}

// revertFinished makes the server an ordinary one again.
func (f *Flows) revertFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	unstarted := ""
	if _, err := r.Get(stateUnstarted, &unstarted); err != nil {
		return err
	}
	return f.decisionFinished(ctx, r, o, func(tx *store.Tx, s *cloud.Server, m *cloud.Migration) error {
		on := wasOn(s)
		if !staysPut(m) {
			if err := release(tx, s, m.Target); err != nil {
				return err
			}
			if err := store.Delete(tx, tables.Observations, tables.ObservationKey(m.Target, s.ID)); err != nil {
				return err
			}
		}
		if err := dropResize(tx, s); err != nil {
			return err
		}
		m.Finished = now()
		if err := advance(m, cloud.MigrationReverted); err != nil {
			return err
		}
		s.Fault = nil
		switch {
		case unstarted != "":
			s.Fault = faultOf(cloud.Errorf(cloud.KindUnavailable, "%s", unstarted))
		case on:
			s.Power, s.Launched = cloud.PowerRunning, now()
			if err := bindPorts(tx, s, s.Host, portActive); err != nil {
				return err
			}
			return become(s, cloud.VMActive)
		}
		return become(s, cloud.VMStopped)
	})
}

// settleResize ends the resize of a server that is deleted before its owner has decided, as confirmed: so Nova has it.
func settleResize(tx *store.Tx, s *cloud.Server) error {
	if s.Resize == nil {
		return nil
	}
	m, err := store.Get(tx, tables.Migrations, s.Resize.Migration)
	if err != nil || m.Status != cloud.MigrationFinished {
		return ignoreMissing(err)
	}
	m.Status, m.Updated, m.Finished = cloud.MigrationConfirmed, now(), now()
	return store.Put(tx, tables.Migrations, m.ID, m)
}
