package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// configLabel is how cloud-init finds a config drive.
	configLabel = "config-2"
	// qemuImgMax bounds one run of qemu-img that makes an empty overlay: milliseconds, unless the file system hangs.
	qemuImgMax = 60 * time.Second
)

// Root says what a server's root disk is.
type Root struct {
	Base  Base
	Bytes int64 // virtual size; 0: the image's
}

// RemakeRoot makes the server's root disk empty, for a migration to fill: what an earlier stay or an attempt that failed left in an overlay
// would shine through wherever the source's has nothing. No process may have the disk open. The disk of another host's directory
// (see Owned) is left as it is, because then it is the very disk the guest runs on.
func (s *Store) RemakeRoot(ctx context.Context, id cloud.ServerID, root Root) error {
	owned, err := s.Owned(id)
	if err != nil {
		return err
	}
	if !owned {
		if !s.Present(id) {
			return cloud.Errorf(cloud.KindConflict, "server %s: its directory belongs to another host and has no disk", id)
		}
		_, _, err := s.EnsureBase(ctx, root.Base) // the directory is shared, the bases are each host's own
		return err
	}
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	if err := os.Remove(f.Root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("server %s: disk: %w", id, err)
	}
	_, err = s.EnsureRoot(ctx, id, root)
	return err
}

// EnsureRoot makes the server's root disk, an overlay on its base, and returns whether it made it: false means that it was there. A disk that is
// there but is not what root says is KindConflict; a size below the image's is KindInvalid.
func (s *Store) EnsureRoot(ctx context.Context, id cloud.ServerID, root Root) (made bool, err error) {
	f, err := s.Files(id)
	if err != nil {
		return false, err
	}
	base, imageBytes, err := s.EnsureBase(ctx, root.Base)
	if err != nil {
		return false, err
	}
	if root.Bytes == 0 {
		root.Bytes = imageBytes
	}
	if root.Bytes < imageBytes {
		return false, cloud.Errorf(cloud.KindInvalid, "server %s: a disk of %d bytes cannot hold image %s of %d", id, root.Bytes, root.Base.Image, imageBytes)
	}
	h, err := headerOf(f.Root)
	switch {
	case err == nil && h.Backing == base && h.VirtualBytes == roundUp(root.Bytes):
		return false, nil
	case err == nil:
		return false, cloud.Errorf(cloud.KindConflict, "server %s: its disk is %d bytes on %s, not %d on %s", id, h.VirtualBytes, h.Backing, root.Bytes, base)
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("server %s: disk: %w", id, err)
	}
	if err := s.Claim(id); err != nil {
		return false, err
	}
	if err := s.makeOverlay(ctx, f, base, root); err != nil {
		return false, fmt.Errorf("server %s: %w", id, err)
	}
	return true, nil
}

// roundUp is what QEMU makes of a size: whole sectors.
func roundUp(bytes int64) int64 { return (bytes + 511) &^ 511 }

func (s *Store) makeOverlay(ctx context.Context, f Files, base string, root Root) error {
	temp := f.Root + tempSuffix
	// The names come from us (a UUID, a hash): no option syntax can hide in them.
	if err := s.run(ctx, "create", "-q", "-f", FormatQCOW2, "-F", root.Base.Format, "-b", base, temp, strconv.FormatInt(root.Bytes, 10)); err != nil {
		os.Remove(temp)
		return err
	}
	file, err := os.OpenFile(temp, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	if err := commit(file, nil, f.Root); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

// EnsureRootless makes the directory of a server that boots from a volume: it has a console and perhaps a config drive, and no disk. In a
// directory that another host holds, nothing is to be made.
func (s *Store) EnsureRootless(id cloud.ServerID) error {
	f, err := s.Files(id)
	if err != nil || s.Present(id) {
		return err
	}
	if err := s.Claim(id); err != nil {
		return err
	}
	if err := writeDurably(f.rootless, nil, 0o644); err != nil {
		return fmt.Errorf("server %s: %w", id, err)
	}
	return nil
}

// WriteConfig makes the server's config drive of the given files (path on the volume to data), replacing an older one. In another host's
// directory the drive is left as that host wrote it.
func (s *Store) WriteConfig(id cloud.ServerID, files map[string][]byte) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	if owned, err := s.Owned(id); err != nil || !owned {
		return err
	}
	volume, err := writeISO(files)
	if err != nil {
		return cloud.E(cloud.KindInvalid, "config drive", fmt.Sprintf("server %s", id), err)
	}
	if old, err := os.ReadFile(f.Config); err == nil && bytes.Equal(old, volume) {
		return nil
	}
	if err := s.Claim(id); err != nil {
		return err
	}
	if err := writeDurably(f.Config, volume, 0o600); err != nil { // may hold a password
		return fmt.Errorf("server %s: config drive: %w", id, err)
	}
	return nil
}

// run calls qemu-img for something that takes no time and quotes its last words when it fails.
func (s *Store) run(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, qemuImgMax)
	defer cancel()
	return s.runLong(ctx, args...)
}

// runLong is run for work whose end the caller bounds.
func (s *Store) runLong(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, s.qemuImg, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}
