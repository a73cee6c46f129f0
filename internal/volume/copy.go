package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// chunkBytes is what one request of a copy carries: large enough that requests cost little, small enough that what was read is still in the
	// processor's cache when it is written.
	chunkBytes = 256 << 10
	// copiesAtOnce is how many are under way: what keeps a disk busy while the other side's requests are waited for. File systems let one
	// writer at a time into a file; more who wait for it, some of them spinning, cost several times the copy.
	copiesAtOnce = 4
	// holeBytes is the grain in which zeros are left out of a copy: the block size of file systems.
	holeBytes = 4 << 10
)

// duplicate makes dst, which is empty, equal to src: it shares blocks where that is possible and else copies what is not a hole. Nobody writes
// src meanwhile.
func duplicate(ctx context.Context, src, dst file, progress func(int64)) error {
	size, err := src.Size()
	if err != nil {
		return err
	}
	err = dst.Clone(src)
	if errors.Is(err, errNoReflink) {
		return copySparse(ctx, src, dst, size, progress)
	}
	if err == nil && progress != nil {
		progress(size)
	}
	return err
}

// copySparse copies size bytes, several chunks at once, and leaves holes where src has holes or zeros.
func copySparse(ctx context.Context, src, dst file, size int64, progress func(int64)) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	var behind writeBehind
	err := inChunks(ctx, func(emit func(off, n int64)) error {
		return eachChunk(ctx, src, size, func(off, n int64) {
			emit(off, n)
			if progress != nil {
				progress(off)
			}
		})
	}, func(buf []byte, off int64) error {
		n, err := readFull(src, buf, off)
		if err != nil {
			return err
		}
		if err := writeSparse(dst, buf[:n], off); err != nil {
			return err
		}
		behind.wrote(dst, off, int64(n))
		return nil
	})
	if err == nil && progress != nil {
		progress(size)
	}
	return err
}

// behindChunks is how many chunks a copy keeps in memory behind itself: enough for the disk to be busy all the time.
const behindChunks = (64 << 20) / chunkBytes

// cachedFile is a file whose way through the page cache can be steered. It is advice: durable is what Sync has made so.
type cachedFile interface {
	// Hasten has the disk begin with what was written.
	Hasten(off, length int64)
	// Release waits until the disk has what was written, and gives the memory back.
	Release(off, length int64)
}

// writeBehind sends what a copy writes on its way to the disk at once, and gives the memory back a little later. So the sync at the end finds
// nothing to do, and a copy of any size takes the memory of a small one: it neither drives out what others have cached, nor pays for
// memory that a virtual machine must first get back from its host.
type writeBehind struct {
	mu     sync.Mutex
	chunks [behindChunks]stretch // a ring; those on their way
	next   int
}

// wrote takes note of a chunk of dst, and may wait for one long before it.
func (w *writeBehind) wrote(dst file, off, length int64) {
	c, ok := dst.(cachedFile)
	if !ok {
		return
	}
	c.Hasten(off, length)
	w.mu.Lock()
	old := w.chunks[w.next]
	w.chunks[w.next] = stretch{off, length}
	w.next = (w.next + 1) % behindChunks
	w.mu.Unlock()
	if old.length > 0 {
		c.Release(old.off, old.length)
	}
}

// inChunks calls work, several at once, for the chunks that list gives.
func inChunks(ctx context.Context, list func(emit func(off, n int64)) error, work func(buf []byte, off int64) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(copiesAtOnce)
	free := make(chan []byte, copiesAtOnce)
	err := list(func(off, n int64) {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			buf := takeBuffer(free, n)
			defer func() { free <- buf }()
			return work(buf[:n], off)
		})
	})
	return errors.Join(group.Wait(), err)
}

// takeBuffer returns a buffer of at least n bytes, a used one if it is large enough.
func takeBuffer(free chan []byte, n int64) []byte {
	select {
	case buf := <-free:
		if int64(len(buf)) >= n {
			return buf
		}
	default:
	}
	return make([]byte, n)
}

// eachChunk calls f for the stretches of data below size, none longer than chunkBytes, in order.
func eachChunk(ctx context.Context, src file, size int64, f func(off, n int64)) error {
	for off := int64(0); off < size; {
		start, end, err := src.NextData(off)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if end = min(end, size); end <= off {
			return nil // data beyond the size that was asked for
		}
		for start < end {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(end-start, chunkBytes)
			f(start, n)
			start += n
		}
		off = end
	}
	return nil
}

// readFull is ReadAt that does not mind the end of the file.
func readFull(src file, buf []byte, off int64) (int, error) {
	n, err := src.ReadAt(buf, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// writeSparse writes p at off but for its blocks of zeros; the file has a hole there.
func writeSparse(dst io.WriterAt, p []byte, off int64) error {
	for len(p) > 0 {
		n, zero := run(p)
		if !zero {
			if _, err := dst.WriteAt(p[:n], off); err != nil {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

var zeros [holeBytes]byte

// run returns how many bytes p begins with that are, in blocks of holeBytes, all zero or all not.
func run(p []byte) (n int, zero bool) {
	block := func(at int) bool {
		b := p[at:min(at+holeBytes, len(p))]
		return bytes.Equal(b, zeros[:len(b)])
	}
	zero = block(0)
	for n = holeBytes; n < len(p) && block(n) == zero; n += holeBytes {
	}
	return min(n, len(p)), zero
}

// copyStream writes what r gives, at most size bytes, into dst, which is empty, and leaves zeros out.
func copyStream(ctx context.Context, r io.Reader, dst file, size int64, progress func(int64)) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, min(chunkBytes, size+1)) // one byte more than fits is noticed
	for off := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := readChunk(r, buf)
		if int64(n) > size-off {
			return fits(off+int64(n), size)
		}
		if werr := writeSparse(dst, buf[:n], off); werr != nil {
			return werr
		}
		off += int64(n)
		if progress != nil {
			progress(off)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readChunk fills buf; less only with an error, io.EOF at the end. Unlike io.ReadFull it cannot take a stream that broke off for one that ended.
func readChunk(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var got int
		got, err = r.Read(buf[n:])
		n += got
	}
	return n, err
}

var errTooLong = errors.New("the image does not fit")
