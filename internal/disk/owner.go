package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Owned reports whether the server's directory is this host's to remove: true also when there is none, or one whose maker died before
// it could say whose it is.
func (s *Store) Owned(id cloud.ServerID) (bool, error) {
	f, err := s.Files(id)
	if err != nil {
		return false, err
	}
	raw, err := os.ReadFile(filepath.Join(f.Dir, ownerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("server %s: owner of its disks: %w", id, err)
	}
	return strings.TrimSpace(string(raw)) == s.holder, nil
}

// Claim makes this host the owner of the server's directory, making the directory if need be.
func (s *Store) Claim(id cloud.ServerID) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	if owned, err := s.Owned(id); err != nil {
		return err
	} else if _, err := os.Stat(filepath.Join(f.Dir, ownerFile)); owned && err == nil {
		return nil
	}
	if err := os.MkdirAll(f.Dir, 0o711); err != nil {
		return fmt.Errorf("server %s: claim its disks: %w", id, err)
	}
	if err := writeDurably(filepath.Join(f.Dir, ownerFile), []byte(s.holder+"\n"), 0o644); err != nil {
		return fmt.Errorf("server %s: claim its disks: %w", id, err)
	}
	return syncDir(s.path(instancesDir))
}
