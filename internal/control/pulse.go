package control

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Pulse is what this instance hears of a host, by its monotonic clock.
type Pulse struct {
	Last time.Time // of any message; zero: never since this instance began
	Up   bool      // its stream is open
	Told bool      // it has said all that it has since the stream began
}

// Pulses says what was heard of hosts. It is safe for concurrent use.
type Pulses interface {
	// Pulse returns what was heard of a host last.
	Pulse(host cloud.HostName) Pulse
	// Broken rings when a host's stream breaks.
	Broken() <-chan struct{}
}

// pulses are those of all hosts that ever were connected to this instance; a few dozen bytes each, so none is forgotten.
type pulses struct {
	mu   sync.Mutex
	host map[cloud.HostName]Pulse // guarded by mu
	// broken rings when a stream breaks, capacity 1: a hint that its host may be gone, before any silence says so.
	broken chan struct{}
}

func newPulses() *pulses {
	return &pulses{host: map[cloud.HostName]Pulse{}, broken: make(chan struct{}, 1)}
}

// Pulse implements Pulses.
func (p *pulses) Pulse(host cloud.HostName) Pulse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.host[host]
}

// Broken implements Pulses.
func (p *pulses) Broken() <-chan struct{} { return p.broken }

// beat notes a message; told says that it is the one after which everything was told.
func (p *pulses) beat(host cloud.HostName, told bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.host[host]
	p.host[host] = Pulse{Last: time.Now(), Up: true, Told: told || was.Up && was.Told}
}

// end notes that the stream broke.
func (p *pulses) end(host cloud.HostName) {
	p.mu.Lock()
	was := p.host[host]
	p.host[host] = Pulse{Last: was.Last}
	p.mu.Unlock()
	select {
	case p.broken <- struct{}{}:
	default:
	}
}

// managementAddress is where a host's agent dials from; empty when the stream does not say.
func managementAddress(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil || net.ParseIP(host) == nil {
		return ""
	}
	return host
}
