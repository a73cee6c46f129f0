package hostagent

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// An image of a server is made from a copy of its overlay. A guest that runs stands still while that copy is made: QEMU has written all it holds to the file when
// the CPUs have stopped, so the copy is what a power cut at that moment would have left. On file systems that share blocks that takes no time; elsewhere it
// takes as long as copying what the guest has written. Everything slow, reading the copy through its base image, happens while the guest runs.

// captureBytes is what one message carries.
const captureBytes = 1 << 20

// CaptureDisk streams the root disk as it is now, flattened.
func (a *Agent) CaptureDisk(req *hostpb.CaptureDiskRequest, stream grpc.ServerStreamingServer[hostpb.VolumeChunk]) error {
	ctx, id := stream.Context(), cloud.ServerID(req.GetCall().GetServerId())
	err := a.change(ctx, KindExport, req.GetCall(), "", func(ctx context.Context, v *vm) error { return v.freeze(ctx) })
	if err != nil {
		return err
	}
	defer func() {
		if err := a.o.Disk.EndCapture(id); err != nil {
			a.log.Warn("copy of a disk is left", "server", id, "error", err)
		}
	}()
	image, err := a.o.Disk.OpenCapture(ctx, id)
	if err != nil {
		return err
	}
	defer image.Close()
	buf := make([]byte, captureBytes)
	for first := true; ; first = false {
		off, n, err := image.Next(buf)
		if errors.Is(err, io.EOF) && !first {
			return nil
		}
		chunk := &hostpb.VolumeChunk{Offset: off, Data: buf[:n]}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case first:
			chunk.Bytes = image.Bytes()
		}
		if sendErr := stream.Send(chunk); sendErr != nil || err != nil {
			return sendErr
		}
	}
}

// freeze copies the overlay of the server as it is now.
func (v *vm) freeze(ctx context.Context) error {
	s, err := v.resident(ctx, "copy its disk")
	if err != nil {
		return err
	}
	if s.Run != kvm.Running {
		return v.a.o.Disk.Capture(ctx, v.id)
	}
	// Written down first: an agent that dies now must not leave the guest standing.
	if err := v.save(func(r *record) { r.Frozen = true }); err != nil {
		return err
	}
	err = v.a.hv.Suspend(ctx, v.id)
	if err == nil {
		err = v.a.o.Disk.Capture(ctx, v.id)
	}
	return errors.Join(err, v.thaw(context.WithoutCancel(ctx)))
}

// thaw lets a guest go on that was stopped for a copy, by this life of the agent or an earlier one.
func (v *vm) thaw(ctx context.Context) error {
	if !v.rec.Frozen {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	s, err := v.state(ctx)
	if err == nil && s.Run == kvm.Paused {
		err = v.a.hv.Resume(ctx, v.id)
	}
	if err != nil {
		return err
	}
	return v.save(func(r *record) { r.Frozen = false })
}
