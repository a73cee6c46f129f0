package image

import (
	"context"
	"crypto/md5" //nolint:gosec // Glance's checksum is MD5; integrity rests on the SHA-512 beside it
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// uploadsDir holds data that is not whole yet, on the same file system as the whole.
const uploadsDir = ".uploads"

// Files is the directory of image data. It is safe for concurrent use, also by several processes.
type Files struct{ dir string }

// OpenFiles returns the image data in dir, which is made if need be.
func OpenFiles(dir string) (*Files, error) {
	if err := os.MkdirAll(filepath.Join(dir, uploadsDir), 0o700); err != nil {
		return nil, fmt.Errorf("image directory: %w", err)
	}
	return &Files{dir}, nil
}

// Open returns an image's data from the offset on, for a host that fetches it. The caller verifies the hash and closes. An image without data is
// cloud.KindNotFound, an offset behind the end cloud.KindInvalid. Data of a deleted image can be read as long as a server
// needs it.
func (f *Files) Open(_ context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error) {
	file, size, err := f.open(id)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > size {
		file.Close()
		return nil, cloud.Errorf(cloud.KindInvalid, "offset %d lies outside image %s of %d bytes", offset, id, size)
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		file.Close()
		return nil, fmt.Errorf("image %s: %w", id, err)
	}
	return file, nil
}

func (f *Files) open(id cloud.ImageID) (*os.File, int64, error) {
	if !validID(string(id)) {
		return nil, 0, cloud.Errorf(cloud.KindNotFound, "no image %q", id)
	}
	file, err := os.Open(f.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, cloud.Errorf(cloud.KindNotFound, "image %s has no data", id)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("image %s: %w", id, err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, fmt.Errorf("image %s: %w", id, err)
	}
	return file, info.Size(), nil
}

// validID reports whether the id is a UUID in canonical form, and so a safe file name.
func validID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

func (f *Files) path(id cloud.ImageID) string { return filepath.Join(f.dir, string(id)) }

func (f *Files) uploadPath(id cloud.ImageID) string {
	return filepath.Join(f.dir, uploadsDir, string(id))
}

// remove deletes an image's data, if there is any.
func (f *Files) remove(id cloud.ImageID) error {
	if err := os.Remove(f.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove data of image %s: %w", id, err)
	}
	return nil
}

// An upload is data being written. It holds the lock that says so until close.
type upload struct {
	files *Files
	id    cloud.ImageID
	file  *os.File
	path  string // where the file is now
	md5   hash.Hash
	sha   hash.Hash
	bytes int64
}

var errUploading = cloud.Errorf(cloud.KindConflict, "Another upload of this image is in progress.")

const (
	// lockTries and lockPause bound how long an upload waits for another's end: one that failed is queued again a moment before it lets go.
	lockTries = 10
	lockPause = 20 * time.Millisecond
)

// beginPatiently is begin for a request that has just seen that the image is not being uploaded.
func (f *Files) beginPatiently(ctx context.Context, id cloud.ImageID) (u *upload, err error) {
	for range lockTries {
		if u, err = f.begin(id); !cloud.Is(err, cloud.KindConflict) {
			return u, err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// begin starts an upload of the image's data. A second one at the same time is cloud.KindConflict.
func (f *Files) begin(id cloud.ImageID) (*upload, error) {
	path := f.uploadPath(id)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", id, err)
	}
	if err := lock(file); err != nil {
		file.Close()
		return nil, err
	}
	u := &upload{files: f, id: id, file: file, path: path, md5: md5.New(), sha: sha512.New()} //nolint:gosec // see the import
	// Between our open and our lock the file may have been renamed or removed by the one who had the lock before.
	if ours, err := u.current(); err != nil || !ours {
		file.Close()
		return nil, errors.Join(errUploading, err)
	}
	if err := file.Truncate(0); err != nil {
		u.discard()
		return nil, fmt.Errorf("image %s: %w", id, err)
	}
	return u, nil
}

func lock(file *os.File) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errUploading
	}
	return err
}

// current reports whether the path still leads to the open file.
func (u *upload) current() (bool, error) {
	have, err := u.file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(u.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(have, there), err
}

// Write appends and hashes.
func (u *upload) Write(p []byte) (int, error) {
	n, err := u.file.Write(p)
	u.md5.Write(p[:n])
	u.sha.Write(p[:n])
	u.bytes += int64(n)
	return n, err
}

// keep makes the data durable and the image's own. The lock is held until close.
func (u *upload) keep() error {
	if err := u.file.Sync(); err != nil {
		return fmt.Errorf("image %s: %w", u.id, err)
	}
	final := u.files.path(u.id)
	if err := os.Rename(u.path, final); err != nil {
		return fmt.Errorf("image %s: %w", u.id, err)
	}
	u.path = final
	return syncDir(u.files.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// discard removes the data, wherever it is now, and releases the lock.
func (u *upload) discard() {
	os.Remove(u.path)
	u.file.Close()
}

// close releases the lock.
func (u *upload) close() { u.file.Close() }

func (u *upload) sums() (md5Hex, shaHex string) {
	return hex.EncodeToString(u.md5.Sum(nil)), hex.EncodeToString(u.sha.Sum(nil))
}

// claimAbandoned returns an empty upload in place of one whose process died: it keeps others from uploading until discard. It is nil when
// somebody is uploading.
func (f *Files) claimAbandoned(id cloud.ImageID) (*upload, error) {
	u, err := f.begin(id)
	if cloud.Is(err, cloud.KindConflict) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// An uploader that has renamed its file still holds the lock, on what is now the final file.
	final, err := os.Open(f.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err == nil {
		err = lock(final)
		final.Close()
	}
	if err != nil {
		u.discard()
		if errors.Is(err, errUploading) {
			err = nil
		}
		return nil, err
	}
	return u, nil
}
