package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// scratch is a directory of a section's own: on an XFS file system in a loop file (direct I/O to the file below, so that nothing is cached
// twice), or on the file system of the temporary directory.
type scratch struct {
	dir    string
	base   string // holds the loop file and the mount point
	device string // loop device; empty if there is none
	what   string // for the report
}

// newScratch makes one. bytes is the size of the XFS file system; it is sparse.
func newScratch(ctx context.Context, xfs bool, bytes int64) (_ *scratch, err error) {
	base, err := os.MkdirTemp("", "godwit-bench-")
	if err != nil {
		return nil, err
	}
	s := &scratch{dir: base, base: base}
	if !xfs {
		s.what, err = fileSystemOf(base)
		return s, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove(ctx))
		}
	}()
	image := filepath.Join(base, "xfs")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(image, bytes); err != nil {
		return nil, err
	}
	mkfs, err := program("mkfs.xfs", "xfsprogs")
	if err != nil {
		return nil, err
	}
	if _, err := run(ctx, mkfs, "-q", "-m", "reflink=1", image); err != nil {
		return nil, err
	}
	if s.device, err = run(ctx, "losetup", "--find", "--show", "--direct-io=on", image); err != nil {
		return nil, err
	}
	below, err := fileSystemOf(base)
	if err != nil {
		return nil, err
	}
	s.dir, s.what = filepath.Join(base, "mnt"), "XFS in a loop file (direct I/O) on "+below
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	return s, unix.Mount(s.device, s.dir, "xfs", unix.MS_NOATIME, "")
}

// remove gives everything back.
func (s *scratch) remove(ctx context.Context) error {
	var errs []error
	if s.dir != s.base {
		if err := unix.Unmount(s.dir, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", s.dir, err))
		}
	}
	if s.device != "" {
		_, err := run(ctx, "losetup", "--detach", s.device)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(s.base))...)
}

// fileSystemOf names the type of the file system that holds path.
func fileSystemOf(path string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "", err
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "XFS", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	case unix.TMPFS_MAGIC:
		return "", fmt.Errorf("%s is on tmpfs, which io_uring serves through worker threads and O_DIRECT not at all: set TMPDIR to a disk", path)
	}
	return fmt.Sprintf("file system %#x", st.Type), nil
}

const mebibyte = 1 << 20

// fillRandom writes random bytes to the stretches of a file that data says, MiB by MiB, and makes them durable.
func fillRandom(path string, bytes int64, data func(mib int64) bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		return err
	}
	block := make([]byte, mebibyte)
	for mib := range bytes / mebibyte {
		if !data(mib) {
			continue
		}
		if _, err := rand.Read(block); err != nil {
			return err
		}
		if _, err := f.WriteAt(block, mib*mebibyte); err != nil {
			return err
		}
	}
	return f.Sync()
}

// warm reads a file through, so that the page cache holds it.
func warm(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, mebibyte))
	return err
}
