package peerdisk

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

const (
	// chunkBytes is what one request carries: large enough that requests cost little, small enough that what was read is still in the processor's cache when
	// it is written.
	chunkBytes = 512 << 10
	// chunksAtOnce is how many are under way: what hides the way there and back.
	chunksAtOnce = 8
	// extentsBytes is the range whose extents are asked for at a time.
	extentsBytes = 1 << 30
	// holeBytes is the grain in which zeros are left out: the block size of file systems.
	holeBytes = 4 << 10
)

// Source is a file at another host.
type Source struct {
	Address string // HOST:PORT
	Export  string
	TLS     *tls.Config // with the server's name and this host's certificate
}

// Puller copies files of other hosts. Make it with NewPuller; any goroutine may use it.
type Puller struct {
	limit *rate.Limiter // bytes per second over all copies; nil: none
}

// NewPuller makes a puller whose copies together read at most that many bytes per second; 0: as fast as they can.
func NewPuller(bytesPerSecond int64) *Puller {
	p := &Puller{}
	if bytesPerSecond > 0 {
		p.limit = rate.NewLimiter(rate.Limit(bytesPerSecond), chunkBytes)
	}
	return p
}

// sink is where a copy goes.
type sink interface {
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// ringFile is a file on a ring of its own: a ring that waits costs a processor, so it lives as long as the copy.
type ringFile struct {
	*uring.File
	loop *uring.Loop
}

// Close closes the file and its ring.
func (f ringFile) Close() error { return errors.Join(f.File.Close(), f.loop.Close()) }

func create(path string) (sink, error) {
	const flags, mode = os.O_CREATE | os.O_TRUNC | os.O_RDWR, 0o600
	loop, err := uring.NewLoop(uring.Options{})
	if errors.Is(err, uring.ErrUnavailable) {
		return os.OpenFile(path, flags, mode)
	}
	if err != nil {
		return nil, err
	}
	f, err := loop.Open(path, flags, mode)
	if err != nil {
		return nil, errors.Join(err, loop.Close())
	}
	return ringFile{f, loop}, nil
}

// Pull makes path a durable copy of the source. With a bound above 0 a longer source is refused before a byte is read. Any failure of the other side is
// cloud.KindUnavailable.
func (p *Puller) Pull(ctx context.Context, from Source, path string, bytesMax int64) (written int64, err error) {
	client, err := nbd.Dial(ctx, "tcp", from.Address, nbd.ClientOptions{Export: from.Export, TLS: from.TLS})
	if err != nil {
		return 0, cloud.E(cloud.KindUnavailable, "pull", from.Address, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer func() {
		if stop() {
			_ = client.Close() // nothing was written through it
		}
	}()
	if bytesMax > 0 && client.Size() > bytesMax {
		return 0, cloud.Errorf(cloud.KindInvalid, "pull: %s has %d bytes, more than %d", from.Address, client.Size(), bytesMax)
	}
	file, err := create(path)
	if err != nil {
		return 0, fmt.Errorf("pull: %w", err)
	}
	c := &copying{client: client, file: file, limit: p.limit, free: make(chan []byte, chunksAtOnce)}
	err = c.run(ctx)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if ctx.Err() != nil {
		return 0, cloud.E(cloud.KindCancelled, "pull", from.Address, context.Cause(ctx))
	}
	return c.written, err
}

// copying is one copy under way.
type copying struct {
	client  *nbd.Client
	file    sink
	limit   *rate.Limiter
	free    chan []byte
	mu      sync.Mutex
	written int64 // guarded by mu while run runs
}

func (c *copying) run(ctx context.Context) error {
	size := c.client.Size()
	if err := c.file.Truncate(size); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(chunksAtOnce)
	err := c.extents(ctx, size, func(off, n int64) {
		group.Go(func() error { return c.chunk(ctx, off, n) })
	})
	return errors.Join(group.Wait(), err)
}

// extents calls emit for the stretches that may hold data, none longer than chunkBytes.
func (c *copying) extents(ctx context.Context, size int64, emit func(off, n int64)) error {
	for off := int64(0); off < size && ctx.Err() == nil; {
		length := min(size-off, extentsBytes)
		found := []nbd.Extent{{Length: uint64(length)}}
		if c.client.HasStatus() {
			var err error
			if found, err = c.client.BlockStatus(off, uint32(length), 0); err != nil {
				return unavailable(err)
			}
		}
		if len(found) == 0 {
			return cloud.Errorf(cloud.KindUnavailable, "pull: the other host says nothing of what is at %d", off)
		}
		for _, e := range found {
			end := min(off+int64(e.Length), size)
			if e.Length == 0 {
				return cloud.Errorf(cloud.KindUnavailable, "pull: the other host speaks of an empty extent at %d", off)
			}
			for at := off; e.Flags&nbd.StatusZero == 0 && at < end && ctx.Err() == nil; at += chunkBytes {
				emit(at, min(end-at, chunkBytes))
			}
			off = end
		}
	}
	return nil
}

func (c *copying) chunk(ctx context.Context, off, n int64) error {
	if c.limit != nil {
		if err := c.limit.WaitN(ctx, int(n)); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var buf []byte
	select {
	case buf = <-c.free:
	default:
		buf = make([]byte, chunkBytes)
	}
	defer func() { c.free <- buf }() // never full: as many as chunks at once
	if _, err := c.client.ReadAt(buf[:n], off); err != nil {
		return unavailable(err)
	}
	wrote, err := writeSparse(c.file, buf[:n], off)
	c.mu.Lock()
	c.written += wrote
	c.mu.Unlock()
	return err
}

func unavailable(err error) error { return cloud.E(cloud.KindUnavailable, "pull", "", err) }

var zeros [holeBytes]byte

// writeSparse writes p at off but for its blocks of zeros, and returns how much it wrote.
func writeSparse(to io.WriterAt, p []byte, off int64) (written int64, err error) {
	for len(p) > 0 {
		n, zero := run(p)
		if !zero {
			if _, err := to.WriteAt(p[:n], off); err != nil {
				return written, err
			}
			written += int64(n)
		}
		p, off = p[n:], off+int64(n)
	}
	return written, nil
}

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
