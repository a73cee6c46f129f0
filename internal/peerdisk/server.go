package peerdisk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/nbd"
)

const (
	// connsMax bounds the connections of a Server: a cold migration or an image has one each, and a host takes part in few at a time.
	connsMax = 64
	// imageReadersMax bounds the hosts that read base images at a time, so that each of them gets on; the next ones ask another host, or a moment later.
	imageReadersMax = 4
	// readsMax bounds the requests of one file that are read at a time: what keeps a disk busy.
	readsMax = 8
	// imagePrefix begins the export name of a base image, whose hash follows.
	imagePrefix = "image:"
)

// ImageExport returns the name under which hosts serve a base image.
func ImageExport(sha512 string) string { return imagePrefix + sha512 }

// Options make a Server. TLS, PeerHost and Base are required.
type Options struct {
	// TLS is how clients are met: they must show a certificate.
	TLS *tls.Config
	// PeerHost returns the host at the other end of a connection.
	PeerHost func(tls.ConnectionState) (cloud.HostName, error)
	// Base returns the path of a base image by its hash, false when it is not whole or not here. It must not block.
	Base func(sha512 string) (path string, ok bool)
	// ImageBandwidth bounds what is sent of base images, to all hosts together, in bytes per second; 0: unlimited. Disks of servers that move are not held up.
	ImageBandwidth int64
	Log            *slog.Logger // nil: slog.Default
}

// Server serves this host's disks and images to others.
type Server struct {
	o   Options
	nbd *nbd.Server

	limit *rate.Limiter // of base images; nil: none

	mu      sync.Mutex
	offers  map[string]*offer // guarded by mu
	readers int               // of base images; guarded by mu
}

// offer is a file that one host may read.
type offer struct {
	to     cloud.HostName
	device *fileDevice
}

// NewServer makes a server that offers nothing yet.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{o: o, offers: map[string]*offer{}}
	if o.ImageBandwidth > 0 {
		s.limit = rate.NewLimiter(rate.Limit(o.ImageBandwidth), chunkBytes)
	}
	s.nbd = &nbd.Server{Exports: s, TLS: o.TLS, TLSMode: nbd.TLSRequired, ConnsMax: connsMax, Log: o.Log}
	return s
}

// Serve answers connections until Close. It takes over the listener.
func (s *Server) Serve(l net.Listener) error {
	err := s.nbd.Serve(l)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close breaks all connections off and takes all offers back.
func (s *Server) Close() error {
	err := s.nbd.Close()
	s.mu.Lock()
	names := make([]string, 0, len(s.offers))
	for name := range s.offers {
		names = append(names, name)
	}
	s.mu.Unlock()
	for _, name := range names {
		s.Withdraw(name)
	}
	return err
}

// Offer lets the host read the file under the name until Withdraw, and returns the file's length. Offering the same again changes nothing; another host
// replaces the one before.
func (s *Server) Offer(name, path string, to cloud.HostName) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.offers[name]; held != nil {
		held.to = to
		return int64(held.device.Size()), nil
	}
	device, err := openDevice(path)
	if err != nil {
		return 0, fmt.Errorf("offer %s: %w", name, err)
	}
	s.offers[name] = &offer{to: to, device: device}
	return int64(device.Size()), nil
}

// Withdraw ends an offer, waiting for requests under way. An absent one is success.
func (s *Server) Withdraw(name string) {
	s.mu.Lock()
	held := s.offers[name]
	delete(s.offers, name)
	s.mu.Unlock()
	if held != nil {
		held.device.close()
	}
}

// Find implements nbd.Exports.
func (s *Server) Find(name string, peer nbd.Peer) (nbd.Device, error) {
	if peer.TLS == nil {
		return nil, nbd.NotPermitted
	}
	host, err := s.o.PeerHost(*peer.TLS)
	if err != nil {
		return nil, errors.Join(nbd.NotPermitted, err)
	}
	if hash, ok := strings.CutPrefix(name, imagePrefix); ok {
		return s.findImage(hash)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.offers[name]
	switch {
	case held == nil:
		return nil, errors.New("peerdisk: no such export")
	case held.to != host:
		s.o.Log.Warn("a disk was asked for by a host that it is not offered to", "export", name, "host", host, "offered_to", held.to)
		return nil, nbd.NotPermitted
	}
	return held.device, nil
}

// findImage opens a base image for one connection.
func (s *Server) findImage(hash string) (nbd.Device, error) {
	path, ok := s.o.Base(hash)
	if !ok {
		return nil, fmt.Errorf("peerdisk: no image %.16s", hash)
	}
	device, err := openDevice(path)
	if err != nil {
		return nil, err
	}
	device.images = s
	return device, nil
}

// enter counts a reader of a base image, if there is room for it; leave takes it off.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers >= imageReadersMax {
		return fmt.Errorf("peerdisk: %d hosts read images already", s.readers)
	}
	s.readers++
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers--
}

// List implements nbd.Exports: a name is known to whom it was given.
func (s *Server) List(nbd.Peer) []nbd.Listing { return nil }

// fileDevice is a file that can be read.
type fileDevice struct {
	*nbd.Blocking
	file   *os.File
	bytes  int64
	images *Server // of a base image, which is closed with its one connection; nil for an offer
	life   context.Context
	end    context.CancelFunc // before it is closed: those who wait for the limit go

	mu     sync.RWMutex // held for reading by requests, for writing by close
	closed bool         // guarded by mu
}

func openDevice(path string) (*fileDevice, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d := &fileDevice{file: f, bytes: info.Size()}
	d.life, d.end = context.WithCancel(context.Background())
	flags := nbd.FlagHasFlags | nbd.FlagReadOnly | nbd.FlagDF
	d.Blocking = nbd.NewBlocking(d, nbd.Info{Flags: flags, Status: true}, func() uint64 { return uint64(d.bytes) }, readsMax)
	return d, nil
}

// close waits for requests under way and closes the file.
func (d *fileDevice) close() {
	d.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		_ = d.file.Close() // it was only read
	}
}

// Attach implements nbd.Attacher.
func (d *fileDevice) Attach(*nbd.Conn) error {
	if d.images == nil {
		return nil
	}
	if err := d.images.enter(); err != nil {
		d.close()
		return err
	}
	return nil
}

// Detach implements nbd.Attacher.
func (d *fileDevice) Detach() {
	if d.images != nil {
		d.close()
		d.images.leave()
	}
}
