package flows

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// SnapshotCreate keeps a volume as it is now. It is keyed by the volume, so that what else happens to the volume happens before or after.
func (f *Flows) SnapshotCreate() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentSnapshotCreate, f.snapshotCreated,
		workflow.Step("snapshot", f.takeSnapshot, f.forgetSnapshot, workflow.TimeLimit(volumeCopyMax)),
	)
}

func (f *Flows) takeSnapshot(ctx context.Context, r *run) error {
	return f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.CreateSnapshot(ctx, &hostpb.SnapshotRequest{Call: c.call, SnapshotId: string(r.Args.Snapshot)})
		return err
	})
}

// forgetSnapshot undoes takeSnapshot. If the service does not answer, the snapshot's record stays, in error, and its deletion finds the data.
func (f *Flows) forgetSnapshot(ctx context.Context, r *run) error {
	err := f.dropSnapshot(ctx, r, r.Args.Snapshot)
	if cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= tidyAttemptsMax {
		logger(r).Warn("volume service does not answer; the snapshot is removed with its record", "snapshot", r.Args.Snapshot, "error", err)
		return nil
	}
	return err
}

func (f *Flows) snapshotCreated(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.closeVolumeIntent(ctx, r, func(tx *store.Tx) error {
		err := changeSnapshot(tx, r.Args.Snapshot, func(s *cloud.VolumeSnapshot) {
			switch {
			case s.Status != cloud.SnapshotCreating: // an administrator has decided otherwise
			case o.Phase == workflow.Done:
				s.Status, s.Fault = cloud.SnapshotAvailable, nil
			default:
				s.Status, s.Fault = cloud.SnapshotError, volumeFault(o.Err)
			}
		})
		if err != nil || r.Args.Image == "" {
			return err
		}
		return completeImage(tx, r.Args.Image)
	})
}

// The hashes of no data, which an image made of snapshots has.
const (
	md5OfNothing    = "d41d8cd98f00b204e9800998ecf8427e"
	sha512OfNothing = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)

// completeImage makes an image that waits for its snapshots active when all are available, and kills it when one of them failed.
func completeImage(tx *store.Tx, id cloud.ImageID) error {
	i, err := store.Get(tx, tables.Images, id)
	if err != nil || i.Status != cloud.ImageQueued {
		return ignoreMissing(err)
	}
	status := cloud.ImageActive
	for _, one := range i.Snapshots {
		s, err := store.Peek(tx, tables.VolumeSnapshots, one)
		switch {
		case err != nil:
			return err
		case s != nil && s.Status == cloud.SnapshotCreating:
			return nil // its own run comes here
		case s == nil || s.Status != cloud.SnapshotAvailable:
			status = cloud.ImageKilled
		}
	}
	i.Status, i.Updated = status, now()
	if status == cloud.ImageActive {
		i.MD5, i.HashAlgo, i.Hash = md5OfNothing, "sha512", sha512OfNothing
	}
	return store.Put(tx, tables.Images, i.ID, i)
}

// SnapshotDelete removes a snapshot.
func (f *Flows) SnapshotDelete() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentSnapshotDelete, f.snapshotDeleted,
		workflow.Step("delete", f.deleteSnapshot, nil, workflow.NoUndo("what is deleted does not come back; only forward"),
			workflow.TimeLimit(volumeCallMax), workflow.RetryMax(volumeDeleteAttempts)),
	)
}

func (f *Flows) deleteSnapshot(ctx context.Context, r *run) error {
	return f.dropSnapshot(ctx, r, r.Args.Snapshot)
}

func (f *Flows) snapshotDeleted(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.closeVolumeIntent(ctx, r, func(tx *store.Tx) error {
		if o.Phase == workflow.Done {
			return volumebook.BurySnapshot(tx, r.Args.Snapshot)
		}
		return changeSnapshot(tx, r.Args.Snapshot, func(s *cloud.VolumeSnapshot) {
			s.Status, s.Fault = cloud.SnapshotErrorDeleting, volumeFault(o.Err)
		})
	})
}

// changeSnapshot changes a snapshot's record; one that is gone is success.
func changeSnapshot(tx *store.Tx, id cloud.SnapshotID, change func(*cloud.VolumeSnapshot)) error {
	s, err := store.Get(tx, tables.VolumeSnapshots, id)
	if err != nil {
		return ignoreMissing(err)
	}
	change(&s)
	s.Updated = now()
	return store.Put(tx, tables.VolumeSnapshots, id, s)
}
