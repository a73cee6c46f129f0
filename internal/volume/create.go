package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Create makes a volume and fills it; it returns when the data is durable. A second call waits for the first and returns what it made; if the first
// failed, the second is an attempt of its own. When it fails, nothing is left. cloud.KindExhausted: the back end is full; cloud.KindInvalid: the
// source is larger than the volume, or not fit to be used; cloud.KindCancelled: ctx ended, or Delete was called.
func (s *Store) Create(ctx context.Context, call Call, spec Spec) (State, error) {
	if err := errors.Join(checkSize(call.Volume, spec.Bytes), spec.Limits.check(call.Volume), spec.Source.check(call.Volume)); err != nil {
		return State{}, cloud.E(cloud.KindInvalid, "create", "", err)
	}
	v, err := s.volume(call.Volume)
	if err != nil {
		return State{}, err
	}
	m, end, err := v.begin(ctx, call)
	if err != nil {
		return State{}, err
	}
	defer end()
	if m.Phase == phaseReady {
		if err := v.accept(m); err != nil {
			return State{}, v.fail("create", err)
		}
		return v.state(m)
	}
	ctx, stop := v.stoppable(ctx, call.Generation)
	defer stop()
	making := meta{ID: v.id, Phase: phaseMaking, Generation: m.Generation, Bytes: spec.Bytes, Limits: spec.Limits, Updated: time.Now().UTC()}
	return v.make(making, "create", func() error { return s.fill(ctx, v.id, spec) })
}

// make makes a volume: the directory, its data by fill, and then says that it is there. With the turn. When it fails, nothing is left.
func (v *volume) make(m meta, op string, fill func() error) (State, error) {
	s := v.store
	err := s.makeDir(v.id)
	if err == nil {
		err = v.commit(m)
	}
	if err == nil {
		err = fill()
	}
	if err == nil {
		err = s.files.SyncDir(s.dir(v.id))
	}
	if err != nil {
		v.unmake(m)
		return State{}, v.fail(op, err)
	}
	ready := m
	ready.Phase = phaseReady
	st, err := v.finish(op, ready)
	if err != nil {
		// Whether the disk says "ready" nobody knows, so say the other thing before taking the data away.
		if v.commit(m) == nil {
			v.unmake(m)
		}
		return State{}, err
	}
	v.limiter.Set(m.Limits)
	return st, nil
}

// unmake removes what a creation has left; what cannot be removed now, the next Open removes. The generation is remembered as long as the Store is open.
func (v *volume) unmake(m meta) {
	v.mu.Lock()
	v.meta = meta{ID: v.id, Phase: phaseGone, Generation: m.Generation}
	v.size.Store(0)
	v.mu.Unlock()
	if err := v.store.removeUnmade(m); err != nil {
		v.store.log.Warn("what is left of a volume that was not made waits for the next start", "volume", v.id, "error", err)
	}
}

// removeUnmade removes a volume's directory. The metadata, which says that the rest is worth nothing, goes after the rest.
func (s *Store) removeUnmade(m meta) error {
	m.Phase, m.Snapshots = phaseGone, nil
	dir := s.dir(m.ID)
	if err := s.sweep(m); err != nil {
		return err
	}
	if err := s.files.SyncDir(dir); err != nil {
		return err
	}
	for _, name := range []string{metaNextName, metaName} {
		if err := s.remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return s.remove(dir)
}

// stoppable makes a creation's context, which ends with the Store, and when Delete is called with no older decision.
func (v *volume) stoppable(ctx context.Context, generation int64) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stopAfter := context.AfterFunc(v.store.life, func() { cancel(errStoreClosed) })
	v.mu.Lock()
	v.stopMake, v.making = cancel, generation
	v.mu.Unlock()
	return ctx, func() {
		v.mu.Lock()
		v.stopMake = nil
		v.mu.Unlock()
		stopAfter()
		cancel(nil)
	}
}

