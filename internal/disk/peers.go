package disk

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A Peer is another host that says it has a base image. Pull writes its copy into a file.
type Peer struct {
	Host cloud.HostName
	Pull func(ctx context.Context, path string) error
}

// Near asks the image service for an image from an offset. The answer may be hosts to read it from instead, none of them tried; with neither it is to be
// asked again: it has waited already.
type Near func(ctx context.Context, offset int64, tried []cloud.HostName) (io.ReadCloser, []Peer, error)

const (
	// peerFailuresMax is how often a host is asked that does not give an image, which may have others to serve; after that the image service is told not to
	// name it again.
	peerFailuresMax = 3
	// peerPause is the pause after all hosts that were named have failed, so that hosts that are busy are not asked in a circle.
	peerPause = 200 * time.Millisecond
)

// errFromPeer says that another host has given the whole image.
var errFromPeer = errors.New("fetched from another host")

// sources is where one fetch reads from.
type sources struct {
	*Store
	base   Base
	failed map[cloud.HostName]int
}

// open returns the image service's stream from an offset, errFromPeer when the image has come from another host.
func (f *sources) open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	if f.base.Near == nil {
		return f.fetch(ctx, f.base.Image, offset)
	}
	for {
		r, peers, err := f.base.Near(ctx, offset, f.tried())
		if err != nil || r != nil {
			return r, err
		}
		if f.fromPeers(ctx, f.base, peers, f.failed) {
			return nil, errFromPeer
		}
		if err := ctx.Err(); err != nil {
			return nil, cloud.E(cloud.KindCancelled, "", "", err)
		}
		if len(peers) > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(peerPause):
			}
		}
	}
}

// tried returns the hosts that need not be named again.
func (f *sources) tried() []cloud.HostName {
	var out []cloud.HostName
	for host, times := range f.failed {
		if times >= peerFailuresMax {
			out = append(out, host)
		}
	}
	return out
}

// peerSuffix is that of an image that another host sends; it is begun anew with each of them.
const peerSuffix = ".peer" + tempSuffix

// fromPeers fetches a base from the first host that has it, and reports whether one did. What a host sends counts for nothing until its hash is right: one that
// dies or lies is left, and the next is asked.
// In failed it counts those that did not, a liar as often as it takes.
func (s *Store) fromPeers(ctx context.Context, b Base, peers []Peer, failed map[cloud.HostName]int) bool {
	path := s.basePath(b.SHA512)
	for _, peer := range peers {
		began := time.Now()
		err := s.fromPeer(ctx, b, peer, path)
		if err == nil {
			s.log.Info("base image fetched from another host", "image", b.Image, "host", peer.Host, "bytes", b.Bytes, "took", time.Since(began))
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		failed[peer.Host]++
		if cloud.Is(err, cloud.KindInvalid) {
			failed[peer.Host] += peerFailuresMax
		}
		s.log.Warn("another host did not give a base image", "image", b.Image, "host", peer.Host, "error", err)
	}
	return false
}

func (s *Store) fromPeer(ctx context.Context, b Base, peer Peer, path string) error {
	temp := path + peerSuffix
	defer os.Remove(temp) // when it has not got its name
	if err := peer.Pull(ctx, temp); err != nil {
		return err
	}
	f, err := os.Open(temp)
	if err != nil {
		return err
	}
	sum := sha512.New()
	_, err = io.Copy(sum, f)
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != b.SHA512 {
		err = cloud.Errorf(cloud.KindInvalid, "what it sent has another SHA-512")
	}
	if err == nil {
		_, err = checkBase(temp, b.Format)
	}
	return commit(f, err, path)
}
