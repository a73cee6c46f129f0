package uring

import (
	"errors"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Listener accepts connections by one multishot request. It satisfies net.Listener. While nobody takes the accepted connections it
// accepts no more than StackOptions.AcceptedMax of them ahead.
type Listener struct {
	stack    *Stack
	plain    net.Listener // owns the address
	file     *os.File     // a duplicate of its descriptor
	acceptor acceptor     // the loop's
	aheadMax int

	mu       sync.Mutex // guards what follows
	accepted []int      // descriptors nobody has taken; at most aheadMax and what was under way when the request was cancelled
	closed   bool

	arrival chan struct{} // capacity 1: Accept may look again
	done    chan struct{} // closed by Close
}

func newListener(s *Stack, plain net.Listener, file *os.File) *Listener {
	l := &Listener{stack: s, plain: plain, file: file, aheadMax: s.acceptedMax, arrival: make(chan struct{}, 1), done: make(chan struct{})}
	l.acceptor = acceptor{loop: s.loop, fd: int(file.Fd()), welcome: l.hasRoom, got: l.keep}
	return l
}

func (l *Listener) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted) < l.aheadMax
}

// keep takes a new connection. On the loop's thread.
func (l *Listener) keep(fd int) {
	l.mu.Lock()
	l.accepted = append(l.accepted, fd)
	l.mu.Unlock()
	l.stack.loop.wakeups.add(l)
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
		fd, ok, full, err := l.take()
		if err != nil {
			return nil, err
		}
		if full {
			// A closed loop refuses, and Accept returns an error at the next call.
			_ = l.stack.loop.Post(l.acceptor.arm)
		}
		if ok {
			return l.stack.adopt(fd, remoteAddr(fd))
		}
		select {
		case <-l.arrival:
		case <-l.done:
		}
	}
}

// take returns the next connection, and whether accepting had paused because there were too many.
func (l *Listener) take() (fd int, ok, full bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, false, false, l.closedError("accept")
	}
	if len(l.accepted) == 0 {
		return 0, false, false, nil
	}
	full = len(l.accepted) >= l.aheadMax
	fd, l.accepted = l.accepted[0], l.accepted[1:]
	if len(l.accepted) > 0 {
		l.wake() // for another Accept
	}
	return fd, true, full, nil
}

func (l *Listener) closedError(op string) error {
	return &net.OpError{Op: op, Net: l.plain.Addr().Network(), Addr: l.plain.Addr(), Err: net.ErrClosed}
}

// Addr returns the listening address.
func (l *Listener) Addr() net.Addr { return l.plain.Addr() }

// Close stops listening. Connections accepted already and not handed out are closed.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return l.closedError("close")
	}
	l.closed = true
	l.mu.Unlock()
	close(l.done)
	l.stack.leave(l)
	ended := make(chan struct{})
	if err := l.stack.loop.Post(func() { l.acceptor.close(func() { close(ended) }) }); err == nil {
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
