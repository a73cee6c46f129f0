package volumehost

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// chunkBytes is the size of the pieces of a volume on the wire.
const chunkBytes = 1 << 20

// ReadVolume implements hostpb.VolumeHostServer. The first chunk says the size and has no data.
func (h *Host) ReadVolume(req *hostpb.ReadVolumeRequest, stream grpc.ServerStreamingServer[hostpb.VolumeChunk]) error {
	id := cloud.VolumeID(req.GetVolumeId())
	s, err := h.mustHold(stream.Context(), id)
	if err != nil {
		return err
	}
	r, err := s.Read(stream.Context(), id, cloud.SnapshotID(req.GetSnapshotId()))
	if err != nil {
		return err
	}
	defer r.Close()
	if err := stream.Send(&hostpb.VolumeChunk{Bytes: r.Size()}); err != nil {
		return err
	}
	for {
		buf := make([]byte, chunkBytes) // a fresh one each time: gRPC may still look at a message after Send has returned
		off, n, err := r.Next(buf)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := stream.Send(&hostpb.VolumeChunk{Offset: off, Data: buf[:n]}); err != nil {
			return err
		}
	}
}
