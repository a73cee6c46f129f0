package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// grain is how a copy is cut up.
type grain struct {
	chunk  int64 // bytes of one request
	atOnce int   // requests under way
}

var (
	// cachedGrain is for writing through the page cache: chunks large enough that requests cost little, small enough that what was read is still in
	// the processor's cache when it is written. File systems let one writer at a time into a file; more who wait for it, some of them spinning, cost
	// several times the copy.
	cachedGrain = grain{chunkBytes, 4}
	// directGrain is for writing past it: the disk does the work. Its requests are large because each has its price: space is looked for, an extent and its
	// journal are written, and the disk's own queue takes no more than 4 MiB at a time. Few are enough to keep it busy.
	directGrain = grain{4 << 20, 4}
)

const (
	chunkBytes = 256 << 10
	// holeBytes is the grain in which zeros are left out of a copy: the block size of file systems.
	holeBytes = 4 << 10
)

// duplicate makes dst, which is empty, equal to src: it shares blocks where that is possible and else copies what is not a hole. Nobody writes
// src meanwhile.
func duplicate(ctx context.Context, src file, dst *target, progress func(int64)) error {
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
func copySparse(ctx context.Context, src file, dst *target, size int64, progress func(int64)) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	g := dst.grain()
	err := inChunks(ctx, g.atOnce, func(emit func(off, n int64)) error {
		return eachChunk(ctx, src, size, g.chunk, func(off, n int64) {
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
		return writeSparse(dst, buf[:n], off)
	})
	if err == nil && progress != nil {
		progress(size)
	}
	return err
}

// target is a file that a copy is made into.
//
// Where the file system allows it, whole blocks are written past the page cache: the bytes are copied once instead of twice, no page is asked for and
// given back, and the requests wait in the disk's queue instead of for the file system's one writer. That takes half the processor's time, and the
// data is on the disk when the last request has ended. Through the cache goes what is no whole block, and all the rest where there is no
// other way.
type target struct {
	file
	past   file // the same file, for writing past the page cache; nil: there is no such way
	behind writeBehind
}

// openTarget makes an empty file to copy into.
func (s *Store) openTarget(path string) (*target, error) {
	f, err := s.files.Open(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	t := &target{file: f}
	if s.noDio != "" {
		return t, nil
	}
	past, err := s.files.Open(path, os.O_WRONLY|unix.O_DIRECT)
	if err != nil {
		return t, nil // it may be a file system that refuses some files
	}
	if past.Align() > holeBytes {
		return t, past.Close()
	}
	t.past = past
	return t, nil
}

// Close closes both ways to the file.
func (t *target) Close() error {
	err := t.file.Close()
	if t.past != nil {
		err = errors.Join(err, t.past.Close())
	}
	return err
}

func (t *target) grain() grain {
	if t.past != nil {
		return directGrain
	}
	return cachedGrain
}

// WriteAt implements io.WriterAt.
func (t *target) WriteAt(p []byte, off int64) (int, error) {
	if t.past != nil && off%holeBytes == 0 && len(p)%holeBytes == 0 {
		n, err := t.past.WriteAt(p, off)
		if !errors.Is(err, unix.EINVAL) {
			return n, err
		}
		// Not like this, the file system says; some say so only now.
	}
	n, err := t.file.WriteAt(p, off)
	if err == nil {
		t.behind.wrote(t.file, off, int64(len(p)))
	}
	return n, err
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

// inChunks calls work, for atOnce at a time of the chunks that list gives. Buffers are as direct I/O wants them.
func inChunks(ctx context.Context, atOnce int, list func(emit func(off, n int64)) error, work func(buf []byte, off int64) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	memory := newBuffers(atOnce)
	defer memory.close()
	err := list(func(off, n int64) {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			buf := memory.take(n)
			defer memory.give(buf)
			return work(buf[:n], off)
		})
	})
	return errors.Join(group.Wait(), err)
}

// eachChunk calls f for the stretches of data below size, none longer than chunk, in order.
func eachChunk(ctx context.Context, src file, size, chunk int64, f func(off, n int64)) error {
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
			n := min(end-start, chunk)
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
