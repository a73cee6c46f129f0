package uring

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Buffers is a ring of provided buffers: the kernel takes one when data has arrived, not when the receive was asked for, so thousands of
// idle connections need no memory. Take runs on the loop's thread; Return may be called by anyone, since it only writes to shared memory.
type Buffers struct {
	loop   *Loop
	group  uint16
	size   int
	ring   []buf  // shared with the kernel; a mapping of its own, since the kernel wants it page-aligned
	mem    []byte // the mapping of ring
	data   []byte // all buffers, one after another
	mask   uint16
	holds  []int     // the loop's: for each buffer, how many have it besides who took it
	holder []release // for each buffer, what gives up one hold

	mu     sync.Mutex // guards what follows, and the ring
	tail   uint16
	first  uint16 // the id in entry 0
	taken  int    // buffers that are with the program
	closed bool
}

// buffersMax is the kernel's limit of a group.
const buffersMax = 1 << 15

// NewBuffers gives the loop a group of count buffers, a power of two, of size bytes each. The group's number must be free on this loop.
func (l *Loop) NewBuffers(group uint16, count, size int) (*Buffers, error) {
	if count < 1 || count > buffersMax || count&(count-1) != 0 || size < 1 {
		return nil, fmt.Errorf("loop: %d buffers of %d bytes: the count must be a power of two up to %d", count, size, buffersMax)
	}
	mem, err := l.ring.kernel.pages(count * int(unsafe.Sizeof(buf{})))
	if err != nil {
		return nil, fmt.Errorf("loop: buffers: %w", err)
	}
	b := &Buffers{loop: l, group: group, size: size, mem: mem, data: make([]byte, count*size), mask: uint16(count - 1),
		holds: make([]int, count), holder: make([]release, count)}
	b.ring = unsafe.Slice((*buf)(unsafe.Pointer(unsafe.SliceData(mem))), count)
	reg := bufReg{RingAddr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b.ring)))), RingEntries: uint32(count), BGID: group}
	if err := l.register(registerPbufRing, unsafe.Pointer(&reg), 1, &reg); err != nil {
		return nil, errors.Join(fmt.Errorf("loop: buffers: %w", err), l.ring.kernel.munmap(mem))
	}
	for i := range count {
		b.add(uint16(i))
	}
	b.publish()
	return b, nil
}

// Group is the number to receive with.
func (b *Buffers) Group() uint16 { return b.group }

// Take returns the n bytes of a completion that has CQEBuffer set. They stay valid until Return of the same buffer.
func (b *Buffers) Take(flags CQEFlags, n int) (id uint16, data []byte) {
	id = flags.BufferID()
	b.mu.Lock()
	b.taken++
	b.mu.Unlock()
	at := int(id) * b.size
	return id, b.data[at : at+n : at+b.size]
}

// Return gives a buffer back to the kernel.
func (b *Buffers) Return(id uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.taken--
	b.add(id)
	b.publish()
}

// free reports whether the kernel has buffers, as far as the completions seen so far tell.
func (b *Buffers) free() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken < len(b.ring)
}

// add puts a buffer into the ring. The kernel does not see it before publish.
func (b *Buffers) add(id uint16) {
	i := b.tail & b.mask
	e := &b.ring[i]
	e.Addr = addressOf(b.data[int(id)*b.size:])
	e.Len = uint32(b.size)
	if i == 0 {
		b.first = id // goes out with the tail, beside which it lies
	} else {
		e.BID = id
	}
	b.tail++
}

// publish shows the new tail to the kernel. The tail is the last two bytes of entry 0; a 16-bit atomic does not exist in Go, so the aligned
// 32-bit word that holds entry 0's id and the tail is stored as one. The kernel does not read the id before the tail has passed it.
func (b *Buffers) publish() {
	word := (*uint32)(unsafe.Pointer(&b.ring[0].BID))
	atomic.StoreUint32(word, uint32(b.first)|uint32(b.tail)<<16)
}

// Close takes the group from the kernel. Receives that use it must have ended.
func (b *Buffers) Close() error {
	reg := &bufReg{BGID: b.group}
	err := b.loop.register(unregisterPbufRing, unsafe.Pointer(reg), 1, reg)
	if errors.Is(err, ErrClosed) {
		<-b.loop.ended // the ring is gone, and the group with it
		err = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	runtime.KeepAlive(b.data)
	return errors.Join(err, b.loop.ring.kernel.munmap(b.mem))
}
