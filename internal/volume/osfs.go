package volume

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/uring"
)

// The modes of what a store makes: tenants' data is nobody else's.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// alignDefault is what direct I/O is taken to ask for where the kernel does not say: no disk in use has larger sectors.
const alignDefault = 4096

// osFiles is the operating system's files. With a loop, reads, writes and syncs go through its ring.
type osFiles struct{ loop *uring.Loop }

// Mkdir implements fileSystem.
func (osFiles) Mkdir(path string) error { return os.MkdirAll(path, dirMode) }

// Rename implements fileSystem.
func (osFiles) Rename(from, to string) error { return os.Rename(from, to) }

// Exchange implements fileSystem.
func (osFiles) Exchange(one, two string) error {
	err := unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, two, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", errNoExchange, err)
	}
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: one, New: two, Err: err}
	}
	return nil
}

// Remove implements fileSystem.
func (osFiles) Remove(path string) error { return os.Remove(path) }

// List implements fileSystem.
func (osFiles) List(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

// Stat implements fileSystem.
func (osFiles) Stat(path string) (fileInfo, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileInfo{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileInfo{bytes: st.Size, allocated: st.Blocks * 512, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// SyncDir implements fileSystem.
func (osFiles) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Space implements fileSystem.
func (osFiles) Space(path string) (total, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// Lock implements fileSystem.
func (osFiles) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errLocked
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Open implements fileSystem.
func (fs osFiles) Open(path string, flags int) (file, error) {
	f := &osFile{align: 1}
	if fs.loop != nil {
		ring, err := fs.loop.Open(path, flags, fileMode)
		if err != nil {
			return nil, err
		}
		f.blocks, f.fd, f.path = ring, ring.FD(), path
	} else {
		plain, err := os.OpenFile(path, flags, fileMode)
		if err != nil {
			return nil, err
		}
		f.blocks, f.fd, f.path = plain, int(plain.Fd()), path
	}
	if flags&unix.O_DIRECT != 0 {
		f.align = DirectAlign(f.fd)
	}
	return f, nil
}

// DirectAlign returns what direct I/O on an open file wants offsets, lengths and memory to be multiples of, in bytes. The kernel is asked (6.1 and
// later); where it does not say, the answer is good for every disk in use.
func DirectAlign(fd int) int {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 || st.Dio_offset_align == 0 {
		return alignDefault
	}
	return int(max(st.Dio_offset_align, st.Dio_mem_align))
}

// blocks is what an os.File and a uring.File have in common.
type blocks interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

// osFile is a file of the operating system.
type osFile struct {
	blocks
	fd    int
	path  string
	align int
}

// FD implements File.
func (f *osFile) FD() int { return f.fd }

// Align implements file.
func (f *osFile) Align() int { return f.align }

// Size implements file.
func (f *osFile) Size() (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(f.fd, &st)
	return st.Size, f.wrap("stat", err)
}

// Punch implements File.
func (f *osFile) Punch(off, length int64) error {
	return f.wrap("punch", retry(func() error {
		return unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	}))
}

// Zero implements File.
func (f *osFile) Zero(off, length int64) error {
	return f.wrap("zero", retry(func() error {
		return unix.Fallocate(f.fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	}))
}

// NextData implements File. Where the file system knows no holes, everything is data.
func (f *osFile) NextData(off int64) (start, end int64, err error) {
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		size, err := f.Size()
		if err == nil && off >= size {
			err = io.EOF
		}
		return off, size, err
	}
	if err == nil {
		end, err = unix.Seek(f.fd, start, unix.SEEK_HOLE)
	}
	return start, end, f.wrap("seek", err)
}

// Hasten implements cachedFile.
func (f *osFile) Hasten(off, length int64) {
	_ = unix.SyncFileRange(f.fd, off, length, unix.SYNC_FILE_RANGE_WRITE)
}

// Release implements cachedFile.
func (f *osFile) Release(off, length int64) {
	_ = unix.SyncFileRange(f.fd, off, length, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	_ = unix.Fadvise(f.fd, off, length, unix.FADV_DONTNEED)
}

// Clone implements file.
func (f *osFile) Clone(from file) error {
	src, ok := from.(*osFile)
	if !ok {
		return fmt.Errorf("%w: not a file of the operating system", errNoReflink)
	}
	err := retry(func() error { return unix.IoctlFileClone(f.fd, src.fd) })
	for _, refusal := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: FICLONE: %w", errNoReflink, err)
		}
	}
	return f.wrap("clone", err)
}

func (f *osFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: f.path, Err: err}
}

// retry repeats a call that a signal cut short.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
