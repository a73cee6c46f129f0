package uring

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Listener accepts connections by one multishot request. It satisfies net.Listener.
//
// When nobody takes the accepted connections the request is cancelled, and those who come next wait in the kernel's backlog, as they
// would with any slow server.
type Listener struct {
	stack    *Stack
	plain    net.Listener // owns the address
	file     *os.File     // a duplicate of its descriptor
	fd       int
	aheadMax int

	mu       sync.Mutex // guards what follows
	accepted []int      // descriptors nobody has taken; at most aheadMax and what was under way when the request was cancelled
	armed    bool       // a request is in the kernel
	stopping bool       // its cancel was sent
	token    uint64

	arrival chan struct{} // capacity 1: Accept may look again
	done    chan struct{} // closed by Close
	once    sync.Once
}

// acceptRetry is how long accepting rests when the process has no descriptors or the kernel no memory left: to ask again at once would
// fail again at once, without end.
const acceptRetry = 100 * time.Millisecond

// arm starts accepting. On the loop's thread.
func (l *Listener) arm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.armed || l.shut() || len(l.accepted) >= l.aheadMax {
		return
	}
	e := l.stack.loop.Begin(l)
	e.PrepAccept(l.fd, true)
	l.token, l.armed, l.stopping = e.UserData, true, false
}

func (l *Listener) shut() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Complete takes a new connection, or the end of the request. On the loop's thread.
func (l *Listener) Complete(res int32, flags CQEFlags) {
	l.mu.Lock()
	l.armed = flags&CQEMore != 0
	if res >= 0 {
		if l.shut() {
			unix.Close(int(res))
		} else {
			l.accepted = append(l.accepted, int(res))
		}
	}
	if l.armed && !l.stopping && len(l.accepted) >= l.aheadMax {
		l.stopping = true
		l.stack.loop.Cancel(l.token)
	}
	again := !l.armed
	l.mu.Unlock()
	l.stack.loop.wakeups.add(l)
	switch {
	case !again:
	case exhausted(res):
		l.stack.loop.After(acceptRetry, l.arm)
	default:
		l.arm()
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

// wake lets Accept look again.
func (l *Listener) wake() {
	select {
	case l.arrival <- struct{}{}:
	default:
	}
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		if fd, ok := l.take(); ok {
			return l.stack.adopt(fd, remoteAddr(fd))
		}
		select {
		case <-l.arrival:
		case <-l.done:
			return nil, l.closedError("accept")
		}
	}
}

func (l *Listener) take() (fd int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.accepted) == 0 || l.shut() {
		return 0, false
	}
	fd, l.accepted = l.accepted[0], l.accepted[1:]
	if len(l.accepted) > 0 {
		l.wake() // for another Accept
	}
	if !l.armed && len(l.accepted) < l.aheadMax {
		// A closed loop refuses, and Accept returns an error at the next call.
		_ = l.stack.loop.Post(l.arm)
	}
	return fd, true
}

func (l *Listener) closedError(op string) error {
	return &net.OpError{Op: op, Net: l.plain.Addr().Network(), Addr: l.plain.Addr(), Err: net.ErrClosed}
}

// Addr returns the listening address.
func (l *Listener) Addr() net.Addr { return l.plain.Addr() }

// Close stops listening. Connections accepted already and not handed out are closed.
func (l *Listener) Close() error {
	err := l.closedError("close")
	l.once.Do(func() { err = l.close() })
	return err
}

func (l *Listener) close() error {
	close(l.done)
	l.stack.mu.Lock()
	delete(l.stack.closers, l)
	l.stack.mu.Unlock()
	ended := make(chan struct{})
	err := l.stack.loop.Post(func() {
		l.stack.loop.Begin(Handler(func(int32, CQEFlags) { close(ended) })).PrepCancelFD(l.fd)
	})
	if err == nil {
		<-ended
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, fd := range l.accepted {
		unix.Close(fd)
	}
	l.accepted = nil
	return errors.Join(l.plain.Close(), l.file.Close())
}
