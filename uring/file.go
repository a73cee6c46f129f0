package uring

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is a file whose I/O goes through a loop. Any number of goroutines may use it at once. It satisfies io.ReaderAt and io.WriterAt.
//
// A file opened with unix.O_DIRECT asks for aligned memory, offsets and lengths; see Aligned.
type File struct {
	loop *Loop
	os   *os.File // owns the descriptor
	fd   int
}

// Open opens a file like os.OpenFile. Opening itself is an ordinary system call.
func (l *Loop) Open(name string, flags int, mode os.FileMode) (*File, error) {
	f, err := os.OpenFile(name, flags, mode)
	if err != nil {
		return nil, err
	}
	return &File{loop: l, os: f, fd: int(f.Fd())}, nil
}

// FD returns the descriptor, for entries filled by hand.
func (f *File) FD() int { return f.fd }

// Name returns the name the file was opened by.
func (f *File) Name() string { return f.os.Name() }

// ReadAt reads len(p) bytes at off; fewer only with an error, io.EOF at the end of the file.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		var e SQE
		e.PrepRead(f.fd, p[n:], off+int64(n))
		got, err := f.loop.Do(e, p)
		if err != nil {
			return n, f.wrap("read", err)
		}
		if got == 0 {
			return n, io.EOF
		}
		n += got
	}
	return n, nil
}

// WriteAt writes p at off.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		var e SQE
		e.PrepWrite(f.fd, p[n:], off+int64(n))
		put, err := f.loop.Do(e, p)
		if err != nil {
			return n, f.wrap("write", err)
		}
		if put == 0 {
			return n, f.wrap("write", io.ErrShortWrite)
		}
		n += put
	}
	return n, nil
}

// WriteSync writes p at off and makes it durable: two requests, linked, in one submission. When the write is short or fails, the sync is
// not run and the pair is repeated or fails.
func (f *File) WriteSync(p []byte, off int64) error {
	synced := make(chan error, 1)
	var wrote int32
	err := f.loop.Post(func() {
		// Both entries must go to the kernel in one submission for the link to hold.
		if f.loop.ring.Space() < 2 {
			if err := f.loop.ring.Submit(); err != nil {
				synced <- err
				return
			}
		}
		f.loop.Start(func(e *SQE) {
			e.PrepWrite(f.fd, p, off)
			e.Flags |= IOLink
		}, func(res int32, _ CQEFlags) { wrote = res })
		f.loop.Start(func(e *SQE) { e.PrepFsync(f.fd, true) }, func(res int32, _ CQEFlags) { synced <- errno(res) })
	})
	if err != nil {
		return err
	}
	err = <-synced
	switch {
	case wrote < 0:
		return f.wrap("write", unix.Errno(-wrote))
	case int(wrote) < len(p): // the kernel broke the link at the short write
		if _, err := f.WriteAt(p[wrote:], off+int64(wrote)); err != nil {
			return err
		}
		return f.Sync()
	}
	return f.wrap("sync", err)
}

// Sync makes written data durable.
func (f *File) Sync() error {
	var e SQE
	e.PrepFsync(f.fd, true)
	_, err := f.loop.Do(e)
	return f.wrap("sync", err)
}

// Discard gives the range's space back; it reads as zeros afterwards.
func (f *File) Discard(off, length int64) error {
	return f.fallocate("discard", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// WriteZeroes makes the range read as zeros and keeps its space allocated.
func (f *File) WriteZeroes(off, length int64) error {
	return f.fallocate("write zeroes", unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// Allocate reserves space for the range without changing what it reads as.
func (f *File) Allocate(off, length int64) error {
	return f.fallocate("allocate", unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func (f *File) fallocate(op string, mode uint32, off, length int64) error {
	var e SQE
	e.PrepFallocate(f.fd, mode, off, length)
	_, err := f.loop.Do(e)
	return f.wrap(op, err)
}

// Size returns the file's length in bytes.
func (f *File) Size() (int64, error) {
	info, err := f.os.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Truncate sets the file's length.
func (f *File) Truncate(size int64) error { return f.os.Truncate(size) }

// Close closes the file. Requests in flight keep the kernel's reference until they end.
func (f *File) Close() error { return f.os.Close() }

func (f *File) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: f.os.Name(), Err: err}
}

func errno(res int32) error {
	if res < 0 {
		return unix.Errno(-res)
	}
	return nil
}

// Aligned returns a buffer of n bytes whose address is a multiple of align, a power of two: what files opened with O_DIRECT want.
func Aligned(n, align int) []byte {
	if align <= 0 || align&(align-1) != 0 {
		panic(fmt.Sprintf("uring: alignment %d is not a power of two", align))
	}
	raw := make([]byte, n+align)
	skip := int(-addressOf(raw) & uint64(align-1))
	return raw[skip : skip+n : skip+n]
}
