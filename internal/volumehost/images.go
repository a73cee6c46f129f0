package volumehost

import (
	"bufio"
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
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
)

const (
	imagesDir = "images"
	// Files that have these suffixes are being made; after a crash they are worth nothing.
	partSuffix  = ".part"  // what will get the name without it
	fetchSuffix = ".fetch" // the image as it comes, of one that is kept in another format
	rawSuffix   = ".raw"   // of the name of an image that came as something else

	formatRaw   = "raw"
	formatQCOW2 = "qcow2"

	// A fetch that makes no headway is given up after fetchTriesMax attempts, pauses between them growing to fetchPauseMax: long enough for a
	// server to restart, short enough that a create does not seem to hang.
	fetchTriesMax = 8
	fetchPauseMin = 200 * time.Millisecond
	fetchPauseMax = 3 * time.Second
	// copyBytes is the wire's chunk size.
	copyBytes = 1 << 20
)

var (
	sha512Pattern = regexp.MustCompile(`^[0-9a-f]{128}$`)
	namePattern   = regexp.MustCompile(`^[0-9a-f]{128}(\.raw)?$`)
)

// imageRequest names an image by its content.
type imageRequest struct {
	id          cloud.ImageID
	bytes       int64
	sha512      string
	format      string
	volumeBytes int64 // what it is wanted for: a larger one is not converted in vain
}

// name is the file's: the hash of what was fetched and verified, and what was made of it.
func (r imageRequest) name() string {
	if r.format == formatRaw {
		return r.sha512
	}
	return r.sha512 + rawSuffix
}

// images is a directory of raw sparse image files, named by the SHA-512 of what was fetched: fetched, and if they come as qcow2 converted, at most
// once at a time however many volumes are made of them; verified and durable before they get their names; and removed, the longest unused first,
// when they are more than the bound and not in use. On a file system that shares blocks it lies in the back end, so that a
// volume of an image takes no time and no room.
type images struct {
	dir      string
	fetch    Fetch
	bytesMax int64 // of allocated blocks
	log      *slog.Logger

	mu    sync.Mutex
	inUse map[string]int // by name: those that hold the file, or make it
	turn  map[string]chan struct{}
	// proofs are when files were last read and found right, or made.
	proofs  map[string]time.Time
	damaged atomic.Uint64 // files that were not
}

