package volumehost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
)

const (
	// factsEvery is how often facts are told although nothing is known to have changed: free space changes by itself as guests write.
	factsEvery = 10 * time.Second
	// probeMax is how long a back end may take to say how it is; a network file system whose servers are gone may never answer.
	probeMax = 3 * time.Second
)

// Run tells the facts to report, at once, when something changed and every ten seconds, until ctx ends.
func (h *Host) Run(ctx context.Context, report func(*hostpb.VolumeFacts)) error {
	tick := time.NewTicker(factsEvery)
	defer tick.Stop()
	for {
		report(h.Facts(ctx))
		select {
		case <-tick.C:
		case <-h.news:
		case <-ctx.Done():
			return nil
		}
	}
}

// Facts returns what the service is and has.
func (h *Host) Facts(ctx context.Context) *hostpb.VolumeFacts {
	h.mu.Lock()
	h.seq++
	seq := h.seq
	h.mu.Unlock()
	f := &hostpb.VolumeFacts{
		Name: string(h.o.Name), Generation: h.generation, Seq: seq, Version: h.o.Version, Engine: h.o.Engine, EngineWhy: h.o.EngineWhy,
	}
	ctx, cancel := context.WithTimeout(ctx, probeMax)
	defer cancel()
	for _, p := range h.probes {
		b := p.ask(ctx)
		f.Backends = append(f.Backends, &hostpb.Backend{
			Name: b.Name, Kind: b.Kind, Reflink: b.Reflink, TotalBytes: b.TotalBytes, FreeBytes: b.FreeBytes, Volumes: int64(b.Volumes), Error: b.Error,
			Troubles: troublesOf(b.Troubles), Troubled: int64(len(b.Troubles)),
		})
	}
	return f
}

// troublesMax bounds the volumes that are named in the facts: a back end that is full, or whose disk fails, may have thousands that stand still.
const troublesMax = 64

func troublesOf(all []volume.Trouble) []*hostpb.VolumeTrouble {
	var out []*hostpb.VolumeTrouble
	for _, t := range all[:min(len(all), troublesMax)] {
		told := &hostpb.VolumeTrouble{VolumeId: string(t.Volume), What: string(t.What), Detail: t.Detail}
		if !t.Since.IsZero() {
			told.Since = t.Since.UnixNano()
		}
		out = append(out, told)
	}
	return out
}

// probe asks one store for its facts, once at a time however often it is asked.
type probe struct {
	store *volume.Store
	group sync.WaitGroup

	mu      sync.Mutex
	last    volume.Facts
	pending chan struct{} // closed when the question under way is answered; nil: there is none
}

func newProbe(s *volume.Store) *probe { return &probe{store: s, last: volume.Facts{Name: s.Name()}} }

// ask returns the facts, or the last ones with an error when there are no newer by the time ctx ends.
func (p *probe) ask(ctx context.Context) volume.Facts {
	p.mu.Lock()
	if p.pending == nil {
		pending := make(chan struct{})
		p.pending = pending
		p.group.Go(func() {
			f := p.store.Facts()
			p.mu.Lock()
			p.last, p.pending = f, nil
			p.mu.Unlock()
			close(pending)
		})
	}
	pending := p.pending
	p.mu.Unlock()
	late := false
	select {
	case <-pending:
	case <-ctx.Done():
		late = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.last
	if late {
		f.Error = "the file system does not answer"
	}
	return f
}

// latest returns the last facts.
func (p *probe) latest() volume.Facts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *probe) wait() { p.group.Wait() }

// countStart returns how often the service has been started on this directory, this time included.
func countStart(dir string) (int64, error) {
	path := filepath.Join(dir, "starts")
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("count of starts: %w", err)
	}
	var n int64
	if err == nil {
		if n, err = strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err != nil {
			return 0, cloud.E(cloud.KindInternal, "read", path, err)
		}
	}
	n++
	next := path + ".next"
	if err := writeDurably(next, strconv.AppendInt(nil, n, 10)); err != nil {
		return 0, fmt.Errorf("count of starts: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return 0, fmt.Errorf("count of starts: %w", err)
	}
	return n, syncDir(dir)
}

func writeDurably(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
