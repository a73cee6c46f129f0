package hostapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Pool holds the reversed connection of each host that is connected now. Safe for concurrent use.
type Pool struct {
	mu      sync.Mutex
	hosts   map[cloud.HostName]*hostLink
	changed chan struct{} // closed and replaced at each change
}

// hostLink is one reversed connection, fit for calls. The goroutine that welcomed it owns it and waits for its end.
type hostLink struct {
	name   cloud.HostName
	conn   *link
	cc     *grpc.ClientConn
	client hostpb.HostClient
}

func newPool() *Pool {
	return &Pool{hosts: map[cloud.HostName]*hostLink{}, changed: make(chan struct{})}
}

// Host returns the client of a connected host, or a KindUnavailable error. The client stays usable until the connection ends;
// then its calls return KindUnavailable and Host must be asked again.
func (p *Pool) Host(name cloud.HostName) (hostpb.HostClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.hosts[name]; h != nil {
		return h.client, nil
	}
	return nil, cloud.E(cloud.KindUnavailable, "", "host "+string(name), errNotConnected)
}

var errNotConnected = errors.New("its agent is not connected")

// WaitHost returns the host's client as soon as it is connected, or KindUnavailable when ctx ends first.
func (p *Pool) WaitHost(ctx context.Context, name cloud.HostName) (hostpb.HostClient, error) {
	for {
		changed := p.Changed()
		client, err := p.Host(name)
		if err == nil {
			return client, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Changed returns a channel that is closed at the next connect or disconnect of any host. Take it before reading Hosts or Host.
func (p *Pool) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Hosts returns the names of the hosts that are connected now, sorted.
func (p *Pool) Hosts() []cloud.HostName {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make([]cloud.HostName, 0, len(p.hosts))
	for name := range p.hosts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hold serves one reversed connection from handshake to end: it blocks until the connection ends, is replaced, or ctx ends.
func (p *Pool) hold(ctx context.Context, name cloud.HostName, conn *link) error {
	cc, err := reverse(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("host %s: reversed connection: %w", name, err)
	}
	h := &hostLink{name: name, conn: conn, cc: cc, client: hostpb.NewHostClient(cc)}
	p.add(h)
	select {
	case <-conn.closed:
	case <-ctx.Done():
	}
	p.remove(h)
	return cc.Close()
}

func (p *Pool) add(h *hostLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if older := p.hosts[h.name]; older != nil {
		_ = older.conn.Close() // its hold ends
	}
	p.hosts[h.name] = h
	p.announce()
}

func (p *Pool) remove(h *hostLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = h.conn.Close()
	if p.hosts[h.name] == h {
		delete(p.hosts, h.name)
		p.announce()
	}
}

// drop ends a host's connection because its session has gone silent.
func (p *Pool) drop(name cloud.HostName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.hosts[name]; h != nil {
		_ = h.conn.Close()
	}
}

func (p *Pool) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// reverse makes a gRPC client of a connection that the peer dialled, and waits until the peer speaks HTTP/2 on it.
func reverse(ctx context.Context, conn *link) (*grpc.ClientConn, error) {
	unused := make(chan net.Conn, 1) // the one connection this client will ever have
	unused <- conn
	opts := append(clientKeepalive(),
		grpc.WithTransportCredentials(handshaken{}),
		grpc.WithUnaryInterceptor(unaryClientErrors),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-unused:
				return c, nil
			default:
				return nil, net.ErrClosed
			}
		}),
	)
	cc, err := grpc.NewClient("passthrough:///"+ServerName, opts...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeMax)
	defer cancel()
	cc.Connect()
	for state := cc.GetState(); state != connectivity.Ready; state = cc.GetState() {
		if state == connectivity.TransientFailure || state == connectivity.Shutdown {
			_ = cc.Close()
			return nil, errors.New("the peer does not answer as a host agent")
		}
		if !cc.WaitForStateChange(ctx, state) {
			_ = cc.Close()
			return nil, ctx.Err()
		}
	}
	return cc, nil
}
