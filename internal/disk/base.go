package disk

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	partSuffix = ".part"
	// fetchTriesMax bounds attempts that bring not a single byte; one that does starts the count anew. With the pauses between them the
	// server has about half a minute to come back before the boot fails.
	fetchTriesMax = 10
	fetchPauseMin = 100 * time.Millisecond
	fetchPauseMax = 5 * time.Second
	copyBytes     = 1 << 20
	// fetchesMax bounds the images that a host fetches at a time; further ones wait.
	fetchesMax = 2
)

// Base says which image a server's disk is an overlay of.
type Base struct {
	Image  cloud.ImageID
	Format string // FormatQCOW2 or FormatRaw
	Bytes  int64  // of the image's data
	SHA512 string // of the image's data, hexadecimal
	Peers  []Peer // hosts that have it, asked before the image service
	Near   Near   // asks the image service, which may name hosts that have it by now; nil: Options.Fetch
}

func (b Base) validate() error {
	raw, err := hex.DecodeString(b.SHA512)
	switch {
	case err != nil || len(raw) != sha512.Size || b.SHA512 != strings.ToLower(b.SHA512):
		return cloud.Errorf(cloud.KindInvalid, "image %s: %q is no SHA-512 in lower-case hexadecimal", b.Image, b.SHA512)
	case b.Format != FormatQCOW2 && b.Format != FormatRaw:
		return cloud.Errorf(cloud.KindInvalid, "image %s: format %q: qcow2 or raw", b.Image, b.Format)
	case b.Bytes <= 0:
		return cloud.Errorf(cloud.KindInvalid, "image %s: %d bytes", b.Image, b.Bytes)
	}
	return nil
}

// fetching is one image on its way; all who want it wait for the same one.
type fetching struct {
	cancel  context.CancelFunc
	waiters int           // guarded by Store.mu; the fetch is cancelled when it falls to 0
	done    chan struct{} // closed when err is final
	err     error
}

func (s *Store) basePath(sha string) string { return s.path(imagesDir, sha) }

// EnsureBase returns the path of the base and its virtual size, fetching it first if this host has not got it. Concurrent calls share one
// fetch, which ends when nobody waits for it any more; its data is kept for the next attempt.
func (s *Store) EnsureBase(ctx context.Context, b Base) (path string, virtualBytes int64, err error) {
	if err := b.validate(); err != nil {
		return "", 0, err
	}
	path = s.basePath(b.SHA512)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := s.await(ctx, b); err != nil {
			return "", 0, err
		}
	} else if err != nil {
		return "", 0, fmt.Errorf("image %s: %w", b.Image, err)
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil { // in use: see Evict
		return "", 0, fmt.Errorf("image %s: %w", b.Image, err)
	}
	virtualBytes, err = checkBase(path, b.Format)
	if err != nil {
		return "", 0, cloud.E(cloud.KindInvalid, "", fmt.Sprintf("image %s", b.Image), err)
	}
	return path, virtualBytes, nil
}

// await joins the fetch of b, starting it if there is none.
func (s *Store) await(ctx context.Context, b Base) error {
	s.mu.Lock()
	f := s.fetches[b.SHA512]
	if f == nil {
		life, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &fetching{cancel: cancel, done: make(chan struct{})}
		s.fetches[b.SHA512] = f
		go func() {
			f.err = s.fetchBase(life, b)
			cancel()
			s.mu.Lock()
			delete(s.fetches, b.SHA512)
			s.mu.Unlock()
			close(f.done)
		}()
	}
	f.waiters++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.waiters--; f.waiters == 0 {
			f.cancel()
		}
	}()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return cloud.E(cloud.KindCancelled, "fetch", fmt.Sprintf("image %s", b.Image), ctx.Err())
	}
}

