package volume

import (
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/uring"
)

// hugeBytes is the size of the processor's large pages, on every processor we run on.
const hugeBytes = 2 << 20

// buffers are the memory of one copy: a few pieces that are used again and again, aligned as direct I/O wants them.
//
// Large ones are asked for in large pages, of which the kernel pins two instead of a thousand and hands the disk as many stretches; a disk takes only so
// many in one request (254 with virtio), and what is more becomes another. They are no memory of Go's, and go back at once when the copy ends.
type buffers struct {
	free chan []byte

	mu     sync.Mutex // guards what follows
	mapped [][]byte
}

// newBuffers makes room for so many at once.
func newBuffers(atOnce int) *buffers { return &buffers{free: make(chan []byte, atOnce)} }

// take returns a buffer of at least n bytes, a used one if it is large enough.
func (b *buffers) take(n int64) []byte {
	select {
	case buf := <-b.free:
		if int64(len(buf)) >= n {
			return buf
		}
	default:
	}
	if n >= hugeBytes {
		// In powers of two, so that the too small ones that are left behind are no more than there are sizes.
		if buf := b.huge(1 << bits.Len64(uint64(n-1))); buf != nil {
			return buf
		}
	}
	return uring.Aligned(int(n), holeBytes)
}

// give takes a buffer back.
func (b *buffers) give(buf []byte) { b.free <- buf }

// huge maps n bytes that begin with a large page; nil: there is no memory to be had this way. That the pages are not large is no error, they only are slower.
func (b *buffers) huge(n int) []byte {
	whole, err := unix.Mmap(-1, 0, n+hugeBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil
	}
	b.mu.Lock()
	b.mapped = append(b.mapped, whole)
	b.mu.Unlock()
	buf := uring.AlignedIn(whole, hugeBytes)[:n:n]
	_ = unix.Madvise(buf, unix.MADV_HUGEPAGE)
	return buf
}

// close gives the memory back. Nobody uses it any more.
func (b *buffers) close() {
	for _, whole := range b.mapped {
		_ = unix.Munmap(whole)
	}
}
