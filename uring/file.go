package uring

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// File is a file whose I/O goes through a loop. Any number of goroutines may use it at once. It satisfies io.ReaderAt and io.WriterAt.
//
// A ring pays when several requests are in flight: they share a call of the kernel, and no thread waits for each. One request alone only
// pays for the detour, so a read or write that finds nothing else in flight on the loop is made in place, as os.File would (decision 10).
//
// A file opened with unix.O_DIRECT asks for aligned memory, offsets and lengths; see Aligned.
type File struct {
	loop *Loop
	os   *os.File // owns the descriptor
	fd   int
	use  sync.RWMutex // held for reading by requests in flight, so that Close cannot give the descriptor's number to another file
	shut bool
}

// Open opens a file like os.OpenFile. Opening itself is an ordinary system call.
func (l *Loop) Open(name string, flags int, mode os.FileMode) (*File, error) {
	f, err := os.OpenFile(name, flags, mode)
	if err != nil {
		return nil, err
	}
	return &File{loop: l, os: f, fd: int(f.Fd())}, nil
}

// FD returns the descriptor, for entries filled by hand. It is valid until Close.
func (f *File) FD() int { return f.fd }

// Name returns the name the file was opened by.
func (f *File) Name() string { return f.os.Name() }

// begin keeps the descriptor open until end.
func (f *File) begin() error {
	f.use.RLock()
	if f.shut {
		f.use.RUnlock()
		return os.ErrClosed
	}
	return nil
}

func (f *File) end() { f.use.RUnlock() }

// ReadAt reads len(p) bytes at off; fewer only with an error, io.EOF at the end of the file.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin(); err != nil {
		return 0, f.wrap("read", err)
	}
	defer f.end()
	n := 0
	for n < len(p) {
		got, err := f.readOnce(p[n:], off+int64(n))
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

func (f *File) readOnce(p []byte, off int64) (int, error) {
	defer f.loop.underWay.Add(-1)
	if f.loop.underWay.Add(1) == 1 && !f.loop.closing.Load() {
		return uninterrupted(func() (int, error) { return unix.Pread(f.fd, p, off) })
	}
	var e SQE
	e.PrepRead(f.fd, p, off)
	return f.loop.Do(e, p)
}

// WriteAt writes p at off.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.begin(); err != nil {
		return 0, f.wrap("write", err)
	}
	defer f.end()
	return f.writeAll(p, off)
}

func (f *File) writeAll(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		put, err := f.writeOnce(p[n:], off+int64(n))
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

func (f *File) writeOnce(p []byte, off int64) (int, error) {
	defer f.loop.underWay.Add(-1)
	if f.loop.underWay.Add(1) == 1 && !f.loop.closing.Load() {
		return uninterrupted(func() (int, error) { return unix.Pwrite(f.fd, p, off) })
	}
	var e SQE
	e.PrepWrite(f.fd, p, off)
	return f.loop.Do(e, p)
}

// uninterrupted repeats a call that a signal cut short, as Go's own calls are.
func uninterrupted(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// WriteSync writes p at off and makes it durable: two requests, linked, in one submission. When the write is short, the kernel breaks the
// link and the rest is written and synced by itself; so is all of it when the sync was cancelled although the write was whole.
func (f *File) WriteSync(p []byte, off int64) error {
	if err := f.begin(); err != nil {
		return f.wrap("write", err)
	}
	defer f.end()
	synced := make(chan int32, 1)
	var wrote int32
	err := f.loop.Post(func() {
		f.loop.Reserve(2)
		cuts := f.loop.LinksCut()
		var res int32
		steps := 2
		step := func() {
			if steps--; steps > 0 {
				return
			}
			if f.loop.LinksCut() != cuts && res >= 0 { // the sync may have begun before the write
				res = -int32(unix.ECANCELED)
			}
			synced <- res
		}
		w := f.loop.Begin(Handler(func(n int32, _ CQEFlags) { wrote = n; step() }))
		w.PrepWrite(f.fd, p, off)
		w.Flags |= IOLink
		f.loop.Begin(Handler(func(n int32, _ CQEFlags) { res = n; step() })).PrepFsync(f.fd, true)
	})
	if err != nil {
		return f.wrap("write", err)
	}
	res := <-synced
	runtime.KeepAlive(p)
	switch {
	case wrote < 0:
		return f.wrap("write", unix.Errno(-wrote))
	case int(wrote) < len(p):
		if _, err := f.writeAll(p[wrote:], off+int64(wrote)); err != nil {
			return err
		}
		return f.sync()
	}
	if unix.Errno(-min(res, 0)) == unix.ECANCELED { // by the kernel, for reasons of its own: nothing has been synced
		return f.sync()
	}
	return f.wrap("sync", errno(res))
}

// Sync makes written data durable.
func (f *File) Sync() error {
	if err := f.begin(); err != nil {
		return f.wrap("sync", err)
	}
	defer f.end()
	return f.sync()
}

func (f *File) sync() error {
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
	if err := f.begin(); err != nil {
		return f.wrap(op, err)
	}
	defer f.end()
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

// Close waits for the requests in flight and closes the file.
func (f *File) Close() error {
	f.use.Lock()
	defer f.use.Unlock()
	f.shut = true
	return f.os.Close()
}

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
	return AlignedIn(make([]byte, n+max(align, 0)), align)[:n:n]
}

// AlignedIn returns the part of memory that begins at the first multiple of align, a power of two; memory is at least that long.
func AlignedIn(memory []byte, align int) []byte {
	if align <= 0 || align&(align-1) != 0 {
		panic(fmt.Sprintf("uring: alignment %d is not a power of two", align))
	}
	return memory[int(-addressOf(memory)&uint64(align-1)):]
}