// check refuses sources that make no sense.
func (src Source) check(id cloud.VolumeID) error {
	kinds := 0
	for _, set := range []bool{src.Path != "", src.Raw != nil, src.Volume != ""} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return cloud.Errorf(cloud.KindInvalid, "volume %s: more than one source", id)
	case src.Snapshot != "" && src.Volume == "":
		return cloud.Errorf(cloud.KindInvalid, "volume %s: snapshot %s of no volume", id, src.Snapshot)
	case src.Snapshot != "":
		return checkID("snapshot", string(src.Snapshot))
	default:
		return nil
	}
}

// fill makes the data file, of the volume's size and durable; its name is not.
func (s *Store) fill(ctx context.Context, id cloud.VolumeID, spec Spec) error {
	src, to := spec.Source, s.dataPath(id)
	var err error
	switch {
	case src.Volume != "":
		err = s.fillFromVolume(ctx, to, spec)
	case src.Raw != nil:
		err = s.write(to, func(f file) error { return copyStream(ctx, src.Raw, f, spec.Bytes, spec.Progress) })
	case src.Path != "":
		err = s.fillFromRaw(ctx, to, spec)
	default:
		err = s.write(to, func(file) error { return nil })
	}
	if err != nil {
		return err
	}
	return s.setLength(to, spec.Bytes)
}

// write makes a file anew with what f writes into it.
func (s *Store) write(path string, f func(file) error) error {
	to, err := s.files.Open(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC)
	if err != nil {
		return err
	}
	return errors.Join(f(to), to.Close())
}

func (s *Store) fillFromRaw(ctx context.Context, to string, spec Spec) error {
	info, err := s.files.Stat(spec.Source.Path)
	if err != nil {
		return err
	}
	if err := fits(info.bytes, spec.Bytes); err != nil {
		return err
	}
	return s.copyFile(ctx, s, spec.Source.Path, to, spec.Progress)
}

func (s *Store) fillFromVolume(ctx context.Context, to string, spec Spec) error {
	from := spec.Source.Store
	if from == nil {
		from = s
	}
	v := from.lookup(spec.Source.Volume)
	if v == nil {
		return cloud.Errorf(cloud.KindNotFound, "source volume %s: no such volume", spec.Source.Volume)
	}
	m, err := v.truth()
	if err == nil && m.Phase != phaseReady { // asked before its turn is waited for: two volumes made of each other must not wait for each other
		err = cloud.Errorf(cloud.KindNotFound, "source volume %s: no such volume", v.id)
	}
	if err != nil {
		return err
	}
	if spec.Source.Snapshot == "" {
		return v.duplicateInto(ctx, s, to, spec)
	}
	snap, ok := m.snapshot(spec.Source.Snapshot)
	if !ok {
		return cloud.Errorf(cloud.KindNotFound, "source volume %s: no snapshot %s", v.id, spec.Source.Snapshot)
	}
	if err := fits(snap.Bytes, spec.Bytes); err != nil {
		return err
	}
	return s.copyFile(ctx, from, from.snapshotPath(v.id, snap.ID), to, spec.Progress)
}

// duplicateInto copies the volume's data, as it is at one moment, into a file of another volume.
func (v *volume) duplicateInto(ctx context.Context, s *Store, to string, spec Spec) error {
	if err := v.take(ctx); err != nil {
		return err
	}
	defer v.give()
	defer v.settle()
	m, err := v.truth()
	if err != nil {
		return err
	}
	if m.Phase != phaseReady {
		return cloud.Errorf(cloud.KindNotFound, "source volume %s: no such volume", v.id)
	}
	if err := fits(m.Bytes, spec.Bytes); err != nil {
		return err
	}
	return v.duplicate(ctx, s, to, spec.Progress)
}

// fits says whether a source of n bytes fits into a volume.
func fits(n, volumeBytes int64) error {
	if n > volumeBytes {
		return cloud.Errorf(cloud.KindInvalid, "%w: its data is %d bytes, the volume %d", errTooLong, n, volumeBytes)
	}
	return nil
}
