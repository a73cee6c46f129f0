package blockserve

import (
	"math/bits"
	"sync"

	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

const (
	// pageBytes is how payloads are aligned: direct I/O asks for no more, and a payload that begins on a page touches the fewest.
	pageBytes = 4096
	// classes of buffers: 4 KiB, 8 KiB, ... payloadMax.
	classMin = 12
	classes  = 14
	// keptBytesMax bounds the emptied buffers that an arena keeps for the next request.
	keptBytesMax = 8 << 20
)

// arena is the memory of a lane's payloads: page-aligned buffers, used again. It belongs to the loop's thread.
type arena struct {
	free [classes][]*nbd.Buffer
	kept int // bytes in free
}

// class returns which buffers hold n bytes.
func class(n int) int { return max(bits.Len(uint(max(n, 1)-1)), classMin) - classMin }

// Get implements nbd.Memory.
func (a *arena) Get(n int) *nbd.Buffer {
	c := class(n)
	if k := len(a.free[c]); k > 0 {
		b := a.free[c][k-1]
		a.free[c] = a.free[c][:k-1]
		a.kept -= 1 << (c + classMin)
		return b
	}
	// The head of a reply lies at the end of the page before the payload.
	raw := uring.Aligned(pageBytes+1<<(c+classMin), pageBytes)
	return &nbd.Buffer{Whole: raw[pageBytes-nbd.HeadRoom:], Index: c}
}

// Put implements nbd.Memory.
func (a *arena) Put(b *nbd.Buffer) {
	size := 1 << (b.Index + classMin)
	if a.kept+size > keptBytesMax {
		return
	}
	a.kept += size
	a.free[b.Index] = append(a.free[b.Index], b)
}

// registered returns the number of the registered region that a buffer lies in.
func (a *arena) registered(*nbd.Buffer) (uint16, bool) { return 0, false }

// shared is an arena for several goroutines.
type shared struct {
	mu    sync.Mutex
	arena arena
}

// Get implements nbd.Memory.
func (s *shared) Get(n int) *nbd.Buffer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arena.Get(n)
}

// Put implements nbd.Memory.
func (s *shared) Put(b *nbd.Buffer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arena.Put(b)
}
