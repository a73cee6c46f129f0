package blockserve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

// TLS on a loop. The handshake blocks, so it runs in a goroutine over the socket. Then the socket goes back to the loop, and the tls.Conn is put
// over memory: a Read of it that wants more than has arrived gets errNoMore, which crypto/tls takes for a passing condition (a net.Error that
// is Temporary) and keeps what it has of a record for the next Read. TestTLSRecordsMayArriveInAnyPieces holds it to that.

// errHandshake means that a client did not choose an export in time.
var errHandshake = errors.New("blockserve: the client did not finish the negotiation in time")

// hostOf returns the host that a verified certificate names.
func hostOf(state *tls.ConnectionState) (cloud.HostName, error) {
	if len(state.VerifiedChains) == 0 || state.PeerCertificates[0].Subject.CommonName == "" {
		return "", fmt.Errorf("the client showed no certificate that names its host: %w", nbd.NotPermitted)
	}
	return cloud.HostName(state.PeerCertificates[0].Subject.CommonName), nil
}

// errNoMore is what reading from memory returns when there is no more for now.
var errNoMore net.Error = noMore{}

type noMore struct{}

func (noMore) Error() string   { return "no more has arrived" }
func (noMore) Timeout() bool   { return true }
func (noMore) Temporary() bool { return true }

// carrier is the net.Conn under a tls.Conn: the socket during the handshake, memory afterwards.
type carrier struct {
	net.Conn        // nil: memory
	in       []byte // arrived and not read
	lane     *lane
	owner    *secured // where records go
}

// Read implements net.Conn.
func (c *carrier) Read(p []byte) (int, error) {
	if len(c.in) > 0 {
		n := copy(p, c.in)
		c.in = c.in[n:]
		return n, nil
	}
	if c.Conn != nil {
		return c.Conn.Read(p)
	}
	return 0, errNoMore
}

// Write implements net.Conn.
func (c *carrier) Write(p []byte) (int, error) {
	if c.Conn != nil {
		return c.Conn.Write(p)
	}
	r := c.lane.newRecord(len(p))
	r.owner, r.p = c.owner, append(r.p, p...)
	c.owner.link.Send(r.p, r)
	return len(p), nil
}

// record is a sealed record on its way out.
type record struct {
	lane  *lane
	owner *secured // whose it is; nil: nobody's
	p     []byte
}

// newRecord returns an empty record with room for n bytes. On the loop's thread, like Release.
func (l *lane) newRecord(n int) *record {
	if k := len(l.records); k > 0 && n <= recordRoom {
		r := l.records[k-1]
		l.records = l.records[:k-1]
		return r
	}
	return &record{lane: l, p: make([]byte, 0, max(n, recordRoom))}
}

// Release implements uring.Releaser.
func (r *record) Release() {
	if s := r.owner; s != nil {
		r.owner = nil
		s.unclog()
	}
	if l := r.lane; cap(r.p) == recordRoom && len(l.records) < buffersKept {
		r.p = r.p[:0]
		l.records = append(l.records, r)
	}
}

const (
	// recordBytes is the most a record of TLS holds; recordRoom what it takes when sealed.
	recordBytes = 16 << 10
	recordRoom  = recordBytes + 512
	// buffersKept bounds the emptied records, and gathering buffers, that a lane keeps.
	buffersKept = 64
)

// Close implements net.Conn; over memory, the link is the one to close.
func (c *carrier) Close() error {
	if c.Conn != nil {
		return c.Conn.Close()
	}
	return nil
}

// SetDeadline implements net.Conn; nothing over memory waits.
func (c *carrier) SetDeadline(t time.Time) error {
	if c.Conn != nil {
		return c.Conn.SetDeadline(t)
	}
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *carrier) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *carrier) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }

// shakeHands sets up TLS on a connection that has left its loop, and takes it back there.
func (v visitor) shakeHands(fd int, unread []byte, n *nbd.Negotiation) {
	err := v.handshake(fd, unread, n)
	if err != nil {
		v.lane.server.sayEnded(v.remote, err)
		v.ticket()
	}
}