// openCaches returns the cache for each store. A store that shares blocks keeps images on its own file system, one cache for all the stores of that;
// the others, among them those across a network, share the one in dir, which is local.
func openCaches(o Options) (map[*volume.Store]*images, error) {
	caches, byDevice := map[*volume.Store]*images{}, map[uint64]*images{}
	var local *images
	for _, s := range o.Stores {
		if !s.Reflink() {
			if local == nil {
				var err error
				if local, err = openImages(o.Dir, o.Fetch, o.ImageCacheBytes, o.Log); err != nil {
					return nil, err
				}
			}
			caches[s] = local
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(s.Dir(), &st); err != nil {
			return nil, fmt.Errorf("image cache: %s: %w", s.Dir(), err)
		}
		if byDevice[st.Dev] == nil {
			cache, err := openImages(s.Dir(), o.Fetch, o.ImageCacheBytes, o.Log)
			if err != nil {
				return nil, err
			}
			byDevice[st.Dev] = cache
		}
		caches[s] = byDevice[st.Dev]
	}
	return caches, nil
}

// dropUnused removes the caches that an earlier configuration has left: where a store, or all of them, now keep images elsewhere. Directories may have
// several names, so they are compared by what they are.
func dropUnused(o Options, caches map[*volume.Store]*images) error {
	var used []fs.FileInfo
	for _, c := range caches {
		info, err := os.Stat(c.dir)
		if err != nil {
			return fmt.Errorf("image cache: %w", err)
		}
		used = append(used, info)
	}
	dirs := []string{o.Dir}
	for _, s := range o.Stores {
		dirs = append(dirs, s.Dir())
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, imagesDir)
		info, err := os.Stat(path)
		if err == nil && !slices.ContainsFunc(used, func(u fs.FileInfo) bool { return os.SameFile(u, info) }) {
			err = os.RemoveAll(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("image cache: %w", err)
		}
	}
	return nil
}

func openImages(dir string, fetch Fetch, bytesMax int64, log *slog.Logger) (*images, error) {
	c := &images{dir: filepath.Join(dir, imagesDir), fetch: fetch, bytesMax: bytesMax, log: log, inUse: map[string]int{}, turn: map[string]chan struct{}{},
		proofs: map[string]time.Time{}}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	return c, c.trim()
}

// get returns the path of the image as a raw file, fetching and converting it first if need be. The file stays until release is called.
func (c *images) get(ctx context.Context, r imageRequest) (path string, release func(), err error) {
	if r.id == "" || r.bytes <= 0 || !sha512Pattern.MatchString(r.sha512) {
		return "", nil, cloud.Errorf(cloud.KindInvalid, "image %q: its record has no id, size or SHA-512", r.id)
	}
	if r.format != formatRaw && r.format != formatQCOW2 {
		return "", nil, cloud.Errorf(cloud.KindInvalid, "image %s: volumes are made of raw and qcow2, not of %q", r.id, r.format)
	}
	turn := c.enter(r.name())
	release = func() { c.leave(r.name()) }
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

func (c *images) enter(name string) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inUse[name]++
	if c.turn[name] == nil {
		c.turn[name] = make(chan struct{}, 1)
	}
	return c.turn[name]
}

func (c *images) leave(name string) {
	c.mu.Lock()
	if c.inUse[name]--; c.inUse[name] == 0 {
		delete(c.inUse, name)
		delete(c.turn, name)
	}
	c.mu.Unlock()
	if err := c.trim(); err != nil {
		c.log.Warn("image cache", "error", err)
	}
}

// ensure has the image's data under its name. With the image's turn.
func (c *images) ensure(ctx context.Context, r imageRequest) (string, error) {
	path := filepath.Join(c.dir, r.name())
	now := time.Now()
	err := os.Chtimes(path, now, now) // used: the last to be removed
	if err == nil {
		whole, err := c.proven(ctx, r.name(), path)
		if err == nil && !whole {
			err = removeImage(path)
		}
		if err != nil {
			return "", cloud.E(cloud.KindOf(err), "prove", "image "+string(r.id), err)
		}
		if whole {
			return path, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("image %s: %w", r.id, err)
	}
	if err := c.bring(ctx, r, path); err != nil {
		kind := cloud.KindOf(err)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			kind = cloud.KindExhausted
		}
		for _, unfinished := range []string{path + partSuffix, path + fetchSuffix, path + sumSuffix + partSuffix, path + sumSuffix} {
			if rerr := os.Remove(unfinished); !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
		if kind == cloud.KindExhausted { // volumes need the room more than images that nobody uses now
			err = errors.Join(err, c.trimTo(0))
		}
		return "", cloud.E(kind, "fetch", "image "+string(r.id), err)
	}
	c.noteProof(r.name())
	c.log.Info("image fetched", "image", r.id, "bytes", r.bytes, "format", r.format, "took", time.Since(now))
	return path, nil
}

// bring fetches the data, proves it, makes a raw file of it and gives that its name.
func (c *images) bring(ctx context.Context, r imageRequest, path string) error {
	part := path + partSuffix
	if r.format == formatRaw {
		if err := c.fetchTo(ctx, r, part); err != nil {
			return err
		}
	} else {
		packed := path + fetchSuffix
		if err := c.fetchTo(ctx, r, packed); err != nil {
			return err
		}
		if _, err := volume.ConvertQCOW2(ctx, packed, part, r.volumeBytes); err != nil {
			return err
		}
		if err := os.Remove(packed); err != nil {
			return err
		}
	}
	if err := seal(ctx, part, path); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return syncDir(c.dir)
}

// fetchTo fetches the data into a file, anew, proves it and makes it durable.
func (c *images) fetchTo(ctx context.Context, r imageRequest, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, sparse := sha512.New(), &sparseWriter{file: f}
	to := bufio.NewWriterSize(sparse, copyBytes) // whole blocks, so that zeros among them are found
	if err := c.download(ctx, r, io.MultiWriter(to, sum)); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != r.sha512 {
		return cloud.Errorf(cloud.KindInvalid, "its data has the SHA-512 %.16s..., its record says %.16s...", got, r.sha512)
	}
	return errors.Join(to.Flush(), f.Truncate(r.bytes), f.Sync())
}

// sparseWriter writes a file that has holes where there are blocks of zeros.
type sparseWriter struct {
	file *os.File
	off  int64
}

// Write implements io.Writer.
func (w *sparseWriter) Write(p []byte) (int, error) {
	if err := volume.WriteSparse(w.file, p, w.off); err != nil {
		return 0, err
	}
	w.off += int64(len(p))
	return len(p), nil
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

// trim removes what nobody uses: what is unfinished, and images beyond the bound.
func (c *images) trim() error { return c.trimTo(c.bytesMax) }

// trimTo is trim with another bound.
func (c *images) trimTo(bytesMax int64) error {
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
		name, unfinished := cutSuffix(e.Name())
		name, sum := strings.CutSuffix(name, sumSuffix)
		if c.inUse[name] > 0 {
			continue
		}
		if sum && !unfinished && slices.ContainsFunc(entries, func(i os.DirEntry) bool { return i.Name() == name }) {
			continue // it goes with its image
		}
		if unfinished || sum || !namePattern.MatchString(name) {
			if err := os.Remove(filepath.Join(c.dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		idle = append(idle, info)
		total += allocated(info)
	}
	slices.SortFunc(idle, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range idle {
		if total <= bytesMax {
			return nil
		}
		if err := removeImage(filepath.Join(c.dir, info.Name())); err != nil {
			return err
		}
		delete(c.proofs, info.Name())
		total -= allocated(info)
	}
	return nil
}

// removeImage removes an image and then its sum: a sum by itself is litter, an image by itself would be fetched in vain.
func removeImage(path string) error {
	err := os.Remove(path)
	if serr := os.Remove(path + sumSuffix); !errors.Is(serr, fs.ErrNotExist) {
		err = errors.Join(err, serr)
	}
	return err
}

// allocated is what a file takes on the disk, in bytes; blocks that it shares with volumes count as its own.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// cutSuffix returns the name that an unfinished file will get.
func cutSuffix(file string) (name string, unfinished bool) {
	for _, suffix := range []string{partSuffix, fetchSuffix} {
		if name, ok := strings.CutSuffix(file, suffix); ok {
			return name, true
		}
	}
	return file, false
}
