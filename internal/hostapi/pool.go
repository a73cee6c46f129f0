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

// Pool holds the reversed connection of each host and volume service that is connected now. Safe for concurrent use.
type Pool struct {
	mu      sync.Mutex
	peers   map[peerID]*peerLink
	changed chan struct{} // closed and replaced at each change
}

// peerLink is one reversed connection, fit for calls. The goroutine that welcomed it owns it and waits for its end.
type peerLink struct {
	id   peerID
	conn *link
	cc   *grpc.ClientConn
}

func newPool() *Pool {
	return &Pool{peers: map[peerID]*peerLink{}, changed: make(chan struct{})}
}

// connection returns the reversed connection of a peer, or a KindUnavailable error.
func (p *Pool) connection(id peerID) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.peers[id]; l != nil {
		return l.cc, nil
	}
	return nil, cloud.E(cloud.KindUnavailable, "", id.String(), id.role.absence())
}

// wait returns the connection as soon as there is one, or KindUnavailable when ctx ends first.
func (p *Pool) wait(ctx context.Context, id peerID) (*grpc.ClientConn, error) {
	for {
		changed := p.Changed()
		cc, err := p.connection(id)
		if err == nil {
			return cc, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Host returns the client of a connected host, or a KindUnavailable error. The client stays usable until the connection ends;
// then its calls return KindUnavailable and Host must be asked again.
func (p *Pool) Host(name cloud.HostName) (hostpb.HostClient, error) {
	cc, err := p.connection(peerID{roleHost, name})
	if err != nil {
		return nil, err
	}
	return hostpb.NewHostClient(cc), nil
}

// WaitHost returns the host's client as soon as it is connected, or KindUnavailable when ctx ends first.
func (p *Pool) WaitHost(ctx context.Context, name cloud.HostName) (hostpb.HostClient, error) {
	cc, err := p.wait(ctx, peerID{roleHost, name})
	if err != nil {
		return nil, err
	}
	return hostpb.NewHostClient(cc), nil
}

// Volumes returns the client of a connected volume service, as Host does.
func (p *Pool) Volumes(name cloud.HostName) (hostpb.VolumeHostClient, error) {
	cc, err := p.connection(peerID{roleVolumes, name})
	if err != nil {
		return nil, err
	}
	return hostpb.NewVolumeHostClient(cc), nil
}

// WaitVolumes returns the volume service's client as soon as it is connected, or KindUnavailable when ctx ends first.
func (p *Pool) WaitVolumes(ctx context.Context, name cloud.HostName) (hostpb.VolumeHostClient, error) {
	cc, err := p.wait(ctx, peerID{roleVolumes, name})
	if err != nil {
		return nil, err
	}
	return hostpb.NewVolumeHostClient(cc), nil
}

// Changed returns a channel that is closed at the next connect or disconnect of any host or volume service. Take it before reading Hosts or Host.
func (p *Pool) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Hosts returns the names of the hosts that are connected now, sorted.
func (p *Pool) Hosts() []cloud.HostName {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make([]cloud.HostName, 0, len(p.peers))
	for id := range p.peers {
		if id.role == roleHost {
			names = append(names, id.name)
		}
	}
	slices.Sort(names)
	return names
}

// hold serves one reversed connection from handshake to end: it blocks until the connection ends, is replaced, or ctx ends.
func (p *Pool) hold(ctx context.Context, id peerID, conn *link) error {
	cc, err := reverse(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("%s: reversed connection: %w", id, err)
	}
	l := &peerLink{id: id, conn: conn, cc: cc}
	p.add(l)
	select {
	case <-conn.closed:
	case <-ctx.Done():
	}
	p.remove(l)
	return cc.Close()
}

func (p *Pool) add(l *peerLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if older := p.peers[l.id]; older != nil {
		_ = older.conn.Close() // its hold ends
	}
	p.peers[l.id] = l
	p.announce()
}

func (p *Pool) remove(l *peerLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = l.conn.Close()
	if p.peers[l.id] == l {
		delete(p.peers, l.id)
		p.announce()
	}
}

// drop ends a peer's connection because its session has gone silent.
func (p *Pool) drop(id peerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.peers[id]; l != nil {
		_ = l.conn.Close()
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
		grpc.WithStreamInterceptor(streamClientErrors),
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
			return nil, errors.New("the peer does not answer as an agent")
		}
		if !cc.WaitForStateChange(ctx, state) {
			_ = cc.Close()
			return nil, ctx.Err()
		}
	}
	return cc, nil
}
