package volumehost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
)

// Fetch opens an image's data at the server from an offset (bytes). A failure of kind unavailable is worth another attempt.
type Fetch func(ctx context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error)

// Options are what New needs. Name, Stores, Dir, Fetch and NBD are required.
type Options struct {
	Name   cloud.HostName
	Stores []*volume.Store // the back ends, each by its name; New ends the moves between them that a crash cut short
	Dir    string          // of the count of starts, and of the images for back ends that do not share blocks; made when absent
	Fetch  Fetch
	// ImageCacheBytes bounds the images that are kept when no volume is being made of them: in Dir, and on each file system that shares blocks.
	ImageCacheBytes int64
	NBD             netip.AddrPort // where compute hosts reach the data path
	TLS             bool           // they must use TLS, and expect Name in the certificate
	Engine          string         // of the data path, and why it and no other; for the facts
	EngineWhy       string
	Version         string
	Log             *slog.Logger // nil: slog.Default
}

// Host is a volume service's control side. Make it with New; any goroutine may call it.
type Host struct {
	hostpb.UnimplementedVolumeHostServer
	o          Options
	log        *slog.Logger
	images     map[*volume.Store]*images
	gate       gate
	jobs       jobs
	fills      chan struct{} // a token for each job that fills a volume
	probes     []*probe
	generation int64
	news       chan struct{} // capacity 1: something changed that is in the facts

	mu  sync.Mutex
	seq int64
}

// fillsMax bounds the volumes that are filled at a time: each is a copy, or a program that decompresses, and guests share the disks with them.
const fillsMax = 4

// New makes a Host and counts the start. It needs no connection to the server.
func New(ctx context.Context, o Options) (*Host, error) {
	if o.Name == "" || len(o.Stores) == 0 || o.Dir == "" || o.Fetch == nil || !o.NBD.IsValid() {
		return nil, errors.New("volumehost.New: Name, Stores, Dir, Fetch and NBD are required")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if err := volume.Settle(ctx, o.Stores...); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("volume service: %w", err)
	}
	caches, err := openCaches(o)
	if err == nil {
		err = dropUnused(o, caches)
	}
	if err != nil {
		return nil, err
	}
	generation, err := countStart(o.Dir)
	if err != nil {
		return nil, err
	}
	h := &Host{
		o: o, log: o.Log, images: caches, generation: generation, fills: make(chan struct{}, fillsMax), news: make(chan struct{}, 1),
	}
	h.gate.stores = o.Stores
	h.jobs.start(ctx)
	for _, s := range o.Stores {
		s.Watch(h.changed)
		h.probes = append(h.probes, newProbe(s))
	}
	return h, nil
}

// Close ends the work under way and waits for it. Calls see KindUnavailable from then on.
func (h *Host) Close() {
	h.jobs.stop()
	for _, p := range h.probes {
		p.wait()
	}
}

// store returns the back end of that name.
func (h *Host) store(name string) (*volume.Store, error) {
	for _, s := range h.o.Stores {
		if s.Name() == name {
			return s, nil
		}
	}
	return nil, cloud.Errorf(cloud.KindInvalid, "volume service %s has no back end %q", h.o.Name, name)
}

// holding returns the store that has the volume, nil if none has.
func (h *Host) holding(ctx context.Context, id cloud.VolumeID) (*volume.Store, volume.State, error) {
	var last volume.State
	for _, s := range h.o.Stores {
		st, err := s.Inspect(ctx, id)
		if err != nil || st.Present {
			return s, st, err
		}
		last.Generation, last.Epoch = max(last.Generation, st.Generation), max(last.Epoch, st.Epoch)
	}
	last.ID = id
	return nil, last, nil
}

// mustHold is holding for calls that need the volume.
func (h *Host) mustHold(ctx context.Context, id cloud.VolumeID) (*volume.Store, error) {
	s, _, err := h.holding(ctx, id)
	if err == nil && s == nil {
		err = cloud.Errorf(cloud.KindNotFound, "volume %s: no such volume", id)
	}
	return s, err
}

// changed has the facts told soon.
func (h *Host) changed() {
	select {
	case h.news <- struct{}{}:
	default:
	}
}
