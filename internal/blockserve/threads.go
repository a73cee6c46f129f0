package blockserve

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/nbd"
)

// threads is the place of connections without a ring: goroutines.
type threads struct {
	server *Server
	memory arena
	meter  *meter

	mu     sync.Mutex
	gates  map[*gate]struct{} // that have a lease
	ending bool               // who comes now is too late
}

// post implements place.
func (p *threads) post(f func()) { p.server.group.Go(f) }

// after implements place.
func (p *threads) after(d time.Duration, f func()) { time.AfterFunc(d, f) }

// start implements place.
func (p *threads) start(t *task) {
	if fault := p.server.options.fault; fault != nil {
		if err := fault(t.request); err != nil {
			t.finish(err)
			return
		}
	}
	t.request.Intercept = t.ended
	t.gate.blocking.Start(t.request)
}

// enter implements place.
func (p *threads) enter(g *gate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gates[g] = struct{}{}
	if p.ending {
		p.post(g.conn.Finish)
	}
	g.blocking = nbd.NewBlocking(g.storage, g.info, g.Size, p.server.options.Workers)
}

// leave implements place.
func (p *threads) leave(g *gate) {
	p.mu.Lock()
	delete(p.gates, g)
	p.mu.Unlock()
	g.lease.Close()
}

// finish asks all connections to end when what is under way is done. Those that negotiate have a time limit.
func (p *threads) finish() {
	p.mu.Lock()
	p.ending = true
	gates := slices.Collect(maps.Keys(p.gates))
	p.mu.Unlock()
	for _, g := range gates {
		g.conn.Finish()
	}
}

// Find implements nbd.Exports.
func (p *threads) Find(name string, peer nbd.Peer) (nbd.Device, error) {
	g, err := p.server.newGate(name, p, p.meter, peer)
	if err != nil {
		return nil, err
	}
	return g, nil
}

// List implements nbd.Exports.
func (p *threads) List(peer nbd.Peer) []nbd.Listing { return p.server.list(peer) }
