package hostapitest

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// client calls a fake host in the caller's goroutine. Messages are copied and errors go through the wire's translation, so that
// nothing passes that could not pass on the wire.
type client struct{ host *FakeHost }

var _ hostpb.HostClient = (*client)(nil)

func call[Req, Reply proto.Message](ctx context.Context, method func(context.Context, Req) (Reply, error), req Req) (Reply, error) {
	reply, err := method(ctx, proto.CloneOf(req))
	if err != nil {
		var none Reply
		return none, hostapi.FromStatus(ctx, hostapi.ToStatus(err))
	}
	return proto.CloneOf(reply), nil
}

func (c *client) Facts(ctx context.Context, in *hostpb.FactsRequest, _ ...grpc.CallOption) (*hostpb.HostFacts, error) {
	return call(ctx, c.host.Facts, in)
}

func (c *client) Inspect(ctx context.Context, in *hostpb.InspectRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.Inspect, in)
}

func (c *client) Prepare(ctx context.Context, in *hostpb.PrepareRequest, _ ...grpc.CallOption) (*hostpb.PrepareReply, error) {
	return call(ctx, c.host.Prepare, in)
}

func (c *client) Start(ctx context.Context, in *hostpb.StartRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.Start, in)
}

func (c *client) Stop(ctx context.Context, in *hostpb.StopRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.Stop, in)
}

func (c *client) Reboot(ctx context.Context, in *hostpb.RebootRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.Reboot, in)
}

func (c *client) Migrate(ctx context.Context, in *hostpb.MigrateRequest, _ ...grpc.CallOption) (*hostpb.MigrateReply, error) {
	return call(ctx, c.host.Migrate, in)
}

func (c *client) Steer(ctx context.Context, in *hostpb.SteerRequest, _ ...grpc.CallOption) (*hostpb.SteerReply, error) {
	return call(ctx, c.host.Steer, in)
}

func (c *client) Adopt(ctx context.Context, in *hostpb.AdoptRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.Adopt, in)
}

func (c *client) Discard(ctx context.Context, in *hostpb.DiscardRequest, _ ...grpc.CallOption) (*hostpb.DiscardReply, error) {
	return call(ctx, c.host.Discard, in)
}

func (c *client) Console(ctx context.Context, in *hostpb.ConsoleRequest, _ ...grpc.CallOption) (*hostpb.ConsoleReply, error) {
	return call(ctx, c.host.Console, in)
}

func (c *client) Update(ctx context.Context, in *hostpb.UpdateRequest, _ ...grpc.CallOption) (*hostpb.UpdateReply, error) {
	return call(ctx, c.host.Update, in)
}

func (c *client) SyncNetworks(ctx context.Context, in *hostpb.SyncNetworksRequest, _ ...grpc.CallOption) (*hostpb.SyncNetworksReply, error) {
	return call(ctx, c.host.SyncNetworks, in)
}

func (c *client) AttachVolume(ctx context.Context, in *hostpb.AttachVolumeRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.AttachVolume, in)
}

func (c *client) DetachVolume(ctx context.Context, in *hostpb.DetachVolumeRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.DetachVolume, in)
}

func (c *client) ResizeVolume(ctx context.Context, in *hostpb.ResizeVolumeRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return call(ctx, c.host.ResizeVolume, in)
}

func (c *client) CheckDisks(ctx context.Context, in *hostpb.CheckDisksRequest, _ ...grpc.CallOption) (*hostpb.CheckDisksReply, error) {
	return call(ctx, c.host.CheckDisks, in)
}

func (c *client) ExportDisk(ctx context.Context, in *hostpb.ExportDiskRequest, _ ...grpc.CallOption) (*hostpb.DiskSource, error) {
	return call(ctx, c.host.ExportDisk, in)
}

func (c *client) UnexportDisk(ctx context.Context, in *hostpb.UnexportDiskRequest, _ ...grpc.CallOption) (*hostpb.UnexportDiskReply, error) {
	return call(ctx, c.host.UnexportDisk, in)
}

func (c *client) Probe(ctx context.Context, in *hostpb.ProbeRequest, _ ...grpc.CallOption) (*hostpb.ProbeReply, error) {
	return call(ctx, c.host.Probe, in)
}

func (c *client) Checkup(ctx context.Context, in *hostpb.CheckupRequest, _ ...grpc.CallOption) (*hostpb.CheckupReply, error) {
	return call(ctx, c.host.Checkup, in)
}

func (c *client) Sleep(ctx context.Context, in *hostpb.SleepRequest, _ ...grpc.CallOption) (*hostpb.SleepReply, error) {
	return call(ctx, c.host.Sleep, in)
}

func (c *client) Wake(ctx context.Context, in *hostpb.WakeRequest, _ ...grpc.CallOption) (*hostpb.WakeReply, error) {
	return call(ctx, c.host.Wake, in)
}

// CaptureDisk has all chunks made before it returns: a fake's contents are small.
func (c *client) CaptureDisk(ctx context.Context, in *hostpb.CaptureDiskRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[hostpb.VolumeChunk], error) {
	s := &chunkStream{ctx: ctx}
	s.end = hostapi.FromStatus(ctx, hostapi.ToStatus(c.host.CaptureDisk(proto.CloneOf(in), (*chunkSink)(s))))
	if s.end == nil {
		s.end = io.EOF
	}
	return s, nil
}
