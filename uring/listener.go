package uring

import (
	"errors"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Listener accepts connections by one multishot request. It satisfies net.Listener.
type Listener struct {
	stack *Stack
	plain net.Listener // owns the address
	file  *os.File     // a duplicate of its descriptor
	fd    int

	accepted chan int      // descriptors; capacity bounds what is accepted ahead
	done     chan struct{} // closed by Close
	once     sync.Once
	token    uint64 // the loop's
	paused   bool   // the loop's: accepted was full
}

// arm starts accepting. On the loop's thread.
func (l *Listener) arm() {
	select {
	case <-l.done:
		return
	default:
	}
	l.token = l.stack.loop.Start(func(e *SQE) { e.PrepAccept(l.fd, true) }, l.arrived)
}

// arrived takes a new connection, or the end of the request. On the loop's thread.
func (l *Listener) arrived(res int32, flags CQEFlags) {
	if res >= 0 {
		select {
		case l.accepted <- int(res):
		default:
			// Nobody accepts: refuse rather than hold descriptors without bound. The client sees a reset, as with a full backlog.
			unix.Close(int(res))
		}
	}
	if flags&CQEMore == 0 && unix.Errno(-res) != unix.ECANCELED && unix.Errno(-res) != unix.EBADF && unix.Errno(-res) != unix.EINVAL {
		l.arm()
	}
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case fd := <-l.accepted:
		return l.stack.adopt(fd, remoteAddr(fd))
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.plain.Addr().Network(), Addr: l.plain.Addr(), Err: net.ErrClosed}
	}
}

// Addr returns the listening address.
func (l *Listener) Addr() net.Addr { return l.plain.Addr() }

// Close stops listening. Connections accepted already and not handed out are closed.
func (l *Listener) Close() error {
	err := error(&net.OpError{Op: "close", Net: l.plain.Addr().Network(), Addr: l.plain.Addr(), Err: net.ErrClosed})
	l.once.Do(func() { err = l.close() })
	return err
}

func (l *Listener) close() error {
	close(l.done)
	l.stack.mu.Lock()
	delete(l.stack.listeners, l)
	l.stack.mu.Unlock()
	ended := make(chan struct{})
	err := l.stack.loop.Post(func() {
		l.stack.loop.Start(func(e *SQE) { e.PrepCancelFD(l.fd) }, func(int32, CQEFlags) { close(ended) })
	})
	if err == nil {
		<-ended
	}
	for {
		select {
		case fd := <-l.accepted:
			unix.Close(fd)
			continue
		default:
		}
		return errors.Join(l.plain.Close(), l.file.Close())
	}
}
