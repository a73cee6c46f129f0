package flows

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Capture makes an image of a server's root disk as it is now, raw. The server goes on; its host stops it for as long as the disk's overlay is copied.
func (f *Flows) Capture() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentCapture, f.captureFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		workflow.Step("upload", f.upload(cloud.TaskImageSnapshot, cloud.TaskImageUploading), nil,
			workflow.NoUndo("an image that is not whole never becomes active; the end of the run closes it"), workflow.TimeLimit(volumeCopyMax)),
	)
}

// upload has the server's host stream its disk into the run's image, with the tasks that Nova shows meanwhile.
func (f *Flows) upload(reading, uploading cloud.TaskState) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		if f.Images == nil {
			return workflow.Abort(cloud.Errorf(cloud.KindUnsupported, "this server keeps no images"))
		}
		task := func(t cloud.TaskState) error {
			return f.update(ctx, r, func(_ *store.Tx, s *cloud.Server) error {
				setTask(s, t)
				return nil
			})
		}
		if err := task(reading); err != nil {
			return err
		}
		host, call, _, err := f.onHost(r, itsHost)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx) // a stream that is not read to its end would stay open
		defer cancel()
		stream, err := host.CaptureDisk(ctx, &hostpb.CaptureDiskRequest{Call: call})
		if err != nil {
			return err
		}
		first, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("read the disk of server %s: %w", r.Args.Server, err)
		}
		if err := task(uploading); err != nil {
			return err
		}
		pending := first
		return f.Images.Fill(ctx, r.Args.Image, first.GetBytes(), func() (int64, []byte, error) {
			chunk := pending
			pending = nil
			if chunk == nil {
				if chunk, err = stream.Recv(); err != nil {
					if !errors.Is(err, io.EOF) {
						err = fmt.Errorf("read the disk of server %s: %w", r.Args.Server, err)
					}
					return 0, nil, err
				}
			}
			return chunk.GetOffset(), chunk.GetData(), nil
		})
	}
}

// closeImage kills the run's image unless it has become active, and reports whether it has.
func closeImage(tx *store.Tx, r *run) (whole bool, err error) {
	i, err := store.Get(tx, tables.Images, r.Args.Image)
	if err != nil {
		return false, ignoreMissing(err)
	}
	if i.Status == cloud.ImageQueued || i.Status == cloud.ImageSaving {
		i.Status, i.Updated = cloud.ImageKilled, now()
		return false, store.Put(tx, tables.Images, i.ID, i)
	}
	return i.Status == cloud.ImageActive, nil
}

func (f *Flows) captureFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		whole, err := closeImage(tx, r)
		if err != nil || s == nil {
			return err
		}
		if o.Phase != workflow.Done && !whole {
			s.Fault = faultOf(o.Err)
		}
		return become(s, s.VMState)
	})
}
