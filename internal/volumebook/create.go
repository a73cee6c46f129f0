package volumebook

import (
	"maps"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Create writes a planned volume against its project's quota, with the intent to make it. What it is made from is judged again as the transaction
// sees it.
func Create(tx *store.Tx, v cloud.Volume, i cloud.Intent) error {
	if err := sourceStands(tx, &v); err != nil {
		return err
	}
	if err := AffordSize(tx, v.Project, v.SizeGiB); err != nil {
		return err
	}
	if err := Take(tx, v.Project, cloud.VolumeUsage{Volumes: 1, GiB: v.SizeGiB}); err != nil {
		return err
	}
	if err := store.Create(tx, tables.Volumes, v.ID, v); err != nil {
		return err
	}
	i.Kind, i.Volume = cloud.IntentVolumeCreate, v.ID
	return store.Create(tx, tables.Intents, i.ID, i)
}

// sourceStands refuses a volume whose origin went away or into a state it cannot be copied in since it was planned.
func sourceStands(tx *store.Tx, v *cloud.Volume) error {
	if v.SourceSnapshot != "" {
		s, err := store.Peek(tx, tables.VolumeSnapshots, v.SourceSnapshot)
		if err != nil {
			return err
		}
		if s == nil || s.Status != cloud.SnapshotAvailable {
			return cloud.Errorf(cloud.KindInvalid, "Invalid snapshot: Originating snapshot status must be one of 'available' values")
		}
	}
	if v.SourceVolume != "" {
		source, err := store.Peek(tx, tables.Volumes, v.SourceVolume)
		if err != nil {
			return err
		}
		if source == nil || source.Status != cloud.VolumeAvailable && source.Status != cloud.VolumeInUse {
			return cloud.Errorf(cloud.KindInvalid, "Invalid volume: Originating source volume status must be one of 'available', 'in-use' values")
		}
	}
	return nil
}

// Bury removes a volume that is no more, with the records of snapshots and attachments if any are left, and gives its project back what it took. A
// volume that is gone already is success.
func Bury(tx *store.Tx, id cloud.VolumeID) error {
	v, err := store.Get(tx, tables.Volumes, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range v.SnapshotIDs {
		if err := BurySnapshot(tx, s); err != nil {
			return err
		}
	}
	for _, a := range v.AttachmentIDs {
		if err := store.Delete(tx, tables.Attachments, a); err != nil {
			return err
		}
	}
	if err := GiveBack(tx, v.Project, cloud.VolumeUsage{Volumes: 1, GiB: v.SizeGiB}); err != nil {
		return err
	}
	return store.Delete(tx, tables.Volumes, id)
}

// AddSnapshot writes a new snapshot of v against the quota of v's project, with the intent to take it. The caller writes v.
func AddSnapshot(tx *store.Tx, v *cloud.Volume, s cloud.VolumeSnapshot, i cloud.Intent) error {
	if err := Take(tx, s.Project, cloud.VolumeUsage{Snapshots: 1, GiB: s.SizeGiB}); err != nil {
		return err
	}
	v.SnapshotIDs = append(v.SnapshotIDs, s.ID)
	if err := store.Create(tx, tables.VolumeSnapshots, s.ID, s); err != nil {
		return err
	}
	i.Kind, i.Volume, i.Snapshot = cloud.IntentSnapshotCreate, v.ID, s.ID
	return store.Create(tx, tables.Intents, i.ID, i)
}

// BurySnapshot removes the record of a snapshot that is no more, also from its volume's list, and gives its project back what it took. One that is gone
// already is success.
func BurySnapshot(tx *store.Tx, id cloud.SnapshotID) error {
	s, err := store.Get(tx, tables.VolumeSnapshots, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := GiveBack(tx, s.Project, cloud.VolumeUsage{Snapshots: 1, GiB: s.SizeGiB}); err != nil {
		return err
	}
	if err := store.Delete(tx, tables.VolumeSnapshots, id); err != nil {
		return err
	}
	v, err := store.Get(tx, tables.Volumes, s.Volume)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v.SnapshotIDs = slices.DeleteFunc(v.SnapshotIDs, func(have cloud.SnapshotID) bool { return have == id })
	return store.Put(tx, tables.Volumes, v.ID, v)
}

// Services gathers what placement may know of the volume services, by name.
func Services(v store.View) []placement.VolumeServiceView {
	promised := map[cloud.HostName]map[string]int64{}
	for _, volume := range store.All(v, tables.Volumes) {
		if volume.Service == "" {
			continue
		}
		if promised[volume.Service] == nil {
			promised[volume.Service] = map[string]int64{}
		}
		promised[volume.Service][volume.Backend] += volume.Bytes()
	}
	out := make([]placement.VolumeServiceView, 0, store.Count(v, tables.VolumeServices))
	for _, s := range store.All(v, tables.VolumeServices) {
		view := placement.VolumeServiceView{Service: *s, Promised: maps.Clone(promised[s.Name])}
		if r, ok := store.Lookup(v, tables.VolumeReports, s.Name); ok {
			view.Report = *r
		}
		_, view.Up = store.Lookup(v, tables.VolumeSessions, s.Name)
		out = append(out, view)
	}
	return out
}

// Snapshots returns the volume's snapshots, oldest first.
func Snapshots(r store.Reader, v cloud.VolumeID) []*cloud.VolumeSnapshot {
	out := store.By(r, tables.VolumeSnapshots, tables.ByVolume, v)
	slices.SortStableFunc(out, func(a, b *cloud.VolumeSnapshot) int { return a.Created.Compare(b.Created) })
	return out
}
