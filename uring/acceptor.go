package uring

import (
	"time"

	"golang.org/x/sys/unix"
)

// acceptor keeps one multishot accept in the kernel as long as more connections are welcome. When they are not, it cancels the request,
// and those who come next wait in the kernel's backlog, as they would with any slow server. All of it on the loop's thread.
type acceptor struct {
	loop *Loop
	fd   int
	// welcome reports whether one more connection would be; it is asked after each. got takes one; it must take it also when there is
	// no welcome, because a few more may come before the cancel is through.
	welcome func() bool
	got     func(fd int)

	armed    bool // a request is in the kernel
	stopping bool // its cancel was sent
	resting  bool // a timer will arm it
	closed   bool
	token    uint64
}

// acceptRetry is how long accepting rests when the process has no descriptors or the kernel no memory left: to ask again at once would
// fail again at once, without end.
const acceptRetry = 100 * time.Millisecond

// arm starts accepting if it has stopped and connections are welcome.
func (a *acceptor) arm() {
	if a.armed || a.resting || a.closed || !a.welcome() {
		return
	}
	e := a.loop.Begin(a)
	e.PrepAccept(a.fd, true)
	a.token, a.armed, a.stopping = e.UserData, true, false
}

// Complete takes a new connection, or the end of the request.
func (a *acceptor) Complete(res int32, flags CQEFlags) {
	a.armed = flags&CQEMore != 0
	if res >= 0 {
		if a.closed {
			unix.Close(int(res))
			return
		}
		a.got(int(res))
	}
	switch {
	case a.armed:
		if !a.stopping && !a.welcome() {
			a.stopping = true
			a.loop.Cancel(a.token)
		}
	case exhausted(res) && !a.closed:
		a.resting = true
		a.loop.After(acceptRetry, func() {
			a.resting = false
			a.arm()
		})
	default:
		a.arm()
	}
}

// exhausted reports whether accepting failed for a reason that asking again at once would not change, such as want of descriptors.
func exhausted(res int32) bool {
	if res >= 0 {
		return false
	}
	switch unix.Errno(-res) {
	case unix.ECANCELED, unix.ECONNABORTED, unix.EINTR:
		return false
	}
	return true
}

// close stops accepting; then is called when the kernel has let go of the descriptor.
func (a *acceptor) close(then func()) {
	a.closed = true
	a.loop.Begin(Handler(func(int32, CQEFlags) { then() })).PrepCancelFD(a.fd)
}
