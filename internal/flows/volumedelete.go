package flows

import (
	"context"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// VolumeDelete removes a volume, and its snapshots when that was asked for. The edge has seen to it that no server uses it.
func (f *Flows) VolumeDelete() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("what is deleted does not come back; only forward")
	return defineVolume(cloud.IntentVolumeDelete, f.volumeDeleted,
		// What is left of attachments that never came to be: the service keeps a volume that has one.
		workflow.Step("close", f.closeAttachments, nil, forward, workflow.TimeLimit(volumeCallMax), workflow.RetryMax(volumeDeleteAttempts)),
		// Each snapshot's record goes with its data, so that a failure in between leaves exactly those that are there.
		workflow.Step("delete-snapshots", f.deleteSnapshots, nil, forward, workflow.TimeLimit(volumeCallMax), workflow.RetryMax(volumeDeleteAttempts)),
		workflow.Step("delete", f.deleteVolume, nil, forward, workflow.TimeLimit(volumeCallMax), workflow.RetryMax(volumeDeleteAttempts)),
	)
}

// closeAttachments ends every attachment that the service may know. The records go with the volume's.
func (f *Flows) closeAttachments(ctx context.Context, r *run) error {
	for _, a := range store.By(f.Records.View(), tables.Attachments, tables.ByVolume, r.Args.Volume) {
		err := f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
			_, err := c.host.CloseAttachment(ctx, &hostpb.AttachmentRequest{Call: c.call, AttachmentId: string(a.ID)})
			return err
		})
		if err := ignoreMissing(err); err != nil {
			return fmt.Errorf("close attachment %s: %w", a.ID, err)
		}
	}
	return nil
}

func (f *Flows) deleteSnapshots(ctx context.Context, r *run) error {
	if !r.Args.Cascade {
		return nil
	}
	for _, s := range volumebook.Snapshots(f.Records.View(), r.Args.Volume) {
		if err := f.dropSnapshot(ctx, r, s.ID); err != nil {
			return fmt.Errorf("snapshot %s: %w", s.ID, err)
		}
		_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error { return volumebook.BurySnapshot(tx, s.ID) })
		if err != nil {
			return err
		}
	}
	return nil
}

// dropSnapshot removes a snapshot's data. A snapshot or volume that is nowhere is success.
func (f *Flows) dropSnapshot(ctx context.Context, r *run, id cloud.SnapshotID) error {
	return ignoreMissing(f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.DeleteSnapshot(ctx, &hostpb.SnapshotRequest{Call: c.call, SnapshotId: string(id)})
		return err
	}))
}

func (f *Flows) deleteVolume(ctx context.Context, r *run) error {
	return ignoreMissing(f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.DeleteVolume(ctx, &hostpb.DeleteVolumeRequest{Call: c.call})
		return err
	}))
}

// volumeDeleted removes the volume's records; a volume that could not be deleted shows why.
func (f *Flows) volumeDeleted(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.closeVolumeIntent(ctx, r, func(tx *store.Tx) error {
		if o.Phase == workflow.Done {
			return volumebook.Bury(tx, r.Args.Volume)
		}
		return keepUndeleted(tx, r, o)
	})
}

// keepUndeleted marks what is still there.
func keepUndeleted(tx *store.Tx, r *run, o workflow.Outcome) error {
	v, err := store.Get(tx, tables.Volumes, r.Args.Volume)
	if err != nil {
		return ignoreMissing(err)
	}
	v.Status, v.Fault, v.Updated = cloud.VolumeErrorDeleting, volumeFault(o.Err), now()
	if err := store.Put(tx, tables.Volumes, v.ID, v); err != nil || !r.Args.Cascade {
		return err
	}
	for _, id := range v.SnapshotIDs {
		if err := changeSnapshot(tx, id, func(s *cloud.VolumeSnapshot) {
			s.Status, s.Fault = cloud.SnapshotErrorDeleting, volumeFault(o.Err)
		}); err != nil {
			return err
		}
	}
	return nil
}
