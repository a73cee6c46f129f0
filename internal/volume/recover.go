package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// goneAgeMax is how long a deleted volume's generation is remembered: no decision is carried out a week late. goneCountMax keeps a back end whose
	// volumes come and go all day from reading ever more files at its start.
	goneAgeMax   = 7 * 24 * time.Hour
	goneCountMax = 4096
	// forgetEvery is after how many deletions a Store looks for volumes to forget.
	forgetEvery = 256
)

// recover reads what is there and removes what operations that were cut short have left.
func (s *Store) recover(ctx context.Context) error {
	root := filepath.Join(s.o.Dir, volumesName)
	names, err := s.files.List(root)
	if err != nil {
		return err
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !validID.MatchString(name) {
			s.log.Warn("not a volume, left alone", "path", filepath.Join(root, name))
			continue
		}
		if err := s.load(cloud.VolumeID(name)); err != nil {
			s.addDamaged(cloud.VolumeID(name), err)
		}
	}
	s.forget()
	return nil
}

// load brings one volume into memory, or removes what is left of one. An error means that nothing can be done with the volume before the next Open.
func (s *Store) load(id cloud.VolumeID) error {
	m, err := s.readMeta(id)
	if errors.Is(err, fs.ErrNotExist) {
		return s.loadBare(id)
	}
	if err != nil {
		return fmt.Errorf("its metadata file is damaged: %w", err)
	}
	switch m.Phase {
	case phaseMaking:
		s.log.Info("removing a volume whose creation was cut short", "volume", id)
		return s.removeUnmade(m)
	case phaseGone:
		s.add(m)
		return s.sweep(m)
	case phaseReady:
		if err := s.sweep(m); err != nil {
			return err
		}
		return s.loadReady(m)
	default:
		return fmt.Errorf("its metadata says phase %q", m.Phase)
	}
}

// loadBare deals with a directory that has no metadata: it comes before anything else, so there can be nothing else, or something is amiss.
func (s *Store) loadBare(id cloud.VolumeID) error {
	names, err := s.files.List(s.dir(id))
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(names, func(n string) bool { return n != metaNextName }); i >= 0 {
		return fmt.Errorf("it has %s but no metadata file", names[i])
	}
	for _, name := range names {
		if err := s.remove(filepath.Join(s.dir(id), name)); err != nil {
			return err
		}
	}
	return s.remove(s.dir(id))
}

// loadReady checks the data against the metadata.
func (s *Store) loadReady(m meta) error {
	info, err := s.files.Stat(s.dataPath(m.ID))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("its data file is missing")
	case err != nil:
		return err
	case info.bytes < m.Bytes:
		return fmt.Errorf("its data file has %d bytes instead of %d", info.bytes, m.Bytes)
	case info.bytes > m.Bytes: // an extension nobody was told of; nobody wrote there
		if err := s.setLength(s.dataPath(m.ID), m.Bytes); err != nil {
			return err
		}
	}
	for _, snap := range m.Snapshots {
		if _, err := s.files.Stat(s.snapshotPath(m.ID, snap.ID)); err != nil {
			s.log.Error("a snapshot cannot be used", "volume", m.ID, "snapshot", snap.ID, "error", err)
		}
	}
	v := s.add(m)
	v.size.Store(m.Bytes)
	v.limiter.Set(m.Limits)
	return v.openData(len(m.Ledger.Open) > 0)
}

func (s *Store) add(m meta) *volume {
	v := newVolume(s, m.ID)
	v.meta = m
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes[m.ID] = v
	return v
}

// addDamaged remembers a volume that cannot be used. Its files stay as they are.
func (s *Store) addDamaged(id cloud.VolumeID, why error) {
	v := s.add(meta{ID: id})
	v.damage = cloud.Errorf(cloud.KindInternal, "volume %s is damaged: %w; its files in %s are left as they are", id, why, s.dir(id))
	s.log.Error("a volume is damaged", "volume", id, "dir", s.dir(id), "why", why)
}

func (s *Store) readMeta(id cloud.VolumeID) (meta, error) {
	f, err := s.files.Open(filepath.Join(s.dir(id), metaName), os.O_RDONLY)
	if err != nil {
		return meta{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, metaBytesMax+1))
	if err != nil {
		return meta{}, err
	}
	if len(raw) > metaBytesMax {
		return meta{}, fmt.Errorf("it is larger than %d bytes", metaBytesMax)
	}
	return decodeMeta(id, raw)
}

// forget removes the memory of volumes that have been gone for long, and of the oldest if there are too many. What cannot be removed now is removed
// another time.
func (s *Store) forget() {
	var gone []*volume
	when := map[*volume]time.Time{}
	for _, v := range s.all() {
		if m, err := v.truth(); err == nil && m.Phase == phaseGone {
			gone = append(gone, v)
			when[v] = m.Updated
		}
	}
	slices.SortFunc(gone, func(a, b *volume) int { return when[b].Compare(when[a]) })
	for i, v := range gone {
		if i < goneCountMax && time.Since(when[v]) < goneAgeMax {
			continue
		}
		if err := s.forgetOne(v); err != nil {
			s.log.Warn("the memory of a deleted volume stays for now", "volume", v.id, "error", err)
		}
	}
}

// forgetOne removes the memory of a volume that is gone, unless somebody has its turn.
func (s *Store) forgetOne(v *volume) error {
	select {
	case v.turn <- struct{}{}:
		defer v.give()
	default:
		return nil
	}
	m, err := v.truth()
	if err != nil || m.Phase != phaseGone {
		return err
	}
	if err := s.removeUnmade(m); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was never made there is no directory
		return err
	}
	v.mu.Lock()
	v.damage = cloud.Errorf(cloud.KindUnavailable, "volume %s: it is being forgotten; ask again", v.id) // for those who wait for its turn
	v.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, v.id)
	return nil
}
