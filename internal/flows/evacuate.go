package flows

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// A Fencer makes sure that a host runs nothing any more.
type Fencer interface {
	// Isolate turns the host off and returns what proves it, for the record. A host that cannot be fenced because nobody said how is
	// cloud.KindUnsupported; any other error means that it may still run.
	Isolate(ctx context.Context, host cloud.HostName) (proof string, err error)
}

// Evacuate starts a server elsewhere whose host is dead.
//
// Volumes are its storage's fence: the target's attachments are opened as writers, and the service cuts the old ones off before it answers. The host
// itself is turned off first where somebody said how. A root disk that only the dead host has is made anew from its image, when that was asked for.
func (f *Flows) Evacuate() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("the server lives on the target; only forward")
	return define(cloud.IntentEvacuate, f.migrateFinished,
		// Before anything else is touched: a host that is not known to be off may run the server.
		workflow.Step("fence-source", f.fenceSource, nil, workflow.NoUndo("a host that was turned off is turned on by a person"), workflow.RetryMax(fenceAttemptsMax)),
		workflow.Step("choose-target", f.chooseTarget, f.leaveTarget),
		// Cut off with the first of these calls, the old copy could only read from here on.
		workflow.Step("take-volumes", f.takeVolumes, f.closeTargetVolumes, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("prepare-target", f.prepareEvacuated, f.discardTarget, workflow.TimeLimit(prepareMax)),
		workflow.Step("start-target", f.startEvacuated, f.powerOffTarget, workflow.TimeLimit(startMax)),
		workflow.Step("switch", f.switchEvacuated, nil, workflow.PointOfNoReturn(), forward),
		workflow.Step("close-volumes-source", f.closeSourceVolumes, nil, forward, workflow.TimeLimit(volumeCallMax)),
		// A guest that kept failing was taken from a host that lives.
		workflow.Step("release-source", f.releaseEvacuated, nil, forward, workflow.TimeLimit(discardMax)),
	)
}

// fenceAttemptsMax is how often a BMC is tried: each attempt is patient by itself.
const fenceAttemptsMax = 2

// fenceSource proves that the source is off, unless an operator has said so.
func (f *Flows) fenceSource(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil {
		return err
	}
	if host, ok := store.Lookup(f.Records.View(), tables.Hosts, m.Source); ok && host.ForcedDown {
		return f.noteFence(ctx, r, "an operator says that host "+string(m.Source)+" is down")
	}
	if r.Args.Proof != "" {
		return f.noteFence(ctx, r, r.Args.Proof) // the leader asked for it, and has seen to this
	}
	if f.Fence == nil {
		return f.evacuateUnfenced(ctx, r, m.Source, "no BMC is known")
	}
	proof, err := f.Fence.Isolate(ctx, m.Source)
	switch {
	case cloud.Is(err, cloud.KindUnsupported):
		return f.evacuateUnfenced(ctx, r, m.Source, err.Error())
	case err != nil:
		return fmt.Errorf("host %s may still run: %w", m.Source, err)
	}
	return f.noteFence(ctx, r, proof)
}

// evacuateUnfenced goes on when storage itself keeps the old copy from harm, and otherwise says what an operator has to say first: a host whose agent
// is silent may run its guests as before.
func (f *Flows) evacuateUnfenced(ctx context.Context, r *run, host cloud.HostName, why string) error {
	s, err := f.server(r)
	if err != nil {
		return err
	}
	if attachments.Guarded(f.Records.View(), &s) {
		return f.noteFence(ctx, r, fmt.Sprintf("host %s was not fenced (%s); the server's volumes refuse all writers but the newest", host, why))
	}
	return workflow.Abort(cloud.NotKnownToBeOff(host))
}

// noteFence records in the migration what the evacuation rests on.
func (f *Flows) noteFence(ctx context.Context, r *run, proof string) error {
	logger(r).Info("evacuating", "server", r.Args.Server, "fence", proof)
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			m.Fence = proof
			return nil
		})
	})
	return err
}

// takeVolumes opens the server's volumes for the target as their only writer.
func (f *Flows) takeVolumes(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil || s.Host == m.Target {
		return err
	}
	if s.RootDevice() == nil && m.Kind != cloud.MigrateShared && !r.Args.Rebuild {
		return workflow.Abort(cloud.Errorf(cloud.KindConflict, "the root disk of server %s is on host %s alone: it can only be made anew from its image, and that was not asked for", s.ID, m.Source))
	}
	return f.openOnTarget(ctx, r, false)
}

