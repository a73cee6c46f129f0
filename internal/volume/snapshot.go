package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// snapshotsMax bounds a volume's metadata; Cinder's default quota for a whole project is 10.
const snapshotsMax = 4096

// Snapshot keeps the volume as it is now. Of a volume that is being written it is what a power cut would have left. One that is there is
// success.
func (s *Store) Snapshot(ctx context.Context, call Call, id cloud.SnapshotID) (Snapshot, error) {
	if err := checkID("snapshot", string(id)); err != nil {
		return Snapshot{}, err
	}
	v, m, end, err := s.beginReady(ctx, call)
	if err != nil {
		return Snapshot{}, err
	}
	defer end()
	if have, ok := m.snapshot(id); ok {
		return have, v.fail("snapshot", v.accept(m))
	}
	if len(m.Snapshots) >= snapshotsMax {
		return Snapshot{}, cloud.Errorf(cloud.KindExhausted, "snapshot: volume %s: it has %d", v.id, len(m.Snapshots))
	}
	if err := v.keep(ctx, id); err != nil {
		s.files.Remove(s.snapshotPath(v.id, id)) // Open would, too
		return Snapshot{}, v.fail("snapshot", err)
	}
	snap := Snapshot{ID: id, Bytes: m.Bytes, Created: time.Now().UTC()}
	m.Snapshots = append(slices.Clip(m.Snapshots), snap)
	if _, err := v.finish("snapshot", m); err != nil {
		return Snapshot{}, err // the file stays: whether the metadata that names it is on disk, nobody knows. Open sweeps it if not
	}
	return snap, nil
}

// keep makes a snapshot's file, durable under its name.
func (v *volume) keep(ctx context.Context, id cloud.SnapshotID) error {
	s := v.store
	if err := s.files.Mkdir(s.snapshotsDir(v.id)); err != nil {
		return err
	}
	if err := s.files.SyncDir(s.dir(v.id)); err != nil {
		return err
	}
	if err := v.duplicate(ctx, s, s.snapshotPath(v.id, id), nil); err != nil {
		return err
	}
	return s.files.SyncDir(s.snapshotsDir(v.id))
}

// duplicate makes the file to, in a store, what the volume's data is at one moment, and its content durable. With the turn.
func (v *volume) duplicate(ctx context.Context, s *Store, to string, progress func(int64)) error {
	m, _ := v.truth()
	if len(m.Ledger.Open) == 0 || v.store.noLink == "" && v.store == s {
		return s.copyFile(ctx, v.store, v.store.dataPath(v.id), to, progress)
	}
	return s.copyWith(v.store, v.store.dataPath(v.id), to, func(src file, dst *target) error {
		return v.copyLive(ctx, src, dst, m.Bytes, progress)
	})
}

// DeleteSnapshot removes a snapshot. An absent one is success.
func (s *Store) DeleteSnapshot(ctx context.Context, call Call, id cloud.SnapshotID) error {
	v, m, end, err := s.beginReady(ctx, call)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer end()
	if _, ok := m.snapshot(id); !ok {
		return v.fail("delete snapshot", v.accept(m))
	}
	m.Snapshots = slices.DeleteFunc(slices.Clone(m.Snapshots), func(sn Snapshot) bool { return sn.ID == id })
	if _, err := v.finish("delete snapshot", m); err != nil {
		return err
	}
	return v.fail("delete snapshot", s.remove(s.snapshotPath(v.id, id)))
}

// Revert makes the volume what the snapshot is; it keeps its size. cloud.KindConflict: an attachment is open.
func (s *Store) Revert(ctx context.Context, call Call, id cloud.SnapshotID) (State, error) {
	v, m, end, err := s.beginIdle(ctx, call, "revert")
	if err != nil {
		return State{}, err
	}
	defer end()
	if _, ok := m.snapshot(id); !ok {
		return State{}, cloud.Errorf(cloud.KindNotFound, "revert: volume %s: no snapshot %s", v.id, id)
	}
	return v.become(ctx, "revert", s.snapshotPath(v.id, id), m)
}

// Reimage makes the volume what a raw file is; it keeps its size and its snapshots. cloud.KindConflict: an attachment is open; cloud.KindInvalid: the file is
// larger than the volume.
func (s *Store) Reimage(ctx context.Context, call Call, path string) (State, error) {
	v, m, end, err := s.beginIdle(ctx, call, "reimage")
	if err != nil {
		return State{}, err
	}
	defer end()
	info, err := s.files.Stat(path)
	if err == nil {
		err = fits(info.bytes, m.Bytes)
	}
	if err != nil {
		return State{}, v.fail("reimage", err)
	}
	return v.become(ctx, "reimage", path, m)
}

// become puts a copy of a file in the place of the volume's data: until it is whole and durable, the volume is what it was. With the turn.
func (v *volume) become(ctx context.Context, op, from string, m meta) (State, error) {
	beside := filepath.Join(v.store.dir(v.id), revertName)
	if err := v.store.replaceData(ctx, v.id, from, beside, m.Bytes); err != nil {
		v.store.files.Remove(beside)
		return State{}, v.fail(op, err)
	}
	return v.finish(op, m)
}

func (s *Store) replaceData(ctx context.Context, id cloud.VolumeID, from, beside string, bytes int64) error {
	if err := s.copyFile(ctx, s, from, beside, nil); err != nil {
		return err
	}
	if err := s.setLength(beside, bytes); err != nil {
		return err
	}
	if err := s.files.Rename(beside, s.dataPath(id)); err != nil {
		return err
	}
	return s.files.SyncDir(s.dir(id))
}

func (m meta) snapshot(id cloud.SnapshotID) (Snapshot, bool) {
	i := slices.IndexFunc(m.Snapshots, func(sn Snapshot) bool { return sn.ID == id })
	if i < 0 {
		return Snapshot{}, false
	}
	return m.Snapshots[i], true
}

// copyFile makes the file to, in s, from one in another store or the same: by sharing blocks, or by copying what is not a hole. Its content
// is durable, its name is not.
func (s *Store) copyFile(ctx context.Context, source *Store, from, to string, progress func(int64)) error {
	return s.copyWith(source, from, to, func(src file, dst *target) error { return duplicate(ctx, src, dst, progress) })
}

func (s *Store) copyWith(source *Store, from, to string, f func(src file, dst *target) error) error {
	src, err := source.files.Open(from, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := s.openTarget(to)
	if err != nil {
		return err
	}
	err = f(src, dst)
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close())
}
