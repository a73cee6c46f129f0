package uring

import (
	"cmp"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Server runs the connections of a listener on the loop's own thread: a request that arrives is handled, and its answer queued, without
// waking a goroutine. What all connections have to send goes to the kernel in one call at the end of each round.
//
// It asks for sessions that never block. What would block belongs to the ring (Loop.Begin) or to a goroutine that comes back by
// Loop.Post.
type Server struct {
	stack    *Stack
	service  Service
	options  ServerOptions
	plain    net.Listener
	file     *os.File
	acceptor acceptor

	links   map[*Link]struct{} // the loop's
	free    []*sendOp          // the loop's: emptied, to be used again
	scratch [][]byte           // the loop's: emptied, to gather small writes in
	closing bool               // the loop's
	emptied chan struct{}      // closed when closing and the last link is gone
	once    sync.Once
}

// A Service makes the session of each new connection.
type Service interface {
	// Accept returns the session of a new connection; nil closes it. On the loop's thread.
	Accept(l *Link) Session
}

// A Session is one side of a connection. All its methods run on the loop's thread and must not block; a panic in one of them closes the
// connection and nothing else.
type Session interface {
	// Received takes bytes that arrived and returns how many it took. They are valid only during the call. What it leaves is offered again
	// at once, or goes to the buffer of a Link.Fill it asked for. To take nothing, without Link.Fill, is to ask for Link.Pause.
	Received(p []byte) (taken int)
	// Filled says that all of a buffer given to Link.Fill has arrived.
	Filled(p []byte)
	// Ended says that the peer will send nothing more. It may still receive. A session that has nothing more to say calls Link.Close.
	Ended()
	// Closed is the last call, with the reason: nil after Link.Close.
	Closed(err error)
}

// ServerOptions bound a server. The zero value is good for thousands of connections.
type ServerOptions struct {
	// ConnsMax is how many connections may be open; more wait in the kernel's backlog. 10,000 if zero.
	ConnsMax int
	// QueuedBytesMax is how much a connection may have to send before its session is given nothing more and nothing more is received: a
	// client that does not read its answers gets to ask no more. 1 MiB if zero.
	QueuedBytesMax int
	// ZeroCopyMin is the size from which sending without copying is tried. It stops for a connection as soon as the kernel says that it
	// copied all the same, as it does for unix sockets and on the loopback. Off if zero.
	ZeroCopyMin int
	// SendBufferBytes is asked of the kernel for each socket, beyond the system's limit if we may. An answer that does not fit goes out in
	// pieces, with a wake-up for each. The kernel's default if zero.
	SendBufferBytes int
	// CloseTimeout bounds how long Link.Close waits until a peer has taken what was queued. Ten seconds if zero.
	CloseTimeout time.Duration
	// SingleReceives asks for each receive by itself instead of by one multishot request. It costs a little more per message, but a
	// receive may go straight to where the session wants it (Link.Fill) without cancelling another first.
	SingleReceives bool
}

const (
	connsDefault        = 10_000
	queuedBytesDefault  = 1 << 20
	closeTimeoutDefault = 10 * time.Second
)

// Serve runs a service on a listener of package net, which the server closes.
func (s *Stack) Serve(plain net.Listener, service Service, o ServerOptions) (*Server, error) {
	file, err := descriptorOf(plain)
	if err != nil {
		return nil, err
	}
	server := s.newServer(service, o)
	server.plain, server.file = plain, file
	server.acceptor.fd = int(file.Fd())
	if err := s.join(server); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return server, s.loop.Post(server.acceptor.arm)
}

// ServeAdopted runs a service on connections that others accept: to spread those of one listener over several loops, or to take one back
// that left for a while (Link.Detach).
func (s *Stack) ServeAdopted(service Service, o ServerOptions) (*Server, error) {
	server := s.newServer(service, o)
	return server, s.join(server)
}

func (s *Stack) newServer(service Service, o ServerOptions) *Server {
	o.ConnsMax = cmp.Or(o.ConnsMax, connsDefault)
	o.QueuedBytesMax = cmp.Or(o.QueuedBytesMax, queuedBytesDefault)
	o.CloseTimeout = cmp.Or(o.CloseTimeout, closeTimeoutDefault)
	server := &Server{stack: s, service: service, options: o, links: map[*Link]struct{}{}, emptied: make(chan struct{})}
	server.acceptor = acceptor{loop: s.loop, fd: -1, got: func(fd int) { server.open(fd, service) },
		welcome: func() bool { return server.plain != nil && len(server.links) < o.ConnsMax }}
	return server
}

// Adopt takes over a connected socket, and closes it whatever becomes of it; service, if not nil, is asked for its session instead of the
// server's own. ConnsMax does not count. Any goroutine may call it, and the socket must be in blocking mode, as descriptors of
// (*net.TCPConn).File are once Fd was called: a ring does the waiting.
func (s *Server) Adopt(fd int, service Service) error {
	if service == nil {
		service = s.service
	}
	err := s.stack.loop.Post(func() {
		if s.closing {
			unix.Close(fd)
			return
		}
		s.open(fd, service)
	})
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	return nil
}

// Addr returns the listening address, nil if the server has none.
func (s *Server) Addr() net.Addr {
	if s.plain == nil {
		return nil
	}
	return s.plain.Addr()
}

// open makes a link of an accepted connection. On the loop's thread.
func (s *Server) open(fd int, service Service) {
	if err := noDelay(fd); err != nil {
		unix.Close(fd) // the peer is gone already
		return
	}
	if n := s.options.SendBufferBytes; n > 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, n) // as much as we may have
	}
	l := &Link{server: s, loop: s.stack.loop, fd: fd, session: nobody{}, single: s.options.SingleReceives, zeroCopyMin: s.options.ZeroCopyMin}
	s.links[l] = struct{}{}
	l.guard(func() {
		if l.session = service.Accept(l); l.session == nil {
			l.session = nobody{}
			l.Close()
		}
	})
	l.rearm()
}

// forget takes a link that is closed from the table. On the loop's thread.
func (s *Server) forget(l *Link) {
	delete(s.links, l)
	if s.closing && len(s.links) == 0 {
		close(s.emptied)
		return
	}
	s.acceptor.arm()
}

// Close stops accepting, breaks all connections off and waits until their sessions have been told.
func (s *Server) Close() error {
	err := net.ErrClosed
	s.once.Do(func() { err = s.close() })
	return err
}

func (s *Server) close() error {
	s.stack.leave(s)
	stopped := make(chan struct{})
	err := s.stack.loop.Post(func() {
		s.closing = true
		if s.plain != nil {
			s.acceptor.close(func() { close(stopped) })
		} else {
			close(stopped)
		}
		if len(s.links) == 0 {
			close(s.emptied)
		}
		for l := range s.links {
			l.Abort(net.ErrClosed)
		}
	})
	if err == nil {
		<-stopped
		<-s.emptied
	}
	if s.plain == nil {
		return nil
	}
	return errors.Join(s.plain.Close(), s.file.Close())
}

// nobody is the session of a connection that was refused.
type nobody struct{}

func (nobody) Received(p []byte) int { return len(p) }
func (nobody) Filled([]byte)         {}
func (nobody) Ended()                {}
func (nobody) Closed(error)          {}
