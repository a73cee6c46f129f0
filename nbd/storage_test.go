package nbd

import (
	"fmt"
	"sync"
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
