package disk

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
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

// peerSuffix is that of an image that another host sends; it is begun anew with each of them.
const peerSuffix = ".peer" + tempSuffix

// fromPeers fetches a base from the first host that has it, and reports whether one did. What a host sends counts for nothing until its hash is right: one that
// dies or lies is left, and the next is asked.
func (s *Store) fromPeers(ctx context.Context, b Base) bool {
	path := s.basePath(b.SHA512)
	for _, peer := range b.Peers {
		began := time.Now()
		err := s.fromPeer(ctx, b, peer, path)
		if err == nil {
			s.log.Info("base image fetched from another host", "image", b.Image, "host", peer.Host, "bytes", b.Bytes, "took", time.Since(began))
			return true
		}
		if ctx.Err() != nil {
			return false
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
