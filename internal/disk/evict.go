package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// BaseIdleMax is how long a base that no disk uses is kept: long enough that a fleet that boots the same image every working day fetches it
// once, short enough that abandoned images do not fill the disk.
const BaseIdleMax = 7 * 24 * time.Hour

// partIdleMax is how long an interrupted fetch waits to be resumed.
const partIdleMax = 24 * time.Hour

// Evict removes bases that no disk on this host uses and nobody asked for since idleMax before now, and fetches abandoned for a day. It
// returns what it removed. When it cannot read some disk it removes nothing: that disk may need any of them.
func (s *Store) Evict(now time.Time, idleMax time.Duration) (removed []string, err error) {
	used, err := s.basesInUse()
	if err != nil {
		return nil, fmt.Errorf("evict base images: %w", err)
	}
	entries, err := os.ReadDir(s.path(imagesDir))
	if err != nil {
		return nil, fmt.Errorf("evict base images: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || used[e.Name()] {
			continue
		}
		limit := idleMax
		if filepath.Ext(e.Name()) == partSuffix {
			limit = max(limit, partIdleMax)
		}
		if now.Sub(info.ModTime()) < limit || s.beingFetched(e.Name()) {
			continue
		}
		if err := os.Remove(s.path(imagesDir, e.Name())); err != nil {
			return removed, fmt.Errorf("evict base images: %w", err)
		}
		s.log.Info("base image evicted", "sha512", e.Name(), "idle", now.Sub(info.ModTime()))
		removed = append(removed, e.Name())
	}
	return removed, nil
}

func (s *Store) beingFetched(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches[name] != nil || s.fetches[trimPart(name)] != nil
}

func trimPart(name string) string {
	if filepath.Ext(name) == partSuffix {
		return name[:len(name)-len(partSuffix)]
	}
	return name
}

// basesInUse reads every overlay for the name of its base.
func (s *Store) basesInUse() (map[string]bool, error) {
	disks, err := filepath.Glob(s.path(instancesDir, anyServer, "disk*"))
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, disk := range disks {
		h, err := headerOf(disk)
		if errors.Is(err, errNotQCOW2) || errors.Is(err, fs.ErrNotExist) {
			continue // a config drive; a server that is just going
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", disk, err)
		}
		if filepath.Dir(h.Backing) == s.path(imagesDir) {
			used[filepath.Base(h.Backing)] = true
		}
	}
	return used, nil
}

func headerOf(path string) (Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	return ReadHeader(f)
}
