package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A disk that comes from another host with its server's power off is that host's overlay, copied byte for byte: bases are named by their content, so it means
// the same here. The file "origin" says which copy a disk is. It is written when whatever was there before is gone, and the disk gets its name when it is whole:
// so a disk beside the right origin is the whole copy, and one that an earlier stay left behind is never taken for it.
const (
	originFile = "origin"
	// revertSuffix is that of a root disk as it was before it grew in place, which a revert of the resize takes back.
	revertSuffix = ".revert"
)

// Receive makes the server's root disk a copy of another host's overlay. pull writes it into a file; origin names the copy and is never used for another. A
// repeat finds what an earlier call did. No process may have the disk open.
func (s *Store) Receive(ctx context.Context, id cloud.ServerID, root Root, origin string, pull func(ctx context.Context, path string) error) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	base, _, err := s.EnsureBase(ctx, root.Base)
	if err != nil {
		return err
	}
	if err := s.Claim(id); err != nil {
		return err
	}
	if held, err := os.ReadFile(filepath.Join(f.Dir, originFile)); err == nil && strings.TrimSpace(string(held)) == origin {
		if _, err := os.Stat(f.Root); err == nil {
			return s.growOverlay(ctx, f.Root, root.Bytes)
		}
	} else if err := s.forgetDisk(f, origin); err != nil {
		return fmt.Errorf("server %s: %w", id, err)
	}
	temp := f.Root + tempSuffix
	if err := pull(ctx, temp); err != nil {
		os.Remove(temp)
		return err
	}
	if err := s.settleCopy(ctx, temp, base, root); err != nil {
		os.Remove(temp)
		return fmt.Errorf("server %s: the disk that came: %w", id, err)
	}
	file, err := os.OpenFile(temp, os.O_RDWR, 0)
	if err == nil {
		err = commit(file, nil, f.Root)
	}
	if err != nil {
		return fmt.Errorf("server %s: disk: %w", id, err)
	}
	return nil
}

// forgetDisk removes a disk of an earlier stay and writes down what comes in its place.
func (s *Store) forgetDisk(f Files, origin string) error {
	for _, stale := range []string{f.Root, f.Root + revertSuffix} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncDir(f.Dir); err != nil {
		return err
	}
	return writeDurably(filepath.Join(f.Dir, originFile), []byte(origin+"\n"), 0o644)
}

// settleCopy puts an overlay that came onto this host's own base, and gives it the size that is asked for.
func (s *Store) settleCopy(ctx context.Context, path, base string, root Root) error {
	h, err := headerOf(path)
	if err != nil {
		return err
	}
	if filepath.Base(h.Backing) != root.Base.SHA512 || h.ExternalData || h.Encrypted {
		return cloud.Errorf(cloud.KindInvalid, "it lies on %q, not on image %.16s", h.Backing, root.Base.SHA512)
	}
	if h.Backing != base {
		if err := s.run(ctx, "rebase", "-u", "-f", FormatQCOW2, "-F", root.Base.Format, "-b", base, path); err != nil {
			return err
		}
	}
	return s.growOverlay(ctx, path, root.Bytes)
}

// growOverlay makes an overlay larger; one that is as large or larger is left as it is.
func (s *Store) growOverlay(ctx context.Context, path string, bytes int64) error {
	h, err := headerOf(path)
	if err != nil || h.VirtualBytes >= roundUp(bytes) {
		return err
	}
	return s.run(ctx, "resize", "-q", "-f", FormatQCOW2, path, strconv.FormatInt(bytes, 10))
}

// KeepRoot takes the server's root disk as it is here, as a host does that a server is resized on, or to that shares its directory with the server's last host.
// A disk that is to be larger is copied first, so that a smaller size asked for later gets that copy back; a disk that is not to grow keeps what was written
// since. The directory becomes this host's.
func (s *Store) KeepRoot(ctx context.Context, id cloud.ServerID, bytes int64) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	h, err := headerOf(f.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return cloud.Errorf(cloud.KindNotFound, "server %s: it has no disk on this host", id)
	}
	if err != nil {
		return fmt.Errorf("server %s: disk: %w", id, err)
	}
	if err := s.Claim(id); err != nil {
		return err
	}
	before := f.Root + revertSuffix
	switch {
	case bytes > 0 && h.VirtualBytes < roundUp(bytes):
		if err := saveCopy(ctx, f.Root, before); err != nil {
			return fmt.Errorf("server %s: keep the disk as it was: %w", id, err)
		}
		return s.growOverlay(ctx, f.Root, bytes)
	case bytes > 0 && h.VirtualBytes > roundUp(bytes):
		old, err := headerOf(before)
		if err != nil || old.VirtualBytes != roundUp(bytes) {
			return nil // the image's size when the flavor says none, or nothing was kept: larger than it need be, and whole
		}
		if err := os.Rename(before, f.Root); err != nil {
			return fmt.Errorf("server %s: take the disk back: %w", id, err)
		}
		return syncDir(f.Dir)
	}
	return nil
}

// DropRevert removes what KeepRoot kept for a smaller size.
func (s *Store) DropRevert(id cloud.ServerID) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	if err := os.Remove(f.Root + revertSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("server %s: %w", id, err)
	}
	return nil
}

// saveCopy makes to a durable copy of from: sharing blocks where the file system can, else with its holes. One that is there already is kept, because it may
// be older than what has been done to from since.
func saveCopy(ctx context.Context, from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to+tempSuffix, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if err != nil {
		err = copyHoles(ctx, src, dst)
	}
	return commit(dst, err, to)
}

// copyHoles copies what is data.
func copyHoles(ctx context.Context, src, dst *os.File) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	buf := make([]byte, copyBytes)
	for off := int64(0); off < info.Size(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		start, end := nextData(src, off, info.Size())
		if start >= info.Size() {
			return nil
		}
		for start < end {
			n, err := src.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
			if n > 0 {
				if _, err := dst.WriteAt(buf[:n], start); err != nil {
					return err
				}
			}
			if err != nil && !errors.Is(err, io.EOF) || n == 0 {
				return err
			}
			start += int64(n)
		}
		off = end
	}
	return nil
}

// nextData returns the first stretch of data at or after off. A file system that knows no holes has data only.
func nextData(f *os.File, off, size int64) (start, end int64) {
	start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err == nil {
		end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	}
	if err != nil {
		return off, size
	}
	return start, end
}

// BasePath returns the path of a base image that is here, whole and verified.
func (s *Store) BasePath(sha512 string) (path string, ok bool) {
	if (Base{SHA512: sha512, Format: FormatRaw, Bytes: 1}).validate() != nil {
		return "", false
	}
	path = s.basePath(sha512)
	_, err := os.Stat(path)
	return path, err == nil
}

// Bases returns the hashes of the base images that are here, whole and verified.
func (s *Store) Bases() ([]string, error) {
	entries, err := os.ReadDir(s.path(imagesDir))
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	var out []string
	for _, e := range entries {
		if _, ok := s.BasePath(e.Name()); ok {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
