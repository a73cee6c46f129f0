package hostapitest

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// volumeClient calls a fake volume service as client calls a fake host.
type volumeClient struct{ host *FakeVolumeHost }

var _ hostpb.VolumeHostClient = (*volumeClient)(nil)

func (c *volumeClient) CreateVolume(ctx context.Context, in *hostpb.CreateVolumeRequest, _ ...grpc.CallOption) (*hostpb.VolumeState, error) {
	return call(ctx, c.host.CreateVolume, in)
}

func (c *volumeClient) DeleteVolume(ctx context.Context, in *hostpb.DeleteVolumeRequest, _ ...grpc.CallOption) (*hostpb.DeleteVolumeReply, error) {
	return call(ctx, c.host.DeleteVolume, in)
}

func (c *volumeClient) ExtendVolume(ctx context.Context, in *hostpb.ExtendVolumeRequest, _ ...grpc.CallOption) (*hostpb.VolumeState, error) {
	return call(ctx, c.host.ExtendVolume, in)
}

func (c *volumeClient) RevertVolume(ctx context.Context, in *hostpb.RevertVolumeRequest, _ ...grpc.CallOption) (*hostpb.VolumeState, error) {
	return call(ctx, c.host.RevertVolume, in)
}

func (c *volumeClient) MoveVolume(ctx context.Context, in *hostpb.MoveVolumeRequest, _ ...grpc.CallOption) (*hostpb.VolumeState, error) {
	return call(ctx, c.host.MoveVolume, in)
}

func (c *volumeClient) CreateSnapshot(ctx context.Context, in *hostpb.SnapshotRequest, _ ...grpc.CallOption) (*hostpb.SnapshotReply, error) {
	return call(ctx, c.host.CreateSnapshot, in)
}

func (c *volumeClient) DeleteSnapshot(ctx context.Context, in *hostpb.SnapshotRequest, _ ...grpc.CallOption) (*hostpb.SnapshotReply, error) {
	return call(ctx, c.host.DeleteSnapshot, in)
}

func (c *volumeClient) SetLimits(ctx context.Context, in *hostpb.SetLimitsRequest, _ ...grpc.CallOption) (*hostpb.VolumeState, error) {
	return call(ctx, c.host.SetLimits, in)
}

func (c *volumeClient) InspectVolume(ctx context.Context, in *hostpb.InspectVolumeRequest, _ ...grpc.CallOption) (*hostpb.VolumeState, error) {
	return call(ctx, c.host.InspectVolume, in)
}

func (c *volumeClient) OpenAttachment(ctx context.Context, in *hostpb.OpenAttachmentRequest, _ ...grpc.CallOption) (*hostpb.AttachmentState, error) {
	return call(ctx, c.host.OpenAttachment, in)
}

func (c *volumeClient) PromoteAttachment(ctx context.Context, in *hostpb.AttachmentRequest, _ ...grpc.CallOption) (*hostpb.AttachmentState, error) {
	return call(ctx, c.host.PromoteAttachment, in)
}

func (c *volumeClient) CloseAttachment(ctx context.Context, in *hostpb.AttachmentRequest, _ ...grpc.CallOption) (*hostpb.AttachmentState, error) {
	return call(ctx, c.host.CloseAttachment, in)
}

// ReadVolume has all chunks made before it returns: a fake's contents are small.
func (c *volumeClient) ReadVolume(ctx context.Context, in *hostpb.ReadVolumeRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[hostpb.VolumeChunk], error) {
	s := &chunkStream{ctx: ctx}
	s.end = hostapi.FromStatus(ctx, hostapi.ToStatus(c.host.ReadVolume(proto.CloneOf(in), (*chunkSink)(s))))
	if s.end == nil {
		s.end = io.EOF
	}
	return s, nil
}

// chunkStream is a stream whose messages are there already.
type chunkStream struct {
	ctx    context.Context
	chunks []*hostpb.VolumeChunk
	end    error
}

// Recv implements grpc.ServerStreamingClient.
func (s *chunkStream) Recv() (*hostpb.VolumeChunk, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, hostapi.FromStatus(s.ctx, hostapi.ToStatus(err))
	}
	if len(s.chunks) == 0 {
		return nil, s.end
	}
	c := s.chunks[0]
	s.chunks = s.chunks[1:]
	return c, nil
}

// Header implements grpc.ClientStream.
func (s *chunkStream) Header() (metadata.MD, error) { return metadata.MD{}, nil }

// Trailer implements grpc.ClientStream.
func (s *chunkStream) Trailer() metadata.MD { return nil }

// CloseSend implements grpc.ClientStream.
func (s *chunkStream) CloseSend() error { return nil }

// Context implements grpc.ClientStream.
func (s *chunkStream) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ClientStream; the one request is sent already.
func (s *chunkStream) SendMsg(any) error { return io.ErrClosedPipe }

// RecvMsg implements grpc.ClientStream.
func (s *chunkStream) RecvMsg(m any) error {
	c, err := s.Recv()
	if err != nil {
		return err
	}
	proto.Merge(m.(proto.Message), c)
	return nil
}

// chunkSink is the sending end of a chunkStream.
type chunkSink chunkStream

// Send implements grpc.ServerStreamingServer.
func (s *chunkSink) Send(c *hostpb.VolumeChunk) error {
	s.chunks = append(s.chunks, proto.CloneOf(c))
	return nil
}

// SetHeader implements grpc.ServerStream.
func (s *chunkSink) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerStream.
func (s *chunkSink) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerStream.
func (s *chunkSink) SetTrailer(metadata.MD) {}

// Context implements grpc.ServerStream.
func (s *chunkSink) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ServerStream.
func (s *chunkSink) SendMsg(m any) error { return s.Send(m.(*hostpb.VolumeChunk)) }

// RecvMsg implements grpc.ServerStream; the one request was received already.
func (s *chunkSink) RecvMsg(any) error { return io.EOF }

func (c *volumeClient) Peers(ctx context.Context, in *hostpb.PeersRequest, _ ...grpc.CallOption) (*hostpb.PeersReply, error) {
	return call(ctx, c.host.Peers, in)
}
