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

// Images takes the data of images that are made from volumes.
type Images interface {
	// Fill gives a queued image its data, raw, size bytes long, and returns when it is active with its hashes. next returns the pieces in
	// order of offset and io.EOF after the last; what no piece covers is zeros. An active image is success, a deleted one cloud.KindNotFound.
	Fill(ctx context.Context, id cloud.ImageID, size int64, next func() (offset int64, data []byte, err error)) error
}

// VolumeUpload reads a volume into an image.
func (f *Flows) VolumeUpload() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentVolumeUpload, f.volumeUploaded,
		// A guest that goes on writing would leave an image of no moment at all.
		workflow.Step("freeze", f.freezeVolume, f.thawVolume, workflow.TimeLimit(volumeCopyMax)),
		workflow.Step("upload", f.uploadVolume, nil, workflow.NoUndo("an image that is not whole never becomes active; the end of the run closes it"),
			workflow.TimeLimit(volumeCopyMax)),
		workflow.Step("thaw", f.thawVolume, nil, workflow.NoUndo("the image is whole"), workflow.TimeLimit(volumeCallMax)),
	)
}

// stateFrozen is the snapshot that an upload reads, empty when nobody writes to the volume.
const stateFrozen = "frozen"

// freezeVolume keeps the volume as it is now if a server has it. The snapshot has no record: it belongs to the run.
func (f *Flows) freezeVolume(ctx context.Context, r *run) error {
	if len(store.By(f.Records.View(), tables.Attachments, tables.ByVolume, r.Args.Volume)) == 0 {
		return nil
	}
	// Named after the intent, so that a repeated step takes the same one. It is remembered before it is there, so that an undo finds it.
	id := string(r.Args.ID)
	if err := r.Save(ctx, stateFrozen, id); err != nil {
		return err
	}
	return f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.CreateSnapshot(ctx, &hostpb.SnapshotRequest{Call: c.call, SnapshotId: id})
		return err
	})
}

// thawVolume removes what freezeVolume kept. If the service does not answer, the volume's deletion will find it.
func (f *Flows) thawVolume(ctx context.Context, r *run) error {
	var id cloud.SnapshotID
	if found, err := r.Get(stateFrozen, &id); err != nil || !found {
		return err
	}
	err := f.dropSnapshot(ctx, r, id)
	if cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= tidyAttemptsMax {
		logger(r).Warn("volume service does not answer; a snapshot stays until its volume is deleted", "volume", r.Args.Volume, "snapshot", id, "error", err)
		return nil
	}
	return err
}

func (f *Flows) uploadVolume(ctx context.Context, r *run) error {
	if f.Images == nil {
		return workflow.Abort(cloud.Errorf(cloud.KindUnsupported, "this server keeps no images"))
	}
	v, err := f.volume(r.Args.Volume)
	if err != nil {
		return err
	}
	frozen := ""
	if _, err := r.Get(stateFrozen, &frozen); err != nil {
		return err
	}
	host, err := f.volumeService(ctx, v.Service)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx) // a stream that is not read to its end would stay open
	defer cancel()
	stream, err := host.ReadVolume(ctx, &hostpb.ReadVolumeRequest{VolumeId: string(v.ID), SnapshotId: frozen})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("read volume %s: %w", v.ID, err)
	}
	pending := first
	return f.Images.Fill(ctx, r.Args.Image, first.GetBytes(), func() (int64, []byte, error) {
		chunk := pending
		pending = nil
		if chunk == nil {
			if chunk, err = stream.Recv(); err != nil {
				if !errors.Is(err, io.EOF) {
					err = fmt.Errorf("read volume %s: %w", v.ID, err)
				}
				return 0, nil, err
			}
		}
		return chunk.GetOffset(), chunk.GetData(), nil
	})
}

// volumeUploaded returns the volume to its owner; an image that did not become active is closed.
func (f *Flows) volumeUploaded(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.concludeVolume(ctx, r, func(tx *store.Tx, v *cloud.Volume) error {
		i, err := store.Get(tx, tables.Images, r.Args.Image)
		whole := err == nil && i.Status == cloud.ImageActive
		if err == nil && (i.Status == cloud.ImageQueued || i.Status == cloud.ImageSaving) {
			i.Status, i.Updated = cloud.ImageKilled, now()
			err = store.Put(tx, tables.Images, i.ID, i)
		}
		if err := ignoreMissing(err); err != nil || v == nil {
			return err
		}
		v.Fault = nil
		if o.Phase != workflow.Done && !whole {
			v.Fault = volumeFault(o.Err)
		}
		return returnToRest(tx, v)
	})
}
