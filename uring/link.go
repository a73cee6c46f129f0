package uring

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Link is a connection of a Server. All its methods belong to the loop's thread.
//
//	receiving --Close--> draining --queue empty--> finishing --kernel has let go--> closed
//	    |                   |                          ^
//	    +------Abort--------+---------timeout----------+
type Link struct {
	server  *Server
	loop    *Loop
	session Session
	fd      int

	// Receiving.
	held   []chunk // arrived, not taken by the session
	fill   []byte  // where the next bytes go, instead of to Received
	filled int
	paused bool // the session wants nothing now
	ended  bool // the peer sends no more
	armed  bool // a receive is in the kernel
	multi  bool // it is multishot
	single bool // ask for each receive by itself
	told   bool // the session knows that the peer has ended
	offers bool // offer is running
	// receiving says that Session.Received is running, with the first of held.
	receiving bool
	calls     int // of the session that are running; closing waits for them
	receive   uint64

	// Sending.
	queue       []segment
	queued      int     // bytes in queue and under way
	sending     *sendOp // under way; one at a time, so that nothing overtakes
	unsettled   int     // send operations the kernel has not let go of, sending included
	dirty       bool    // will be flushed at the end of the round
	zeroCopyMin int     // 0: do not try (again)

	// Closing.
	draining  bool
	finishing bool
	gone      bool
	detached  func(fd int, unread []byte)
	reason    error
	linger    uint64 // the token of the timer that bounds draining; 0: none
}

// Loop returns the loop, for requests to files and for timers.
func (l *Link) Loop() *Loop { return l.loop }

// LocalAddr returns our address.
func (l *Link) LocalAddr() net.Addr { return localAddr(l.fd) }

// RemoteAddr returns the peer's address.
func (l *Link) RemoteAddr() net.Addr { return remoteAddr(l.fd) }

// Pause stops receiving and calling Session.Received until Resume.
func (l *Link) Pause() {
	l.paused = true
	l.throttle()
}

// Resume ends a Pause: it offers what Session.Received did not take, and goes on receiving. In a method of the session the offer comes
// when the method has returned.
func (l *Link) Resume() {
	if !l.paused {
		return
	}
	l.paused = false
	l.offer()
	l.settle()
	l.rearm()
}

// Hold keeps the bytes that Session.Received is being called with valid until the Releaser is released: to send them on by Link.Send
// without a copy. They take up a whole receive buffer, so it is for large pieces only. In Session.Received only.
func (l *Link) Hold() Releaser {
	if !l.receiving {
		panic("uring: Hold outside of Session.Received")
	}
	return l.server.stack.hold(l.held[0].id)
}

// Fill has the next len(p) bytes put into p, without the detour through a receive buffer as far as they have not arrived yet. Session.Filled
// says when all are there. p belongs to the link until then, or until Session.Closed.
func (l *Link) Fill(p []byte) {
	if l.fill != nil {
		panic("uring: Fill before the last one was filled")
	}
	l.fill, l.filled = p, 0
	l.offer()
	l.checkFilled()
	if l.fill != nil && l.armed && l.multi {
		// What the multishot receive still brings goes into p by copying. From now on this connection receives one by one: who sends bulk
		// once will do it again.
		l.loop.Cancel(l.receive)
	}
	l.single = true
	l.rearm()
}

// rearm starts a receive if there is none and should be one. It is also what a returned buffer calls.
func (l *Link) rearm() {
	if l.armed || l.paused || l.ended || !l.receives() || len(l.held) > 0 || l.clogged() {
		return
	}
	e := l.loop.Begin((*linkReceive)(l))
	switch {
	case l.fill != nil:
		e.PrepRecv(l.fd, l.fill[l.filled:], unix.MSG_WAITALL)
	case l.single:
		e.PrepRecvSelect(l.fd, l.server.stack.buffers.group)
	default:
		e.PrepRecvMultishot(l.fd, l.server.stack.buffers.group)
	}
	l.armed, l.multi, l.receive = true, l.fill == nil && !l.single, e.UserData
}

// linkReceive is a Link as the Completer of its receive.
type linkReceive Link

// Complete takes what was received.
func (r *linkReceive) Complete(res int32, flags CQEFlags) {
	l := (*Link)(r)
	l.armed = flags&CQEMore != 0
	l.take(res, flags)
	errno := unix.Errno(-min(res, 0))
	switch {
	case l.finishing || l.draining:
		l.settle()
		return
	case res == 0:
		l.ended = true
	case errno == unix.ENOBUFS:
		l.server.stack.starved(l)
		return
	case errno != 0 && errno != unix.ECANCELED && errno != unix.EINTR:
		l.Abort(os.NewSyscallError("recv", errno))
		return
	}
	l.offer()
	l.settle()
	l.throttle()
	l.rearm()
}

// take keeps what a completion brought.
func (l *Link) take(res int32, flags CQEFlags) {
	switch {
	case flags&CQEBuffer != 0:
		id, data := l.server.stack.buffers.Take(flags, int(max(res, 0)))
		if res <= 0 || l.finishing || l.draining {
			l.server.stack.giveBack(id)
			return
		}
		l.held = append(l.held, chunk{id: id, data: data})
	case res > 0: // into l.fill
		l.filled += int(res)
		l.checkFilled()
	}
}

// throttle takes a multishot receive back when the connection should receive nothing for now.
func (l *Link) throttle() {
	if l.armed && l.multi && (l.paused || l.clogged()) {
		l.loop.Cancel(l.receive)
		l.multi = false // once
	}
}

