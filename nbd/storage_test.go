package nbd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// memory is a Storage in memory that remembers which blocks were never written or given back.
type memory struct {
	mu      sync.Mutex
	data    []byte
	written []bool // by block
	flushes int
	fail    error // of every operation, if not nil
}

const memoryBlock = 512

func newMemory(size int) *memory {
	return &memory{data: make([]byte, size), written: make([]bool, (size+memoryBlock-1)/memoryBlock)}
}

func (m *memory) failWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memory) mark(off, n int64, written bool) {
	for b := off / memoryBlock; b*memoryBlock < off+n; b++ {
		m.written[b] = written || m.written[b] && (b*memoryBlock < off || (b+1)*memoryBlock > off+n)
	}
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.data[off:]), m.fail
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark(off, int64(len(p)), true)
	return copy(m.data[off:], p), m.fail
}

func (m *memory) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flushes++
	return m.fail
}

func (m *memory) Trim(off, n int64) error { return m.WriteZeroes(off, n, false, false) }

func (m *memory) WriteZeroes(off, n int64, noHole, fast bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fast && noHole {
		return NotSupported
	}
	clear(m.data[off : off+n])
	m.mark(off, n, noHole)
	return m.fail
}

func (m *memory) Status(off, n int64, limit int) (out []Extent, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := off; at < off+n; {
		b := at / memoryBlock
		end := min((b+1)*memoryBlock, int64(len(m.data)))
		e := Extent{Length: uint64(end - at)}
		if !m.written[b] {
			e.Flags = StatusHole | StatusZero
		}
		if k := len(out); k > 0 && out[k-1].Flags == e.Flags {
			out[k-1].Length += e.Length
		} else if k == limit {
			break
		} else {
			out = append(out, e)
		}
		at = end
	}
	return out, m.fail
}

func (m *memory) Cache(int64, int64) error { return m.fail }

// everything an export can do.
const everything = FlagFlush | FlagFUA | FlagTrim | FlagWriteZeroes | FlagMultiConn | FlagCache | FlagFastZero

func memoryDevice(size int) (*memory, *Blocking) {
	m := newMemory(size)
	return m, NewBlocking(m, Info{Description: "in memory", Flags: everything, Status: true}, func() uint64 { return uint64(size) }, 0)
}

// exports are Exports of a map.
type exports map[string]Device

func (e exports) Find(name string, _ Peer) (Device, error) {
	if d, ok := e[name]; ok {
		return d, nil
	}
	return nil, fmt.Errorf("no export is called %q", name)
}

func (e exports) List(Peer) (out []Listing) {
	for name, d := range e {
		out = append(out, Listing{Name: name, Description: d.Info().Description})
	}
	return out
}

// sparseFile is a Storage on a file, as a server without io_uring would have.
type sparseFile struct{ *os.File }

func newSparseFile(t testing.TB, size int64) (*sparseFile, *Blocking) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	s := &sparseFile{f}
	info := Info{Description: "a file", Flags: everything, Status: true}
	return s, NewBlocking(s, info, func() uint64 { return uint64(size) }, 16)
}

func (s *sparseFile) Flush() error { return s.Sync() }

func (s *sparseFile) Trim(off, n int64) error {
	return unix.Fallocate(int(s.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (s *sparseFile) WriteZeroes(off, n int64, noHole, _ bool) error {
	if !noHole {
		return s.Trim(off, n)
	}
	return unix.Fallocate(int(s.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (s *sparseFile) Cache(int64, int64) error { return nil }

func (s *sparseFile) Status(off, n int64, limit int) (out []Extent, err error) {
	size, err := s.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	for at, end := off, off+n; at < end && len(out) < limit; {
		data, err := unix.Seek(int(s.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data, err = size, nil
		}
		if err != nil {
			return nil, err
		}
		if data > at {
			out = append(out, Extent{Length: uint64(min(data, end) - at), Flags: StatusHole | StatusZero})
			at = data
			continue
		}
		hole, err := unix.Seek(int(s.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		out = append(out, Extent{Length: uint64(min(hole, end) - at)})
		at = hole
	}
	return out, nil
}
