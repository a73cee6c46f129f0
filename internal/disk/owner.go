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

// An owner file has the holder's identity and, when the directory was another host's before, the word taken: then the disks in it are older than this
// host's part in them, and nothing that was tried in vain here may remove them.
const takenWord = "taken"

// Owned reports whether the server's directory is this host's to remove: true also when there is none, or one whose maker died before
// it could say whose it is.
func (s *Store) Owned(id cloud.ServerID) (bool, error) {
	holder, _, err := s.ownerOf(id)
	return holder == "" || holder == s.holder, err
}

// Taken reports whether the server's directory was another host's before it became this one's.
func (s *Store) Taken(id cloud.ServerID) (bool, error) {
	holder, taken, err := s.ownerOf(id)
	return holder == s.holder && taken, err
}

// ownerOf reads the owner file; no file is no holder.
func (s *Store) ownerOf(id cloud.ServerID) (holder string, taken bool, err error) {
	f, err := s.Files(id)
	if err != nil {
		return "", false, err
	}
	raw, err := os.ReadFile(filepath.Join(f.Dir, ownerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("server %s: owner of its disks: %w", id, err)
	}
	holder, word, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	return holder, word == takenWord, nil
}

// Claim makes this host the owner of the server's directory, making the directory if need be.
func (s *Store) Claim(id cloud.ServerID) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	before, _, err := s.ownerOf(id)
	if err != nil || before == s.holder {
		return err
	}
	text := s.holder + "\n"
	if before != "" {
		text = s.holder + " " + takenWord + "\n"
	}
	if err := os.MkdirAll(f.Dir, 0o711); err != nil {
		return fmt.Errorf("server %s: claim its disks: %w", id, err)
	}
	if err := writeDurably(filepath.Join(f.Dir, ownerFile), []byte(text), 0o644); err != nil {
		return fmt.Errorf("server %s: claim its disks: %w", id, err)
	}
	return syncDir(s.path(instancesDir))
}