// offer gives the session what has arrived, as long as it takes it, and then tells it of the end.
func (l *Link) offer() {
	if l.offers {
		return // from within the session's own call
	}
	l.offers = true
	for len(l.held) > 0 && !l.paused && l.receives() && (l.fill != nil || !l.clogged()) {
		head := &l.held[0]
		rest := head.data[head.off:]
		if l.fill != nil {
			n := copy(l.fill[l.filled:], rest)
			l.filled += n
			head.off += n
		} else {
			l.guard(func() {
				l.receiving = true
				n := l.session.Received(rest)
				l.receiving = false
				head.off += n
				l.paused = l.paused || n == 0 && l.fill == nil
			})
		}
		if head.off == len(head.data) {
			id := head.id
			l.held = l.held[1:]
			l.server.stack.giveBack(id)
		}
		l.checkFilled()
	}
	l.offers = false
	switch {
	case l.draining || l.finishing:
		l.drop()
	case l.ended && !l.told && len(l.held) == 0:
		l.told = true
		l.guard(l.session.Ended)
	}
}

// clogged reports whether so much waits to be sent that the peer gets to ask no more.
func (l *Link) clogged() bool { return l.queued > l.server.options.QueuedBytesMax }

// receives reports whether the session is still to be given data.
func (l *Link) receives() bool { return !l.draining && !l.finishing && l.detached == nil }

// checkFilled tells the session when its buffer is full.
func (l *Link) checkFilled() {
	if p := l.fill; p != nil && l.filled == len(p) && l.receives() {
		l.fill = nil
		l.guard(func() { l.session.Filled(p) })
	}
}

// guard calls the session; a panic ends the connection and nothing else.
func (l *Link) guard(call func()) {
	l.calls++
	defer func() {
		l.calls--
		if p := recover(); p != nil {
			l.Abort(fmt.Errorf("uring: session panicked: %v\n%s", p, debug.Stack()))
		}
		l.settle()
	}()
	call()
}

// Close ends the connection once everything queued has been sent, or after ServerOptions.CloseTimeout. Nothing more is received.
func (l *Link) Close() {
	if l.draining || l.finishing {
		return
	}
	l.draining = true
	l.drop()
	if l.armed {
		l.loop.Cancel(l.receive)
	}
	if l.queued > 0 {
		l.linger = l.loop.After(l.server.options.CloseTimeout, func() {
			l.linger = 0
			l.Abort(fmt.Errorf("uring: peer did not take %d bytes in %v: %w", l.queued, l.server.options.CloseTimeout, os.ErrDeadlineExceeded))
		})
	}
	l.settle()
}

// Detach gives the connection away once everything queued has been sent: f gets the descriptor, which is then its own, and what had been
// received and not taken by the session. The session hears no more. f runs on the loop's thread.
func (l *Link) Detach(f func(fd int, unread []byte)) {
	if l.draining || l.finishing || l.detached != nil {
		return
	}
	l.detached = f
	if l.armed {
		l.loop.Cancel(l.receive)
	}
	l.settle()
}

// Abort breaks the connection off; what is queued is not sent.
func (l *Link) Abort(reason error) {
	if l.finishing {
		return
	}
	l.finishing, l.reason, l.detached = true, reason, nil
	l.drop()
	l.releaseQueue()
	// A reset lets the kernel give up what it has not sent, and with it buffers of zero-copy sends. Sockets that are not TCP take no notice.
	_ = unix.SetsockoptLinger(l.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if l.armed || l.sending != nil {
		l.loop.Begin(Handler(func(int32, CQEFlags) {})).PrepCancelFD(l.fd)
	}
	l.settle()
}

// drop gives received buffers back unread; offer does it when it is under way.
func (l *Link) drop() {
	if l.offers {
		return
	}
	for _, c := range l.held {
		l.server.stack.giveBack(c.id)
	}
	l.held = nil
	l.server.stack.forget(l)
}

// settle takes the next step of closing, if it is time for it.
func (l *Link) settle() {
	if l.gone || l.armed || l.sending != nil || l.calls > 0 || l.offers {
		return
	}
	switch {
	case l.detached != nil && len(l.queue) == 0 && l.unsettled == 0:
		l.giveAway()
		return
	case l.draining && !l.finishing && len(l.queue) == 0:
		l.finishing = true
	}
	if !l.finishing {
		return
	}
	if l.fd >= 0 {
		if err := unix.Close(l.fd); err != nil && l.reason == nil {
			l.reason = os.NewSyscallError("close", err)
		}
		l.fd = -1
	}
	if l.unsettled > 0 {
		return // the kernel still holds buffers of zero-copy sends
	}
	l.gone = true
	l.drop()
	if l.linger != 0 {
		l.loop.Cancel(l.linger)
	}
	l.fill = nil
	func() {
		defer func() {
			if p := recover(); p != nil {
				l.reason = errors.Join(l.reason, fmt.Errorf("uring: session panicked: %v", p))
			}
		}()
		l.session.Closed(l.reason)
	}()
	l.server.forget(l)
}

// giveAway hands the descriptor to who asked for it.
func (l *Link) giveAway() {
	var unread []byte
	for _, c := range l.held {
		unread = append(unread, c.data[c.off:]...)
	}
	f, fd := l.detached, l.fd
	l.gone, l.finishing, l.detached, l.fd = true, true, nil, -1
	l.drop()
	l.server.forget(l)
	f(fd, unread)
}
