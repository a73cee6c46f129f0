package hostagent

import (
	"context"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// The methods of hostpb.HostServer. They return errors of package cloud's kinds; the connection turns them into gRPC's.

// change passes one changing request through the server's gate and loop.
func (a *Agent) change(ctx context.Context, kind Kind, call *hostpb.Call, migration string, do func(ctx context.Context, v *vm) error) error {
	if err := a.awaitReady(ctx); err != nil {
		return err
	}
	v, err := a.acquire(cloud.ServerID(call.GetServerId()))
	if err != nil {
		return err
	}
	defer a.release(v)
	r := Request{Kind: kind, Generation: call.GetGeneration(), Migration: cloud.MigrationID(migration)}
	return v.submit(ctx, r, func(ctx context.Context) error { return do(ctx, v) })
}

// withSpec is change for requests that carry a spec, which must be about the server of the call.
func (a *Agent) withSpec(ctx context.Context, kind Kind, call *hostpb.Call, spec *hostpb.ServerSpec, do func(ctx context.Context, v *vm) error) error {
	if spec.GetServerId() != call.GetServerId() {
		return cloud.Errorf(cloud.KindInvalid, "%s: spec of server %q in a call about %q", kind, spec.GetServerId(), call.GetServerId())
	}
	return a.change(ctx, kind, call, "", do)
}

// Inspect returns the truth about one server. One that was never here is absent, not an error.
func (a *Agent) Inspect(ctx context.Context, req *hostpb.InspectRequest) (*hostpb.ServerState, error) {
	return a.inspect(ctx, cloud.ServerID(req.GetServerId()))
}

func (a *Agent) inspect(ctx context.Context, id cloud.ServerID) (*hostpb.ServerState, error) {
	if err := a.awaitReady(ctx); err != nil {
		return nil, err
	}
	v, err := a.acquire(id)
	if err != nil {
		return nil, err
	}
	defer a.release(v)
	s, err := v.state(ctx)
	if err != nil {
		return nil, err
	}
	out := a.wireState(v, s)
	if s.Run == kvm.Running && v.snapshot().Role == RoleIncoming {
		if stats, ok := v.finalStats(ctx); ok {
			out.Arrival = wireStats(stats)
		}
	}
	return out, nil
}

// Prepare makes what a server needs here, for a boot or to receive a migration.
func (a *Agent) Prepare(ctx context.Context, req *hostpb.PrepareRequest) (*hostpb.PrepareReply, error) {
	err := a.withSpec(ctx, KindPrepare, req.GetCall(), req.GetSpec(), func(ctx context.Context, v *vm) error {
		return v.prepare(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	a.ringFacts() // others may want the image that has come
	return &hostpb.PrepareReply{MigrationAddress: a.o.MigrationAddress, SharedDiskId: a.o.Disk.SharedID()}, nil
}

// Start starts the server and returns when its CPUs run.
func (a *Agent) Start(ctx context.Context, req *hostpb.StartRequest) (*hostpb.ServerState, error) {
	err := a.withSpec(ctx, KindStart, req.GetCall(), req.GetSpec(), func(ctx context.Context, v *vm) error { return v.start(ctx, req.GetSpec()) })
	return a.after(ctx, req.GetCall(), err)
}

// Stop shuts the server down.
func (a *Agent) Stop(ctx context.Context, req *hostpb.StopRequest) (*hostpb.ServerState, error) {
	err := a.change(ctx, KindStop, req.GetCall(), "", func(ctx context.Context, v *vm) error {
		return v.shutDown(ctx, req.GetGrace().AsDuration())
	})
	return a.after(ctx, req.GetCall(), err)
}

// Reboot restarts the server.
func (a *Agent) Reboot(ctx context.Context, req *hostpb.RebootRequest) (*hostpb.ServerState, error) {
	err := a.withSpec(ctx, KindReboot, req.GetCall(), req.GetSpec(), func(ctx context.Context, v *vm) error {
		return v.reboot(ctx, req, graceOf(req.GetGrace()))
	})
	return a.after(ctx, req.GetCall(), err)
}

// graceOf is the time a call gives the guest to shut down; a call without one gives none of its own.
func graceOf(d *durationpb.Duration) time.Duration {
	if d != nil {
		return d.AsDuration()
	}
	return stopGraceDefault
}

// Migrate moves the server away, or attaches to the migration of that id, and returns when it has ended; at the caller's wish, when the process that ran
// the server has.
func (a *Agent) Migrate(ctx context.Context, req *hostpb.MigrateRequest) (*hostpb.MigrateReply, error) {
	var m *move
	err := a.change(ctx, KindMigrate, req.GetCall(), req.GetMigrationId(), func(ctx context.Context, v *vm) error {
		var err error
		m, err = v.startMove(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	var left <-chan struct{}
	if req.GetTellDeparture() {
		left = m.left
	}
	select {
	case <-m.done:
		return m.reply, nil
	case <-left:
		return &hostpb.MigrateReply{Departed: true}, nil
	case <-ctx.Done():
		return nil, cloud.E(cloud.KindCancelled, "migrate", subject(cloud.ServerID(req.GetCall().GetServerId())), ctx.Err())
	case <-a.life.Done():
		return nil, cloud.Errorf(cloud.KindUnavailable, "migrate: agent is stopping; the migration goes on")
	}
}

// Steer changes a migration in progress.
func (a *Agent) Steer(ctx context.Context, req *hostpb.SteerRequest) (*hostpb.SteerReply, error) {
	err := a.change(ctx, KindSteer, req.GetCall(), req.GetMigrationId(), func(ctx context.Context, v *vm) error { return v.steer(ctx, req) })
	if err != nil {
		return nil, err
	}
	return &hostpb.SteerReply{}, nil
}

// Adopt makes an arrived server this host's own.
func (a *Agent) Adopt(ctx context.Context, req *hostpb.AdoptRequest) (*hostpb.ServerState, error) {
	err := a.withSpec(ctx, KindAdopt, req.GetCall(), req.GetSpec(), func(ctx context.Context, v *vm) error { return v.adopt(ctx, req) })
	return a.after(ctx, req.GetCall(), err)
}

// Discard removes the server from this host.
func (a *Agent) Discard(ctx context.Context, req *hostpb.DiscardRequest) (*hostpb.DiscardReply, error) {
	reply := &hostpb.DiscardReply{}
	err := a.change(ctx, KindDiscard, req.GetCall(), "", func(ctx context.Context, v *vm) error {
		var err error
		reply.Console, err = v.discard(ctx, req.GetDestroyRunning(), req.GetKeepDisks())
		return err
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// Console returns the end of the server's serial console.
func (a *Agent) Console(_ context.Context, req *hostpb.ConsoleRequest) (*hostpb.ConsoleReply, error) {
	id := cloud.ServerID(req.GetServerId())
	if !a.o.Disk.Present(id) {
		return nil, cloud.E(cloud.KindNotFound, "console", subject(id), nil)
	}
	data, err := a.o.Disk.Console(id, int(req.GetLines()))
	if err != nil {
		return nil, err
	}
	return &hostpb.ConsoleReply{Data: data}, nil
}

// Update hands over a server's changed name, metadata or addresses.
func (a *Agent) Update(ctx context.Context, req *hostpb.UpdateRequest) (*hostpb.UpdateReply, error) {
	err := a.withSpec(ctx, KindUpdate, req.GetCall(), req.GetSpec(), func(ctx context.Context, v *vm) error { return v.update(ctx, req.GetSpec()) })
	if err != nil {
		return nil, err
	}
	return &hostpb.UpdateReply{}, nil
}

// AttachVolume connects a volume to the server.
func (a *Agent) AttachVolume(ctx context.Context, req *hostpb.AttachVolumeRequest) (*hostpb.ServerState, error) {
	err := a.withSpec(ctx, KindAttach, req.GetCall(), req.GetSpec(), func(ctx context.Context, v *vm) error { return v.attachVolume(ctx, req) })
	return a.after(ctx, req.GetCall(), err)
}

// DetachVolume takes a volume from the server. A guest that has not let go of it when the grace is over keeps it: cloud.KindConflict.
func (a *Agent) DetachVolume(ctx context.Context, req *hostpb.DetachVolumeRequest) (*hostpb.ServerState, error) {
	err := a.withSpec(ctx, KindDetach, req.GetCall(), req.GetSpec(), func(ctx context.Context, v *vm) error { return v.detachVolume(ctx, req) })
	return a.after(ctx, req.GetCall(), err)
}

// ResizeVolume tells the guest that a volume has grown.
func (a *Agent) ResizeVolume(ctx context.Context, req *hostpb.ResizeVolumeRequest) (*hostpb.ServerState, error) {
	err := a.change(ctx, KindResize, req.GetCall(), "", func(ctx context.Context, v *vm) error {
		return v.resizeVolume(ctx, cloud.VolumeID(req.GetVolumeId()), req.GetBytes())
	})
	return a.after(ctx, req.GetCall(), err)
}

// SyncNetworks tells the host of the others.
func (a *Agent) SyncNetworks(ctx context.Context, req *hostpb.SyncNetworksRequest) (*hostpb.SyncNetworksReply, error) {
	peers := make([]netip.Addr, 0, len(req.GetPeers()))
	for _, p := range req.GetPeers() {
		address, err := netip.ParseAddr(p.GetAddress())
		if err != nil {
			return nil, cloud.Errorf(cloud.KindInvalid, "sync networks: tunnel address of host %s: %w", p.GetHost(), err)
		}
		peers = append(peers, address)
	}
	bridges, err := a.o.Networks.Sync(ctx, req.GetRevision(), peers, nicsOf(req.GetForeignPorts()))
	if err != nil {
		return nil, err
	}
	reply := &hostpb.SyncNetworksReply{}
	for _, b := range bridges {
		reply.Bridges = append(reply.Bridges, &hostpb.Bridge{NetworkId: string(b.Network), Vni: int64(b.VNI), Name: b.Name})
	}
	return reply, nil
}

// after answers a changing call with the state it left.
func (a *Agent) after(ctx context.Context, call *hostpb.Call, err error) (*hostpb.ServerState, error) {
	if err != nil {
		return nil, err
	}
	return a.inspect(ctx, cloud.ServerID(call.GetServerId()))
}
