package blockserve

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

const (
	// payloadMax bounds one read or write: what every client known to us keeps to.
	payloadMax = 32 << 20
	// underWayBytesMax bounds a connection's payloads under way, beyond one request that always fits: enough to keep a disk with 10 ms of
	// latency busy at 800 MB/s, and little enough to stay in a processor's cache.
	underWayBytesMax = 8 << 20
	// requestsMax bounds a connection's requests under way: twice what the clients known to us ever send ahead.
	requestsMax = 256
	// paceMax is how long delayed requests wait before the limits are asked again: they may have been changed, and what a large request owes may
	// have been hours under the old ones.
	paceMax = 100 * time.Millisecond
	// cutOffGrace is for how long a connection that was cut off hears ESHUTDOWN before it is closed: long enough for requests that were on
	// their way, short enough that nobody waits for the old writer's connection to go.
	cutOffGrace = 250 * time.Millisecond
)

// limits are those of every connection.
var limits = nbd.Limits{Requests: requestsMax, Bytes: underWayBytesMax}

// place is where a connection's code runs.
type place interface {
	// post runs f there, later. Any goroutine may call it.
	post(f func())
	// after runs f there when d has passed. Called there only.
	after(d time.Duration, f func())
	// start carries a task out and calls its finish. Called there only.
	start(t *task)
	// enter tells of a gate that has a lease, leave of one whose lease is to be closed.
	enter(g *gate)
	leave(g *gate)
}

// gate is a connection's nbd.Device: what every request passes on its way to the file. See the package comment.
type gate struct {
	server *Server
	place  place
	meter  *meter
	export string
	visit  volume.Visit
	info   nbd.Info
	bytes  uint64 // as the client was told; from Attach on the lease is asked

	// From Attach to Detach.
	conn    *nbd.Conn
	lease   Lease
	limiter *volume.Limiter
	storage *storage
	fd      int32 // of the lease's file, or its registered number
	fixed   bool  // fd is a registered number
	// blocking carries requests out in the threads engine.
	blocking *nbd.Blocking

	mu      sync.Mutex // guards what follows
	delayed []*task    // by the limits, in order of arrival
	pacing  bool       // somebody sees to delayed
	waiting atomic.Int32
}

// newGate describes an export to a client that may or may not come to use it.
func (s *Server) newGate(export string, p place, m *meter, peer nbd.Peer) (*gate, error) {
	g := &gate{server: s, place: p, meter: m, export: export}
	if peer.TLS != nil {
		host, err := hostOf(peer.TLS)
		if err != nil {
			return nil, err
		}
		g.visit.Host = host
	}
	lease, err := s.volumes.Admit(export, g.visit)
	if err != nil {
		return nil, refusal(err)
	}
	defer lease.Close()
	g.bytes = uint64(lease.Size())
	g.info = describe(lease)
	return g, nil
}

// describe says what an attachment's clients can do.
func describe(l Lease) nbd.Info {
	info := nbd.Info{Status: true, BlockMin: uint32(max(l.Align(), 1)), BlockPreferred: uint32(max(l.Align(), blockPreferred)), PayloadMax: payloadMax,
		Flags: nbd.FlagFlush | nbd.FlagFUA | nbd.FlagTrim | nbd.FlagWriteZeroes | nbd.FlagFastZero | nbd.FlagMultiConn}
	if l.Align() <= 1 {
		info.Flags |= nbd.FlagCache
	}
	if l.Attachment().Role == volume.RoleReader {
		info.Flags |= nbd.FlagReadOnly
	}
	return info
}

// blockPreferred is the page size, and the block size of the file systems we run on.
const blockPreferred = 4096

// Info implements nbd.Device.
func (g *gate) Info() nbd.Info { return g.info }

// Size implements nbd.Device.
func (g *gate) Size() uint64 {
	if g.lease != nil {
		return uint64(g.lease.Size())
	}
	return g.bytes
}

// Attach implements nbd.Attacher.
func (g *gate) Attach(c *nbd.Conn) error {
	g.conn = c
	visit := g.visit
	visit.CutOff = func() { g.place.post(g.cutOff) }
	lease, err := g.server.volumes.Admit(g.export, visit)
	if err != nil {
		return refusal(err)
	}
	g.lease, g.limiter = lease, lease.Limiter()
	g.storage = &storage{File: lease.File(), size: lease.Size, align: lease.Align(), lease: lease, fault: g.server.options.syncFault, deaf: g.server.options.syncsNothing}
	g.fd = int32(lease.File().FD())
	g.place.enter(g)
	g.meter.attached.Add(1)
	return nil
}

// Detach implements nbd.Attacher.
func (g *gate) Detach() {
	g.meter.attached.Add(-1)
	g.place.leave(g)
}

// Leave implements nbd.Leaver: what the limits hold back will interest nobody any more.
func (g *gate) Leave() { g.drop(nbd.ErrDisconnected) }

// cutOff refuses everything from now on. Where the connection's code runs.
func (g *gate) cutOff() {
	g.conn.Drain()
	g.drop(nbd.Shutdown)
	g.place.after(cutOffGrace, g.conn.Finish)
}

// Start implements nbd.Device.
func (g *gate) Start(r *nbd.Request) {
	t, ok := r.Local.(*task)
	if !ok {
		t = newTask(g, r)
	}
	t.began = g.server.now()
	if g.waiting.Load() == 0 && (t.unlimited() || g.limiter.Ask(t.began, t.cost()) == 0) {
		t.admit()
		return
	}
	if t.unlimited() {
		t.admit()
		return
	}
	g.delay(t)
}

// delay lets a task wait for its turn.
func (g *gate) delay(t *task) {
	g.meter.delayed.Add(1)
	g.mu.Lock()
	g.delayed = append(g.delayed, t)
	g.waiting.Add(1)
	idle := !g.pacing
	g.pacing = true
	g.mu.Unlock()
	if idle {
		g.pace()
	}
}

// pace lets delayed tasks go as the limits allow, and comes back when they allow the next.
func (g *gate) pace() {
	for {
		t, wait := g.next()
		if t == nil {
			if wait > 0 {
				g.place.after(min(wait, paceMax), g.pace)
			}
			return
		}
		t.admit()
	}
}

// next returns the first delayed task if it may go, else how long it waits; zero: there is none.
func (g *gate) next() (*task, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.delayed) == 0 {
		g.pacing = false
		return nil, 0
	}
	t := g.delayed[0]
	if wait := g.limiter.Ask(g.server.now(), t.cost()); wait > 0 {
		return nil, wait
	}
	g.delayed = g.delayed[1:]
	g.waiting.Add(-1)
	return t, 0
}

// drop ends all delayed tasks.
func (g *gate) drop(err error) {
	g.mu.Lock()
	dropped := g.delayed
	g.delayed = nil
	g.waiting.Add(-int32(len(dropped)))
	g.mu.Unlock()
	for _, t := range dropped {
		t.finish(err)
	}
}

// refusal says in the protocol's words why a connection is not let in, or a mutation not made.
func refusal(err error) error {
	switch {
	case errors.Is(err, volume.ErrReadOnly), cloud.Is(err, cloud.KindForbidden):
		return fmt.Errorf("%w: %w", err, nbd.NotPermitted)
	case errors.Is(err, volume.ErrCutOff), errors.Is(err, volume.ErrClosed):
		return fmt.Errorf("%w: %w", err, nbd.Shutdown)
	}
	return err
}
