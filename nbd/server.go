package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Server serves exports over net.Conn, with a few goroutines for each connection. It is what TLS connections use, and machines without
// io_uring; package uring's Server runs a Conn for each connection on its ring instead.
type Server struct {
	Exports Exports
	// TLS is the server's side of TLS; with ClientAuth set to tls.RequireAndVerifyClientCert it is mutual.
	TLS     *tls.Config
	TLSMode TLSMode
	Limits  Limits
	// Memory of payloads, the heap if nil. It is used by several goroutines at once.
	Memory Memory
	// ConnsMax is how many connections may be open; more wait in the listener's backlog. 10,000 if zero.
	ConnsMax int
	// HandshakeTimeout bounds the negotiation, TLS included. Ten seconds if zero.
	HandshakeTimeout time.Duration
	// Log gets a line for each connection that ended badly; slog.Default if nil.
	Log *slog.Logger

	mu     sync.Mutex // guards what follows
	open   map[net.Conn]*Conn
	listen map[net.Listener]struct{}
	closed bool
	group  sync.WaitGroup
}

const (
	connsDefault     = 10_000
	handshakeDefault = 10 * time.Second
)

// Serve accepts connections until the listener or the server is closed.
func (s *Server) Serve(l net.Listener) error {
	if err := s.add(l); err != nil {
		return err
	}
	limit := s.ConnsMax
	if limit == 0 {
		limit = connsDefault
	}
	tickets := make(chan struct{}, limit)
	for {
		tickets <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			if s.isClosed() {
				return net.ErrClosed
			}
			return fmt.Errorf("nbd: accept: %w", err)
		}
		s.group.Go(func() {
			defer func() { <-tickets }()
			if err := s.ServeConn(context.Background(), c, nil); err != nil && !s.isClosed() {
				s.log().Warn("nbd connection ended", "peer", c.RemoteAddr(), "error", err)
			}
		})
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.Default()
}

func (s *Server) add(l net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.listen == nil {
		s.listen = map[net.Listener]struct{}{}
	}
	s.listen[l] = struct{}{}
	return nil
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// track remembers a connection, with its Conn once it has one.
func (s *Server) track(c net.Conn, conn *Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.open == nil {
		s.open = map[net.Conn]*Conn{}
	}
	s.open[c] = conn
	return nil
}

func (s *Server) untrack(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Shutdown stops accepting and answers further requests with Shutdown, until the clients have left or ctx ends; then it closes.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listen {
		_ = l.Close() // it may be closed already
	}
	for c, conn := range s.open {
		if conn == nil {
			_ = c.Close() // still negotiating
		} else {
			conn.Drain()
		}
	}
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.group.Wait()
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), s.Close())
	}
}

// Close breaks all connections off and waits until the devices are done with their requests.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listen {
		_ = l.Close() // it may be closed already
	}
	for c := range s.open {
		_ = c.Close() // its goroutines see to the rest
	}
	s.mu.Unlock()
	s.group.Wait()
	return nil
}

// ServeConn serves one connection and closes it. negotiation is nil, or one that has come as far as StartTLS elsewhere, for instance on an
// event loop; see WithPrefix for what had been read beyond that. An error tells why the connection ended if it was not the client's wish.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, negotiation *Negotiation) error {
	defer c.Close()
	if err := s.track(c, nil); err != nil {
		return err
	}
	defer s.untrack(c)
	timeout := s.HandshakeTimeout
	if timeout == 0 {
		timeout = handshakeDefault
	}
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("nbd: set deadline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	h := &handshake{server: s, conn: c, negotiation: negotiation}
	if err := h.run(ctx); err != nil || h.conn == nil {
		return err
	}
	if err := h.conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("nbd: set deadline: %w", err)
	}
	w := newNetWire(h.conn)
	conn, err := NewConn(h.negotiation.Result(), w, ConnOptions{Limits: s.Limits, Memory: s.Memory, Lock: &w.lock, Idle: w.nowIdle})
	if err != nil {
		return err
	}
	w.conn = conn
	if err := s.track(c, conn); err != nil {
		_ = c.Close() // run ends at once, and lets go of the device
	}
	return w.run(h.early)
}

// handshake is a negotiation over a net.Conn.
type handshake struct {
	server      *Server
	conn        net.Conn // over TLS after StartTLS; nil after a hang-up
	negotiation *Negotiation
	early       []byte // arrived already, of the next phase
}

func (h *handshake) run(ctx context.Context) error {
	if h.negotiation == nil {
		h.negotiation = NewNegotiation(h.server.Exports, h.server.TLSMode, Peer{Addr: h.conn.RemoteAddr()})
		if _, err := h.conn.Write(h.negotiation.Greeting()); err != nil {
			return fmt.Errorf("nbd: greet: %w", err)
		}
	} else if err := h.secure(ctx); err != nil {
		return err
	}
	buffer := make([]byte, optionBytesMax)
	for {
		n, err := h.conn.Read(buffer)
		if errors.Is(err, io.EOF) {
			h.conn = nil // a client that only looked
			return nil
		}
		if err != nil {
			return fmt.Errorf("nbd: negotiate: %w", err)
		}
		taken, out, next := h.negotiation.Feed(buffer[:n], nil)
		if len(out) > 0 {
			if _, err := h.conn.Write(out); err != nil {
				return fmt.Errorf("nbd: negotiate: %w", err)
			}
		}
		h.early = append([]byte(nil), buffer[taken:n]...)
		switch next {
		case StartTLS:
			if err := h.secure(ctx); err != nil {
				return err
			}
		case Transmit:
			return nil
		case Hangup:
			h.conn = nil
			return h.negotiation.Err()
		case More:
		}
	}
}

// secure sets up TLS. What arrived in the clear after the request for it is taken as the beginning of TLS, so that nobody can slip in
// options that look as if they had come over it.
func (h *handshake) secure(ctx context.Context) error {
	if h.server.TLS == nil {
		return errors.New("nbd: the server has no TLS configuration")
	}
	secured := tls.Server(WithPrefix(h.conn, h.early), h.server.TLS)
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("nbd: TLS: %w", err)
	}
	h.conn, h.early = secured, nil
	h.negotiation.Secured(secured.ConnectionState())
	return nil
}

// WithPrefix returns c with bytes that have been read from it already put before what is still to come: for a connection that changes
// hands.
func WithPrefix(c net.Conn, early []byte) net.Conn { return &prefixed{Conn: c, prefix: early} }

// prefixed is a connection of which something has been read already.
type prefixed struct {
	net.Conn
	prefix []byte
}

// Read reads the prefix first.
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
