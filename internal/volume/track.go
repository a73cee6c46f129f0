package volume

import (
	"context"
	"errors"
	"math/bits"
	"sync/atomic"
)

const (
	// trackBytes is the grain in which a copy of a volume that is being written notes what changed: a bitmap of 2 MiB for a volume of 1 TiB.
	trackBytes = 64 << 10
	// heldBytesMax is how much may be copied while writers are held: a tenth of a second or so of an ordinary disk.
	heldBytesMax = 32 << 20
	// passesMax bounds how often a copy goes over what was written meanwhile before it holds the writers, come what may.
	passesMax = 8
)

// stretch is a part of a file.
type stretch struct{ off, length int64 }

// tracker notes what is written while a volume is copied.
//
// A mutation is noted when it is done, before its gate lets go of it. So what is written after a chunk was read is noted after the chunk's mark was
// taken, and the chunk is copied again; and when the gates are shut and empty, everything is noted.
type tracker struct {
	size  int64
	words []atomic.Uint64
	all   atomic.Bool // somebody wrote without saying where
}

func newTracker(size int64) *tracker {
	return &tracker{size: size, words: make([]atomic.Uint64, (size+64*trackBytes-1)/(64*trackBytes))}
}

// mark notes that a range was written.
func (t *tracker) mark(off, length int64) {
	if length <= 0 {
		return
	}
	for g, last := off/trackBytes, (min(off+length, t.size)-1)/trackBytes; g <= last; g++ {
		t.words[g/64].Or(1 << (g % 64))
	}
}

// take returns what was noted, in order, and forgets it.
func (t *tracker) take() (out []stretch, total int64) {
	if t.all.Swap(false) {
		return []stretch{{0, t.size}}, t.size
	}
	for i := range t.words {
		for word := t.words[i].Swap(0); word != 0; {
			first := bits.TrailingZeros64(word)
			run := bits.TrailingZeros64(^(word >> first))
			off := (int64(i)*64 + int64(first)) * trackBytes
			s := stretch{off, min(int64(run)*trackBytes, t.size-off)}
			out = append(out, s)
			total += s.length
			word &^= (1<<run - 1) << first
		}
	}
	return out, total
}

// copyLive makes dst, which is empty, what the volume's data is at one moment. Writers go on while most of it is copied, again and again
// what they wrote meanwhile, and are held only for the rest. With the turn; it settles when it has held.
func (v *volume) copyLive(ctx context.Context, src file, dst *target, size int64, progress func(int64)) error {
	if err := dst.Clone(src); !errors.Is(err, errNoReflink) {
		return err // another store, but the same file system
	}
	t := newTracker(size)
	v.tracker.Store(t)
	defer v.tracker.Store(nil)
	if err := copySparse(ctx, src, dst, size, progress); err != nil {
		return err
	}
	dirty, total := t.take()
	for pass, before := 0, size; pass < passesMax && total > heldBytesMax && total < before; pass++ {
		if err := copyAgain(ctx, src, dst, dirty); err != nil {
			return err
		}
		before = total
		dirty, total = t.take()
	}
	defer v.settle()
	if err := v.hold(ctx, func(record) bool { return true }); err != nil {
		return err
	}
	late, _ := t.take()
	return copyAgain(ctx, src, dst, append(dirty, late...))
}

// copyAgain copies stretches that dst has already, but not as they are now.
func copyAgain(ctx context.Context, src file, dst *target, list []stretch) error {
	g := dst.grain()
	return inChunks(ctx, g.atOnce, func(emit func(off, n int64)) error {
		for _, s := range list {
			for off := s.off; off < s.off+s.length; off += g.chunk {
				emit(off, min(g.chunk, s.off+s.length-off))
			}
		}
		return nil
	}, func(buf []byte, off int64) error {
		n, err := readFull(src, buf, off)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if k, zero := run(buf[:n]); zero && k == n {
			return dst.Punch(off, int64(n))
		}
		_, err = dst.WriteAt(buf[:n], off)
		return err
	})
}
