package blockserve

import (
	"crypto/tls"
	"net"

	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

// visitor is a connection of a lane, in the clear or with TLS.
type visitor struct {
	lane   *lane
	remote net.Addr
	tls    *tls.Config // nil: in the clear
	ticket func()      // gives back the connection's place among Options.ConnsMax, and the lane's
}

// session is a connection in the clear, or one that has not come as far as TLS.
type session struct {
	*nbd.Session
	visitor
	link  *uring.Link
	limit uint64 // the timer of the negotiation; 0: passed or cancelled
}

// Accept implements uring.Service for one connection.
func (v visitor) Accept(l *uring.Link) uring.Session {
	if v.lane.ending {
		v.ticket()
		return nil
	}
	s := &session{visitor: v, link: l}
	options := nbd.SessionOptions{Exports: v.lane, Peer: nbd.Peer{Addr: v.remote}, Conn: v.connOptions()}
	if v.tls != nil {
		options.TLSMode, options.Secure = nbd.TLSRequired, s.secure
	}
	s.limit = v.lane.loop.After(v.lane.server.options.HandshakeTimeout, func() {
		s.limit = 0
		l.Abort(errHandshake)
	})
	s.Session = nbd.NewSession(l, options)
	v.lane.sessions[s] = struct{}{}
	return s
}

func (v visitor) connOptions() nbd.ConnOptions {
	return nbd.ConnOptions{Limits: limits, Memory: &v.lane.memory}
}

// Received implements uring.Session.
func (s *session) Received(p []byte) int {
	n := s.Session.Received(p)
	if s.limit != 0 && !s.Negotiating() {
		s.untime()
	}
	return n
}

// untime takes the limit of the negotiation away.
func (s *session) untime() {
	if s.limit != 0 {
		s.lane.loop.Cancel(s.limit)
		s.limit = 0
	}
}

// Closed implements uring.Session.
func (s *session) Closed(reason error) {
	delete(s.lane.sessions, s)
	s.ended(reason)
}

// ended does what is to be done at the end of every connection.
func (s *session) ended(reason error) {
	s.untime()
	s.Session.Closed(reason)
	s.lane.server.sayEnded(s.remote, reason)
	s.ticket()
}

// finish implements finisher.
func (s *session) finish() {
	if c := s.Conn(); c != nil {
		c.Finish()
		return
	}
	s.link.Close()
}

// secure takes the connection off the loop for the TLS handshake.
func (s *session) secure(n *nbd.Negotiation) {
	s.untime()
	s.link.Detach(func(fd int, unread []byte) {
		delete(s.lane.sessions, s)
		s.lane.server.group.Go(func() { s.shakeHands(fd, unread, n) })
	})
}