func (f *Flows) prepareEvacuated(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil {
		return err
	}
	host, call, spec, err := f.onTarget(r)
	if err != nil {
		return err
	}
	// A disk on shared storage is there or the evacuation fails: an empty one in its place would look like success.
	keep := m.Kind == cloud.MigrateShared && s.RootDevice() == nil
	_, err = host.Prepare(ctx, &hostpb.PrepareRequest{Call: call, Spec: spec, KeepDisk: keep})
	return err
}

// onTarget is onHost for the migration's target.
func (f *Flows) onTarget(r *run) (hostpb.HostClient, *hostpb.Call, *hostpb.ServerSpec, error) {
	m, err := f.migration(r)
	if err != nil {
		return nil, nil, nil, err
	}
	return f.onHost(r, func(cloud.Server) cloud.HostName { return m.Target })
}

// stays reports whether an evacuated server is left stopped: it was stopped, or nobody wants it started.
func stays(r *run, s *cloud.Server) bool { return r.Args.Stopped || s.VMState == cloud.VMStopped }

func (f *Flows) startEvacuated(ctx context.Context, r *run) error {
	err := f.update(ctx, r, func(tx *store.Tx, _ *cloud.Server) error {
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			if m.Status.Final() {
				return nil
			}
			return advance(m, cloud.MigrationRunning)
		})
	})
	if err != nil {
		return err
	}
	s, err := f.server(r)
	if err != nil || stays(r, &s) {
		return err
	}
	host, call, spec, err := f.onTarget(r)
	if err != nil {
		return err
	}
	_, err = host.Start(ctx, &hostpb.StartRequest{Call: call, Spec: spec})
	return err
}

// powerOffTarget undoes startEvacuated.
func (f *Flows) powerOffTarget(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil {
		return ignoreMissing(err)
	}
	return f.tidyUp(r, func(cloud.Server) cloud.HostName { return m.Target }, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Stop(ctx, &hostpb.StopRequest{Call: call, Grace: durationpb.New(0)})
		return err
	})
}

// switchEvacuated makes the target the server's host.
func (f *Flows) switchEvacuated(ctx context.Context, r *run) error {
	if err := f.rememberSource(ctx, r); err != nil {
		return err
	}
	return f.update(ctx, r, func(tx *store.Tx, s *cloud.Server) error {
		m, err := store.Get(tx, tables.Migrations, r.Args.Migration)
		if err != nil || m.Status.Final() {
			return err
		}
		state, power, port := cloud.VMActive, cloud.PowerRunning, portActive
		if stays(r, s) {
			state, power, port = cloud.VMStopped, cloud.PowerShutdown, portDown
		}
		s.Host, s.Power, s.Fault = m.Target, power, nil
		if err := handOver(tx, s, &m, m.Target); err != nil {
			return err
		}
		if err := bindPorts(tx, s, m.Target, port); err != nil {
			return err
		}
		if err := become(s, state); err != nil {
			return err
		}
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			m.Finished, m.Lost = now(), lostBy(s, m)
			return advance(m, cloud.MigrationCompleted)
		})
	})
}

// releaseEvacuated removes what a source that lives has left of the server. One that is dead is told by the reconciler when it returns.
func (f *Flows) releaseEvacuated(ctx context.Context, r *run) error {
	m, err := f.migration(r)
	if err != nil || !tables.Connected(f.Records.View(), m.Source) {
		return ignoreMissing(err)
	}
	return f.tidyUp(r, func(cloud.Server) cloud.HostName { return m.Source }, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Discard(ctx, &hostpb.DiscardRequest{Call: call, DestroyRunning: true}) // it was given up when the target's copy was made
		return err
	})
}

// lostBy says what an evacuation cost the server's owner.
func lostBy(s *cloud.Server, m *cloud.Migration) string {
	lost := "what was in memory and not yet on a disk"
	if s.RootDevice() == nil && m.Kind != cloud.MigrateShared {
		lost += "; everything on the root disk, which was made anew from image " + string(s.Image)
	}
	return lost
}
