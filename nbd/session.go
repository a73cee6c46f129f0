package nbd

import "errors"

// Session is a whole connection on an event loop, from the greeting to the end: a Negotiation, then a Conn. Its methods are those that
// package uring's Server calls (uring.Session); a *uring.Link is its Wire.
//
// What the loop's owner adds: a time limit for as long as Negotiating, and TLS, for which the connection leaves the loop.
type Session struct {
	wire        Wire
	options     SessionOptions
	negotiation *Negotiation
	conn        *Conn // nil: still negotiating
	closed      bool
}

// SessionOptions make a Session.
type SessionOptions struct {
	Exports Exports
	TLSMode TLSMode
	Peer    Peer
	Conn    ConnOptions // without a Lock
	// Secure is called when the client has been told to start TLS. The owner takes the connection from the loop (uring.Link.Detach) and goes
	// on with Server.ServeConn, or, when TLS is set up, with ResumeSession. The Session hears no more. nil with TLSOff.
	Secure func(*Negotiation)
}

// NewSession greets the client.
func NewSession(w Wire, o SessionOptions) *Session {
	s := &Session{wire: w, options: o, negotiation: NewNegotiation(o.Exports, o.TLSMode, o.Peer)}
	_, _ = w.Write(s.negotiation.Greeting()) // a wire that is closing drops it, which Closed will tell
	return s
}

// ResumeSession goes on with a negotiation that came as far as StartTLS and has since been Secured; w is what carries the bytes within TLS.
func ResumeSession(w Wire, n *Negotiation, o SessionOptions) *Session {
	return &Session{wire: w, options: o, negotiation: n}
}

// Negotiating reports whether the client has not yet chosen an export.
func (s *Session) Negotiating() bool { return s.conn == nil && !s.closed }

// Conn returns the transmission phase, nil before it.
func (s *Session) Conn() *Conn { return s.conn }

// Received takes bytes that arrived.
func (s *Session) Received(p []byte) int {
	if s.conn != nil {
		return s.conn.Received(p)
	}
	taken, out, next := s.negotiation.Feed(p, nil)
	if len(out) > 0 {
		_, _ = s.wire.Write(out)
	}
	switch next {
	case Transmit:
		conn, err := NewConn(s.negotiation.Result(), s.wire, s.options.Conn)
		if err != nil {
			s.wire.Abort(err)
			return len(p)
		}
		s.conn = conn
	case StartTLS:
		if s.options.Secure == nil {
			s.wire.Abort(errors.New("nbd: the server offers TLS and has none"))
			return len(p)
		}
		s.options.Secure(s.negotiation)
	case Hangup:
		if err := s.negotiation.Err(); err != nil {
			s.wire.Abort(err)
		} else {
			s.wire.Close()
		}
		return len(p)
	case More:
	}
	return taken
}

// Filled says that a payload has arrived where it was wanted.
func (s *Session) Filled(p []byte) { s.conn.Filled(p) }

// Ended says that the client will send nothing more.
func (s *Session) Ended() {
	if s.conn != nil {
		s.conn.Ended()
		return
	}
	s.wire.Close()
}

// Closed says that the connection is closed.
func (s *Session) Closed(reason error) {
	s.closed = true
	if s.conn != nil {
		s.conn.Closed(reason)
	}
}
