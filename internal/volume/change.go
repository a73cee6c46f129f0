package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	sectorBytes = 512
	// sizeMax keeps arithmetic on offsets away from its limits; file systems have lower ones.
	sizeMax = int64(1) << 56
)

func checkSize(id cloud.VolumeID, n int64) error {
	if n <= 0 || n%sectorBytes != 0 || n > sizeMax {
		return cloud.Errorf(cloud.KindInvalid, "volume %s: size %d: a positive multiple of %d", id, n, sectorBytes)
	}
	return nil
}

func (l Limits) check(id cloud.VolumeID) error {
	if l.IOPS < 0 || l.BytesPerSecond < 0 {
		return cloud.Errorf(cloud.KindInvalid, "volume %s: limits %d IOPS, %d bytes per second: none may be negative", id, l.IOPS, l.BytesPerSecond)
	}
	return nil
}

// writeMeta makes m the durable truth: written beside, synced, put in the place of the old. The two files change places, so that the next change finds
// one whose space it can use: on a disk that is full, a volume can still be detached, handed over and deleted.
func (s *Store) writeMeta(m meta) error {
	raw, err := m.encode()
	if err != nil {
		return err
	}
	dir := s.dir(m.ID)
	next, now := filepath.Join(dir, metaNextName), filepath.Join(dir, metaName)
	if err := s.overwrite(next, raw); err != nil {
		return err
	}
	err = s.files.Exchange(next, now)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoExchange) {
		err = s.files.Rename(next, now)
	}
	if err != nil {
		return err
	}
	return s.files.SyncDir(dir)
}