// fetchBase brings the data, proves it and gives it its name.
func (s *Store) fetchBase(ctx context.Context, b Base) error {
	select {
	case s.fetchTurns <- struct{}{}:
		defer func() { <-s.fetchTurns }()
	case <-ctx.Done():
		return cloud.E(cloud.KindCancelled, "fetch", fmt.Sprintf("image %s", b.Image), ctx.Err())
	}
	began := time.Now()
	path := s.basePath(b.SHA512)
	if _, err := os.Stat(path); err == nil {
		return nil // the fetch before ours ended between our look and our turn
	}
	if s.fromPeers(ctx, b, b.Peers, map[cloud.HostName]int{}) {
		return nil
	}
	part, err := os.OpenFile(path+partSuffix, os.O_CREATE|os.O_RDWR, 0o444)
	if err != nil {
		return fmt.Errorf("image %s: %w", b.Image, err)
	}
	defer part.Close()
	sum, have, err := resume(part, b.Bytes)
	if err != nil {
		return fmt.Errorf("image %s: %w", b.Image, err)
	}
	resumed := have
	if err := s.download(ctx, b, part, sum, have); err != nil {
		if errors.Is(err, errFromPeer) {
			return os.Remove(part.Name()) // what the image service had sent of it
		}
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != b.SHA512 {
		os.Remove(part.Name()) // the next attempt begins anew
		return cloud.Errorf(cloud.KindInvalid, "image %s: its data has the SHA-512 %.16s..., its record says %.16s...", b.Image, got, b.SHA512)
	}
	if _, err := checkBase(part.Name(), b.Format); err != nil {
		os.Remove(part.Name())
		return cloud.E(cloud.KindInvalid, "", fmt.Sprintf("image %s", b.Image), err)
	}
	if err := part.Sync(); err != nil {
		return fmt.Errorf("image %s: %w", b.Image, err)
	}
	if err := os.Rename(part.Name(), path); err != nil {
		return fmt.Errorf("image %s: %w", b.Image, err)
	}
	s.log.Info("base image fetched", "image", b.Image, "bytes", b.Bytes, "resumed_at", resumed, "took", time.Since(began))
	return syncDir(s.path(imagesDir))
}

// resume hashes what an earlier attempt left and positions the file at its end.
func resume(part *os.File, bytesMax int64) (sum hash.Hash, have int64, err error) {
	sum = sha512.New()
	info, err := part.Stat()
	if err != nil {
		return nil, 0, err
	}
	if info.Size() > bytesMax {
		if err := part.Truncate(0); err != nil {
			return nil, 0, err
		}
		return sum, 0, nil
	}
	have, err = io.Copy(sum, part)
	return sum, have, err
}

// download appends to part from offset have until the image is whole.
func (s *Store) download(ctx context.Context, b Base, part io.Writer, sum hash.Hash, have int64) error {
	pause := fetchPauseMin
	from := &sources{Store: s, base: b, failed: map[cloud.HostName]int{}}
	for tries := 0; have < b.Bytes; {
		n, err := s.fetchSome(ctx, b, from, io.MultiWriter(part, sum), have)
		have += n
		if n > 0 {
			tries, pause = 0, fetchPauseMin
		}
		switch {
		case ctx.Err() != nil:
			return cloud.E(cloud.KindCancelled, "fetch", fmt.Sprintf("image %s", b.Image), ctx.Err())
		case have == b.Bytes:
			return nil
		case errors.Is(err, errFromPeer):
			return err
		case err != nil && !cloud.Is(err, cloud.KindUnavailable):
			return fmt.Errorf("image %s: fetch: %w", b.Image, err)
		}
		if tries++; tries == fetchTriesMax {
			return cloud.Errorf(cloud.KindUnavailable, "image %s: fetch stopped at %d of %d bytes: %w", b.Image, have, b.Bytes, err)
		}
		s.log.Warn("image fetch interrupted", "image", b.Image, "at", have, "of", b.Bytes, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, fetchPauseMax)
	}
	return nil
}

// fetchSome copies one stream as far as it goes.
func (s *Store) fetchSome(ctx context.Context, b Base, sources *sources, to io.Writer, offset int64) (int64, error) {
	from, err := sources.open(ctx, offset)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	n, err := io.CopyBuffer(to, io.LimitReader(from, b.Bytes-offset), make([]byte, copyBytes))
	if err == nil && offset+n < b.Bytes {
		err = cloud.E(cloud.KindUnavailable, "", "", io.ErrUnexpectedEOF)
	}
	return n, err
}
