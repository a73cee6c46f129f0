package blockserve

import (
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/godwit-cloud/godwit/nbd"
)

// acceptRetry is how long accepting rests when the process is out of descriptors or the kernel out of memory: to ask again at once would fail
// again at once.
const acceptRetry = 100 * time.Millisecond

// accept hands out a listener's connections. A connection has a ticket for as long as it is open.
func (s *Server) accept(l net.Listener, open func(c net.Conn, ticket func())) {
	for {
		select {
		case s.tickets <- struct{}{}:
		case <-s.life.Done():
			return
		}
		c, err := l.Accept()
		if err == nil {
			s.conns.Add(1)
			open(c, func() {
				s.conns.Add(-1)
				<-s.tickets
			})
			continue
		}
		<-s.tickets
		if errors.Is(err, net.ErrClosed) {
			return
		}
		s.log.Warn("no connection is accepted for a moment", "address", l.Addr(), "error", err)
		select {
		case <-time.After(acceptRetry):
		case <-s.life.Done():
			return
		}
	}
}

// openOnLane gives connections to the lane that has the fewest.
func (s *Server) openOnLane(config *tls.Config) func(net.Conn, func()) {
	return func(c net.Conn, ticket func()) {
		l := s.idlest()
		l.conns.Add(1)
		v := visitor{lane: l, remote: c.RemoteAddr(), tls: config, ticket: func() {
			l.conns.Add(-1)
			ticket()
		}}
		fd, err := descriptorOf(c)
		_ = c.Close() // the duplicate lives on
		if err == nil {
			err = l.links.Adopt(fd, v)
		}
		if err != nil {
			s.sayEnded(v.remote, err)
			v.ticket()
		}
	}
}

func (s *Server) idlest() *lane {
	best := s.lanes[0]
	for _, l := range s.lanes[1:] {
		if l.conns.Load() < best.conns.Load() {
			best = l
		}
	}
	return best
}

// newServer makes the server of a listener in the threads engine.
func (p *threads) newServer(config *tls.Config) *nbd.Server {
	server := &nbd.Server{Exports: p, Limits: limits, Memory: &p.memory, HandshakeTimeout: p.server.options.HandshakeTimeout, Log: p.server.log}
	if config != nil {
		server.TLS, server.TLSMode = config, nbd.TLSRequired
	}
	return server
}

// open serves a connection in goroutines of its own.
func (p *threads) open(server *nbd.Server, c net.Conn, ticket func()) {
	p.server.group.Go(func() {
		defer ticket()
		p.server.sayEnded(c.RemoteAddr(), server.ServeConn(p.server.life, c, nil))
	})
}
