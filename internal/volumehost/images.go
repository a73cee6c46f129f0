package volumehost

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	imagesDir  = "images"
	partSuffix = ".part"

	// A fetch that makes no headway is given up after fetchTriesMax attempts, pauses between them growing to fetchPauseMax: long enough for a
	// server to restart, short enough that a create does not seem to hang.
	fetchTriesMax = 8
	fetchPauseMin = 200 * time.Millisecond
	fetchPauseMax = 3 * time.Second
	// copyBytes is the wire's chunk size.
	copyBytes = 1 << 20
)

var sha512Pattern = regexp.MustCompile(`^[0-9a-f]{128}$`)

// imageRequest names an image by its content.
type imageRequest struct {
	id     cloud.ImageID
	bytes  int64
	sha512 string
}

// images is a directory of image files, named by the SHA-512 of their data: fetched at most once at a time however many volumes are made of them,
// verified before they get their names, and removed, the longest unused first, when they are more than the bound and not in use.
type images struct {
	dir      string
	fetch    Fetch
	bytesMax int64
	log      *slog.Logger

	mu    sync.Mutex
	inUse map[string]int // by hash: those that hold the file, or fetch it
	turn  map[string]chan struct{}
}

func openImages(dir string, fetch Fetch, bytesMax int64, log *slog.Logger) (*images, error) {
	c := &images{dir: filepath.Join(dir, imagesDir), fetch: fetch, bytesMax: bytesMax, log: log, inUse: map[string]int{}, turn: map[string]chan struct{}{}}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	return c, c.trim()
}

// get returns the path of the image's verified data, fetching it first if need be. The file stays until release is called.
func (c *images) get(ctx context.Context, r imageRequest) (path string, release func(), err error) {
	if r.id == "" || r.bytes <= 0 || !sha512Pattern.MatchString(r.sha512) {
		return "", nil, cloud.Errorf(cloud.KindInvalid, "image %q: its record has no id, size or SHA-512", r.id)
	}
	turn := c.enter(r.sha512)
	release = func() { c.leave(r.sha512) }
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		release()
		return "", nil, cloud.E(cloud.KindCancelled, "fetch", "image "+string(r.id), context.Cause(ctx))
	}
	path, err = c.ensure(ctx, r)
	<-turn
	if err != nil {
		release()
		return "", nil, err
	}
	return path, release, nil
}

func (c *images) enter(hash string) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inUse[hash]++
	if c.turn[hash] == nil {
		c.turn[hash] = make(chan struct{}, 1)
	}
	return c.turn[hash]
}

func (c *images) leave(hash string) {
	c.mu.Lock()
	if c.inUse[hash]--; c.inUse[hash] == 0 {
		delete(c.inUse, hash)
		delete(c.turn, hash)
	}
	c.mu.Unlock()
	if err := c.trim(); err != nil {
		c.log.Warn("image cache", "error", err)
	}
}

// ensure has the image's data under its name. With the image's turn.
func (c *images) ensure(ctx context.Context, r imageRequest) (string, error) {
	path := filepath.Join(c.dir, r.sha512)
	now := time.Now()
	err := os.Chtimes(path, now, now) // used: the last to be removed
	if err == nil {
		return path, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("image %s: %w", r.id, err)
	}
	if err := c.bring(ctx, r, path); err != nil {
		kind := cloud.KindOf(err)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			kind = cloud.KindExhausted
			err = errors.Join(err, os.Remove(path+partSuffix))
		}
		return "", cloud.E(kind, "fetch", "image "+string(r.id), err)
	}
	c.log.Info("image fetched", "image", r.id, "bytes", r.bytes, "took", time.Since(now))
	return path, nil
}

// bring fetches the data, proves it and gives it its name.
func (c *images) bring(ctx context.Context, r imageRequest, path string) error {
	part, err := os.OpenFile(path+partSuffix, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer part.Close()
	sum := sha512.New()
	if err := c.download(ctx, r, io.MultiWriter(part, sum)); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != r.sha512 {
		return errors.Join(cloud.Errorf(cloud.KindInvalid, "its data has the SHA-512 %.16s..., its record says %.16s...", got, r.sha512), os.Remove(part.Name()))
	}
	if err := part.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), path); err != nil {
		return err
	}
	return syncDir(c.dir)
}

// download writes the whole image, going on where a connection broke.
func (c *images) download(ctx context.Context, r imageRequest, to io.Writer) error {
	var have int64
	pause := fetchPauseMin
	for tries := 0; have < r.bytes; {
		n, err := c.some(ctx, r, to, have)
		have += n
		if n > 0 {
			tries, pause = 0, fetchPauseMin
		}
		switch {
		case ctx.Err() != nil:
			return cloud.E(cloud.KindCancelled, "", "", context.Cause(ctx))
		case have == r.bytes:
			return nil
		case !cloud.Is(err, cloud.KindUnavailable):
			return err
		}
		if tries++; tries == fetchTriesMax {
			return cloud.Errorf(cloud.KindUnavailable, "stopped at %d of %d bytes: %w", have, r.bytes, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, fetchPauseMax)
	}
	return nil
}

// some copies one stream as far as it goes. Without an error it is the whole rest.
func (c *images) some(ctx context.Context, r imageRequest, to io.Writer, offset int64) (int64, error) {
	from, err := c.fetch(ctx, r.id, offset)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	n, err := io.CopyBuffer(to, io.LimitReader(from, r.bytes-offset), make([]byte, copyBytes))
	if err == nil && offset+n < r.bytes {
		err = cloud.E(cloud.KindUnavailable, "", "", io.ErrUnexpectedEOF)
	}
	return n, err
}

// trim removes what nobody uses: unfinished fetches, and images beyond the bound.
func (c *images) trim() error {
	c.mu.Lock() // so that nobody begins to use what is being removed
	defer c.mu.Unlock()
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var idle []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, unfinished := cutPart(e.Name())
		if c.inUse[name] > 0 {
			continue
		}
		if unfinished || !sha512Pattern.MatchString(name) {
			if err := os.Remove(filepath.Join(c.dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		idle = append(idle, info)
		total += info.Size()
	}
	slices.SortFunc(idle, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range idle {
		if total <= c.bytesMax {
			return nil
		}
		if err := os.Remove(filepath.Join(c.dir, info.Name())); err != nil {
			return err
		}
		total -= info.Size()
	}
	return nil
}

func cutPart(name string) (hash string, part bool) {
	if n := len(name) - len(partSuffix); n >= 0 && name[n:] == partSuffix {
		return name[:n], true
	}
	return name, false
}
