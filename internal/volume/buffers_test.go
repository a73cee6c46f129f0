package volume

import (
	"testing"

	"github.com/godwit-cloud/godwit/uring"
)

func TestBuffersBeginWhereDirectIOWantsThemAndLargeOnesWithALargePage(t *testing.T) {
	b := newBuffers(4)
	defer b.close()
	for _, n := range []int64{1, holeBytes, hugeBytes - 1, hugeBytes, hugeBytes + 1, directGrain.chunk} {
		align := holeBytes
		if n >= hugeBytes {
			align = hugeBytes
		}
		buf := b.take(n)
		if int64(len(buf)) < n || &buf[0] != &uring.AlignedIn(buf, align)[0] {
			t.Errorf("a buffer for %d bytes has %d and begins at %p, not at a multiple of %d", n, len(buf), buf, align)
		}
		buf[0], buf[n-1] = 1, 1
	}
}

func TestBuffersOfManySizesAreNoMoreThanThereAreSizes(t *testing.T) {
	b := newBuffers(1)
	defer b.close()
	for n := int64(hugeBytes); n <= directGrain.chunk; n += holeBytes {
		b.give(b.take(n))
	}
	if n := len(b.mapped); n != 2 {
		t.Errorf("%d pieces of memory, want one of 2 and one of 4 MiB", n)
	}
}

func TestABufferThatWasGivenBackIsUsedAgain(t *testing.T) {
	b := newBuffers(1)
	defer b.close()
	first := b.take(hugeBytes)
	b.give(first)
	if again := b.take(holeBytes); &again[0] != &first[0] {
		t.Error("it was left lying")
	}
}
