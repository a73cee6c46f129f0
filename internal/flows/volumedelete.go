package flows

import (
	"context"
	"fmt"
	"slices"

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

// closeAttachments ends every attachment that the service has open. It is asked, because a record may have gone where the attachment could not.
func (f *Flows) closeAttachments(ctx context.Context, r *run) error {
	state, err := f.inspectVolume(ctx, r)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, a := range state.GetAttachments() {
		err := f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
			_, err := c.host.CloseAttachment(ctx, &hostpb.AttachmentRequest{Call: c.call, AttachmentId: a.GetAttachmentId()})
			return err
		})
		if err := ignoreMissing(err); err != nil {
			return fmt.Errorf("close attachment %s: %w", a.GetAttachmentId(), err)
		}
	}
	return nil
}

// inspectVolume asks the volume's service what there is.
func (f *Flows) inspectVolume(ctx context.Context, r *run) (*hostpb.VolumeState, error) {
	v, err := f.volume(r.Args.Volume)
	if err != nil {
		return nil, err
	}
	if v.Service == "" {
		return nil, cloud.Errorf(cloud.KindNotFound, "volume %s is on no service", v.ID)
	}
	host, err := f.volumeService(ctx, v.Service)
	if err != nil {
		return nil, err
	}
	return host.InspectVolume(ctx, &hostpb.InspectVolumeRequest{VolumeId: string(v.ID)})
}

// deleteSnapshots removes what has a record, when that was asked for, and in any case what the service has without one: the moment an upload that
// was given up had been reading.
func (f *Flows) deleteSnapshots(ctx context.Context, r *run) error {
	recorded := volumebook.Snapshots(f.Records.View(), r.Args.Volume)
	if r.Args.Cascade {
		for _, s := range recorded {
			if err := f.dropSnapshot(ctx, r, s.ID); err != nil {
				return fmt.Errorf("snapshot %s: %w", s.ID, err)
			}
			_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error { return volumebook.BurySnapshot(tx, s.ID) })
			if err != nil {
				return err
			}
		}
		recorded = nil
	}
	state, err := f.inspectVolume(ctx, r)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, id := range state.GetSnapshotIds() {
		if slices.ContainsFunc(recorded, func(s *cloud.VolumeSnapshot) bool { return string(s.ID) == id }) {
			continue // the service will refuse to delete the volume, and say why
		}
		if err := f.dropSnapshot(ctx, r, cloud.SnapshotID(id)); err != nil {
			return fmt.Errorf("snapshot %s: %w", id, err)
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