// overwrite makes a file of these bytes, durable, in the space that it has.
func (s *Store) overwrite(path string, raw []byte) error {
	f, err := s.files.Open(path, os.O_CREATE|os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(raw, 0)
	if err == nil {
		err = f.Truncate(int64(len(raw)))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// begin takes the volume's turn and passes the call through the gate of generations. m is the metadata to go on from. end gives the turn back; it is nil
// with an error.
func (v *volume) begin(ctx context.Context, call Call) (m meta, end func(), err error) {
	if err := v.take(ctx); err != nil {
		return meta{}, nil, err
	}
	m, err = v.truth()
	if err == nil && call.Generation < m.Generation {
		err = cloud.Errorf(cloud.KindStale, "volume %s: decided on generation %d, but %d was accepted", v.id, call.Generation, m.Generation)
	}
	if err == nil && v.store.life.Err() != nil {
		err = cloud.E(cloud.KindUnavailable, "", "volume "+string(v.id), errStoreClosed)
	}
	if err != nil {
		v.give()
		return meta{}, nil, err
	}
	m.Generation = call.Generation
	return m, func() { v.settle(); v.give() }, nil
}

// accept makes the greatest generation durable, where a call has nothing else to change.
func (v *volume) accept(m meta) error {
	if now, _ := v.truth(); m.Generation == now.Generation {
		return nil
	}
	return v.commit(m)
}

// beginReady is begin for volumes that must be there.
func (s *Store) beginReady(ctx context.Context, call Call) (v *volume, m meta, end func(), err error) {
	v = s.lookup(call.Volume)
	if v == nil {
		return nil, meta{}, nil, cloud.Errorf(cloud.KindNotFound, "volume %s: no such volume", call.Volume)
	}
	m, end, err = v.begin(ctx, call)
	if err == nil && m.Phase != phaseReady {
		end()
		err = cloud.Errorf(cloud.KindNotFound, "volume %s: no such volume", call.Volume)
	}
	if err != nil {
		return nil, meta{}, nil, err
	}
	return v, m, end, nil
}

// beginIdle is beginReady for what cannot be done while an attachment is open.
func (s *Store) beginIdle(ctx context.Context, call Call, op string) (v *volume, m meta, end func(), err error) {
	v, m, end, err = s.beginReady(ctx, call)
	if err == nil && len(m.Ledger.Open) > 0 {
		end()
		return nil, meta{}, nil, cloud.Errorf(cloud.KindConflict, "%s: volume %s: attachment %s is open", op, call.Volume, m.Ledger.Open[0].ID)
	}
	return v, m, end, err
}

// finish commits and describes.
func (v *volume) finish(op string, next meta) (State, error) {
	next.Updated = time.Now().UTC()
	if err := v.commit(next); err != nil {
		return State{}, v.fail(op, err)
	}
	return v.state(next)
}

// Extend grows the volume. Connected clients may use the new size when it returns. A volume of that size or more stays as it is.
func (s *Store) Extend(ctx context.Context, call Call, bytes int64) (State, error) {
	if err := checkSize(call.Volume, bytes); err != nil {
		return State{}, err
	}
	v, m, end, err := s.beginReady(ctx, call)
	if err != nil {
		return State{}, err
	}
	defer end()
	grown := bytes > m.Bytes
	if grown {
		if err := s.lengthen(s.dataPath(v.id), bytes); err != nil {
			return State{}, v.fail("extend", err)
		}
	}
	m.Bytes = max(m.Bytes, bytes)
	st, err := v.finish("extend", m)
	if err == nil && grown {
		v.announce(bytes)
	}
	return st, err
}

// lengthen makes a file at least so long. It may be longer, from an extension that failed when nobody knows how much of it is on disk.
func (s *Store) lengthen(path string, bytes int64) error {
	info, err := s.files.Stat(path)
	if err != nil {
		return err
	}
	return s.setLength(path, max(bytes, info.bytes))
}

// setLength makes a file so long, durably.
func (s *Store) setLength(path string, bytes int64) error {
	f, err := s.files.Open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	err = f.Truncate(bytes)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// announce tells the connections of a new size.
func (v *volume) announce(bytes int64) {
	v.mu.Lock()
	var tell []func(int64)
	for l := range v.leases {
		if l.resized != nil {
			tell = append(tell, l.resized)
		}
	}
	v.mu.Unlock()
	for _, f := range tell {
		f(bytes)
	}
}

// SetLimits changes what the volume's clients may use, at once.
func (s *Store) SetLimits(ctx context.Context, call Call, limits Limits) (State, error) {
	if err := limits.check(call.Volume); err != nil {
		return State{}, err
	}
	v, m, end, err := s.beginReady(ctx, call)
	if err != nil {
		return State{}, err
	}
	defer end()
	m.Limits = limits
	st, err := v.finish("set limits", m)
	if err == nil {
		v.limiter.Set(limits)
	}
	return st, err
}

// Delete removes the volume. cloud.KindConflict: an attachment is open, or it has snapshots. An absent volume is success. A creation under way
// is ended.
func (s *Store) Delete(ctx context.Context, call Call) error {
	s.endMaking(call)
	v, err := s.volume(call.Volume)
	if err != nil {
		return err
	}
	m, end, err := v.begin(ctx, call)
	if err != nil {
		return err
	}
	defer end()
	if s.deletions.Add(1)%forgetEvery == 0 {
		s.later(s.forget)
	}
	switch {
	case len(m.Ledger.Open) > 0:
		return cloud.Errorf(cloud.KindConflict, "delete: volume %s: attachment %s is open", v.id, m.Ledger.Open[0].ID)
	case len(m.Snapshots) > 0:
		return cloud.Errorf(cloud.KindConflict, "delete: volume %s: it has %d snapshots", v.id, len(m.Snapshots))
	}
	return v.makeGone(m)
}

// makeGone forgets all of the volume but its generation, then removes its files. With the turn.
func (v *volume) makeGone(m meta) error {
	if err := v.store.makeDir(v.id); err != nil { // of a volume never heard of: the request that is to make it may still come
		return v.fail("delete", err)
	}
	gone := meta{ID: v.id, Phase: phaseGone, Generation: m.Generation, Updated: time.Now().UTC()}
	if err := v.commit(gone); err != nil {
		return v.fail("delete", err)
	}
	return v.fail("delete", v.store.sweep(gone))
}

// endMaking ends the creation of the volume that is under way, if a newer decision says so.
func (s *Store) endMaking(call Call) {
	v := s.lookup(call.Volume)
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stopMake != nil && call.Generation >= v.making {
		v.stopMake(cloud.Errorf(cloud.KindCancelled, "volume %s: it is to be deleted", v.id))
	}
}

// makeDir makes the volume's directory and its name durable.
func (s *Store) makeDir(id cloud.VolumeID) error {
	if err := s.files.Mkdir(s.dir(id)); err != nil {
		return err
	}
	return s.files.SyncDir(filepath.Join(s.o.Dir, volumesName))
}

// sweep removes what m does not speak of.
func (s *Store) sweep(m meta) error {
	dir := s.dir(m.ID)
	names, err := s.files.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case name == metaName, name == metaNextName, m.Phase == phaseReady && name == dataName:
		case name == snapshotsName:
			err = s.sweepSnapshots(m)
		default:
			err = s.remove(filepath.Join(dir, name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file or an empty directory that may be gone already.
func (s *Store) remove(path string) error {
	if err := s.files.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) sweepSnapshots(m meta) error {
	dir := s.snapshotsDir(m.ID)
	names, err := s.files.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.ContainsFunc(m.Snapshots, func(sn Snapshot) bool { return string(sn.ID) == name }) {
			continue
		}
		if err := s.remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if m.Phase != phaseReady {
		return s.remove(dir)
	}
	return nil
}