func (v visitor) handshake(fd int, unread []byte, n *nbd.Negotiation) error {
	socket, err := connOf(fd)
	if err != nil {
		return err
	}
	defer socket.Close()
	ctx, cancel := context.WithTimeout(v.lane.server.life, v.lane.server.options.HandshakeTimeout)
	defer cancel()
	c := &carrier{Conn: socket, in: unread, lane: v.lane}
	secured := tls.Server(c, v.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("blockserve: TLS: %w", err)
	}
	back, err := descriptorOf(socket)
	if err != nil {
		return err
	}
	c.Conn = nil
	n.Secured(secured.ConnectionState())
	return v.lane.links.Adopt(back, securing{visitor: v, tls: secured, carrier: c, negotiation: n})
}

// connOf makes a connection of package net of a descriptor, which it takes.
func connOf(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	return net.FileConn(f)
}

// descriptorOf returns a duplicate of a connection's descriptor, in blocking mode: a ring does the waiting. Package net has no more use for
// the connection but to close it.
func descriptorOf(c net.Conn) (int, error) {
	sys, ok := c.(interface {
		File() (*os.File, error)
	})
	if !ok {
		return -1, fmt.Errorf("blockserve: %T has no descriptor", c)
	}
	f, err := sys.File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("dup", err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return -1, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	return fd, nil
}

// securing is the uring.Service of one connection that has TLS.
type securing struct {
	visitor
	tls         *tls.Conn
	carrier     *carrier
	negotiation *nbd.Negotiation
}

// Accept implements uring.Service.
func (s securing) Accept(l *uring.Link) uring.Session {
	if s.lane.ending {
		s.ticket()
		return nil
	}
	out := &secured{link: l, tls: s.tls, carrier: s.carrier, session: session{visitor: s.visitor, link: l}}
	s.carrier.owner = out
	out.flushing = out.flush
	out.limit = s.lane.loop.After(s.lane.server.options.HandshakeTimeout, func() {
		out.limit = 0
		l.Abort(errHandshake)
	})
	out.Session = nbd.ResumeSession(out, s.negotiation, nbd.SessionOptions{Exports: s.lane, TLSMode: nbd.TLSRequired, Peer: nbd.Peer{Addr: s.remote}, Conn: s.connOptions()})
	s.lane.sessions[out] = struct{}{}
	l.Loop().AtRoundEnd(out.pump) // the client may have said more with the end of the handshake
	return out
}

// secured is a connection with TLS on a loop: between the link, which carries records, and the session, whose wire it is.
type secured struct {
	session
	link    *uring.Link
	tls     *tls.Conn
	carrier *carrier

	opened   []byte // read from TLS and not taken by the session
	fill     []byte // where the session wants the next bytes
	filled   int
	paused   bool
	pumping  bool
	clogged  bool // too much waits to be sent: the client gets to ask no more
	closing  bool
	out      []byte // to be sealed at the end of the round
	flushing func()
	queued   bool // flushing will be called
}

// Received implements uring.Session.
func (s *secured) Received(p []byte) int {
	if s.closing {
		return len(p)
	}
	if len(s.carrier.in) > 0 { // left from the handshake: ours
		s.carrier.in = append(s.carrier.in, p...)
		s.pump()
		return len(p)
	}
	s.carrier.in = p
	s.pump()
	rest := len(s.carrier.in)
	s.carrier.in = nil
	if s.clogged {
		s.link.Pause()
	}
	return len(p) - rest
}

// pump opens what has arrived and gives it to the session, as long as it takes it.
func (s *secured) pump() {
	if s.pumping {
		return // from within the session's own call
	}
	s.pumping = true
	defer func() { s.pumping = false }()
	for !s.paused && !s.closing {
		if s.clogged = s.link.Queued() > queuedBytesMax; s.clogged {
			return // until records are sent
		}
		if len(s.opened) > 0 {
			s.deliver()
			continue
		}
		var n int
		var err error
		if s.fill != nil {
			n, err = s.tls.Read(s.fill[s.filled:])
			s.filled += n
			s.checkFilled()
		} else {
			if s.lane.plain == nil {
				s.lane.plain = make([]byte, recordBytes)
			}
			n, err = s.tls.Read(s.lane.plain)
			s.give(s.lane.plain[:n])
		}
		switch {
		case err == nil:
		case errors.Is(err, errNoMore):
			return
		case errors.Is(err, io.EOF):
			s.session.Ended()
			return
		default:
			s.Abort(fmt.Errorf("blockserve: TLS: %w", err))
			return
		}
	}
}

// unclog goes on when records have been sent.
func (s *secured) unclog() {
	if s.clogged && !s.closing {
		s.clogged = false
		s.link.Loop().AtRoundEnd(s.goOn)
	}
}

// goOn is Resume, after a pause that was not the session's.
func (s *secured) goOn() {
	s.pump()
	if !s.paused && !s.clogged {
		s.link.Resume()
	}
}

// give offers p to the session and keeps what it does not take; the lane's buffer is others' when pump returns.
func (s *secured) give(p []byte) {
	for len(p) > 0 && s.fill == nil && !s.paused && !s.closing {
		p = p[s.session.Received(p):]
	}
	s.opened = append(s.opened[:0], p...)
}

// deliver gives the session what was kept.
func (s *secured) deliver() {
	if s.fill != nil {
		n := copy(s.fill[s.filled:], s.opened)
		s.filled += n
		s.opened = s.opened[n:]
		s.checkFilled()
		return
	}
	s.opened = s.opened[s.session.Received(s.opened):]
}

func (s *secured) checkFilled() {
	if p := s.fill; p != nil && s.filled == len(p) {
		s.fill = nil
		s.Filled(p)
	}
}

// Ended implements uring.Session.
func (s *secured) Ended() { s.session.Ended() }

// Write implements nbd.Wire.
func (s *secured) Write(p []byte) (int, error) {
	s.gather(p)
	return len(p), nil
}

// Send implements nbd.Wire. Sealing copies, so the buffer comes back at once.
func (s *secured) Send(p []byte, done nbd.Releaser) {
	if len(p) >= recordBytes {
		s.flush()
		s.seal(p)
	} else {
		s.gather(p)
	}
	if done != nil {
		done.Release()
	}
}

// gather has p sealed at the end of the round with all else, or now if there is enough.
func (s *secured) gather(p []byte) {
	if s.closing {
		return
	}
	if s.out == nil {
		s.out = s.lane.newGathering()
	}
	s.out = append(s.out, p...)
	if len(s.out) >= sealBytes {
		s.flush()
		return
	}
	if !s.queued {
		s.queued = true
		s.link.Loop().AtRoundEnd(s.flushing)
	}
}

// sealBytes is how much is gathered before it is sealed: some full records.
const sealBytes = 4 * recordBytes

// newGathering returns an empty buffer to gather in. A connection has one for as long as a round lasts.
func (l *lane) newGathering() []byte {
	if k := len(l.gatherings); k > 0 {
		p := l.gatherings[k-1]
		l.gatherings = l.gatherings[:k-1]
		return p
	}
	return make([]byte, 0, sealBytes+recordBytes)
}

// flush seals what was gathered.
func (s *secured) flush() {
	s.queued = false
	if len(s.out) == 0 {
		return
	}
	out := s.out
	s.out = nil
	s.seal(out)
	if len(s.lane.gatherings) < buffersKept {
		s.lane.gatherings = append(s.lane.gatherings, out[:0])
	}
}

// seal sends p as records.
func (s *secured) seal(p []byte) {
	if _, err := s.tls.Write(p); err != nil {
		s.Abort(fmt.Errorf("blockserve: TLS: %w", err))
	}
}

// Fill implements nbd.Wire.
func (s *secured) Fill(p []byte) { s.fill, s.filled = p, 0 }

// Pause implements nbd.Wire.
func (s *secured) Pause() {
	s.paused = true
	s.link.Pause()
}

// Resume implements nbd.Wire.
func (s *secured) Resume() {
	s.paused = false
	s.goOn()
}

// Close implements nbd.Wire.
func (s *secured) Close() {
	if s.closing {
		return
	}
	s.flush()
	s.closing = true
	_ = s.tls.CloseWrite() // a farewell; the link may be closing already
	s.link.Close()
}

// Abort implements nbd.Wire.
func (s *secured) Abort(reason error) {
	s.closing = true
	s.link.Abort(reason)
}

// finish implements finisher.
func (s *secured) finish() {
	if c := s.Conn(); c != nil {
		c.Finish()
		return
	}
	s.Close()
}

// Closed implements uring.Session.
func (s *secured) Closed(reason error) {
	s.closing, s.fill = true, nil
	delete(s.lane.sessions, s)
	s.ended(reason)
}
