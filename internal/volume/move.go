package volume

import (
	"context"
	"errors"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Move moves a volume, its snapshots included, to another back end of the same service. Epochs go on where they were. cloud.KindConflict: an
// attachment is open. For a moment the volume is in both, and a crash then leaves it in both: see Settle.
func (s *Store) Move(ctx context.Context, call Call, to *Store) (State, error) {
	if s == to {
		return s.Inspect(ctx, call.Volume)
	}
	v, w, end, err := s.beginMove(ctx, call, to)
	if err != nil {
		return State{}, err
	}
	defer end()
	here, err := v.truth()
	if err != nil {
		return State{}, err
	}
	there, err := w.truth()
	if err != nil {
		return State{}, err
	}
	here.Generation = call.Generation
	switch {
	case here.Phase != phaseReady && there.Phase == phaseReady:
		return w.state(there) // an earlier call did it
	case here.Phase != phaseReady:
		return State{}, cloud.Errorf(cloud.KindNotFound, "move: volume %s: no such volume in back end %s", v.id, s.Name())
	case len(here.Ledger.Open) > 0:
		return State{}, cloud.Errorf(cloud.KindConflict, "move: volume %s: attachment %s is open", v.id, here.Ledger.Open[0].ID)
	case there.Phase == phaseReady && there.Moves > here.Moves:
		return v.leaveFor(w, here, there) // an earlier call got as far as that
	}
	m := here
	m.Phase, m.Moves = phaseMaking, here.Moves+1
	if _, err := w.make(m, "move", func() error { return w.fillMoved(ctx, v, m) }); err != nil {
		return State{}, err
	}
	there, err = w.truth()
	if err != nil {
		return State{}, err
	}
	return v.leaveFor(w, here, there)
}

// leaveFor removes the volume, which is now w.
func (v *volume) leaveFor(w *volume, here, there meta) (State, error) {
	if err := v.makeGone(here); err != nil {
		return State{}, err
	}
	return w.state(there)
}

// beginMove takes the volume's turn in both stores, in an order that does not depend on the direction.
func (s *Store) beginMove(ctx context.Context, call Call, to *Store) (from, target *volume, end func(), err error) {
	from = s.lookup(call.Volume)
	if from == nil && to.lookup(call.Volume) == nil {
		return nil, nil, nil, cloud.Errorf(cloud.KindNotFound, "move: volume %s: no such volume", call.Volume)
	}
	from, err = s.volume(call.Volume)
	if err != nil {
		return nil, nil, nil, err
	}
	target, err = to.volume(call.Volume)
	if err != nil {
		return nil, nil, nil, err
	}
	first, second := from, target
	if s.o.Dir > to.o.Dir {
		first, second = target, from
	}
	_, endFirst, err := first.begin(ctx, call)
	if err != nil {
		return nil, nil, nil, err
	}
	_, endSecond, err := second.begin(ctx, call)
	if err != nil {
		endFirst()
		return nil, nil, nil, err
	}
	return from, target, func() { endSecond(); endFirst() }, nil
}

// fillMoved copies the data and the snapshots of the volume from, whose turn is held.
func (v *volume) fillMoved(ctx context.Context, from *volume, m meta) error {
	s, src := v.store, from.store
	if err := s.copyFile(ctx, src, src.dataPath(v.id), s.dataPath(v.id), nil); err != nil {
		return err
	}
	if len(m.Snapshots) == 0 {
		return nil
	}
	if err := s.files.Mkdir(s.snapshotsDir(v.id)); err != nil {
		return err
	}
	for _, snap := range m.Snapshots {
		if err := s.copyFile(ctx, src, src.snapshotPath(v.id, snap.ID), s.snapshotPath(v.id, snap.ID), nil); err != nil {
			return err
		}
	}
	return s.files.SyncDir(s.snapshotsDir(v.id))
}

// Settle ends the moves that a crash cut short between the stores of one service: of a volume that is in two, the one that was moved last
// stays. Call it before any of them is used.
func Settle(_ context.Context, stores ...*Store) error {
	latest := map[cloud.VolumeID]*volume{}
	var errs []error
	for _, s := range stores {
		for _, id := range s.List() {
			v, old := s.lookup(id), latest[id]
			if v.damage != nil {
				continue
			}
			if old == nil {
				latest[id] = v
				continue
			}
			loser := old
			if v.meta.Moves < old.meta.Moves {
				loser = v
			} else {
				latest[id] = v
			}
			s.log.Info("ending a move that was cut short", "volume", id, "leaves", loser.store.Name(), "stays", latest[id].store.Name())
			errs = append(errs, loser.makeGone(loser.meta))
		}
	}
	return errors.Join(errs...)
}
