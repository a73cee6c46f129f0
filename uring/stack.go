package uring

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Stack is a loop with sockets: listeners and connections that share its ring and one group of receive buffers.
type Stack struct {
	loop    *Loop
	buffers *Buffers

	hungry []*Conn // the loop's: connections that found no free buffer, in order

	mu        sync.Mutex // guards what follows
	conns     map[*Conn]struct{}
	listeners map[*Listener]struct{}
	closed    bool
}

// StackOptions size a Stack. The zero value is good for some thousands of connections.
type StackOptions struct {
	Ring        Options
	Buffers     int // receive buffers, a power of two; 1024 if zero
	BufferBytes int // size of each; 16 KiB if zero
	AcceptedMax int // connections accepted ahead of Accept; 128 if zero
}

const (
	buffersDefault     = 1024
	bufferBytesDefault = 16 << 10
	acceptedDefault    = 128
	stackGroup         = 0
)

// errStopped means that a request was cancelled because its deadline passed.
var errStopped = errors.New("stopped")

// NewStack starts a loop for sockets.
func NewStack(o StackOptions) (*Stack, error) {
	if o.Buffers == 0 {
		o.Buffers = buffersDefault
	}
	if o.BufferBytes == 0 {
		o.BufferBytes = bufferBytesDefault
	}
	loop, err := NewLoop(o.Ring)
	if err != nil {
		return nil, err
	}
	buffers, err := loop.NewBuffers(stackGroup, o.Buffers, o.BufferBytes)
	if err != nil {
		return nil, errors.Join(err, loop.Close())
	}
	return &Stack{loop: loop, buffers: buffers, conns: map[*Conn]struct{}{}, listeners: map[*Listener]struct{}{}}, nil
}

// Loop returns the loop, for file I/O beside the sockets.
func (s *Stack) Loop() *Loop { return s.loop }

// starved remembers a connection that found no free buffer. On the loop's thread.
func (s *Stack) starved(c *Conn) {
	if !slices.Contains(s.hungry, c) {
		s.hungry = append(s.hungry, c)
	}
}

// feed lets connections try again after buffers came back. On the loop's thread.
func (s *Stack) feed() {
	waiting := s.hungry
	s.hungry = nil
	for _, c := range waiting {
		c.arm()
	}
}

// adopt makes a connection of a connected socket.
func (s *Stack) adopt(fd int, remote net.Addr) (*Conn, error) {
	c := newConn(s, fd, remote)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errors.Join(ErrClosed, unix.Close(fd))
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	// Small messages must not wait for more: that is the caller's to decide, as in package net.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOPROTOOPT) {
		return nil, errors.Join(os.NewSyscallError("setsockopt", err), c.Close())
	}
	return c, s.loop.Post(c.arm)
}

// discard cancels what a closed connection has in the kernel, then closes its descriptor.
func (s *Stack) discard(c *Conn, ids []uint16) error {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	done := make(chan struct{})
	err := s.loop.Post(func() {
		for _, id := range ids {
			s.buffers.Return(id)
		}
		s.hungry = slices.DeleteFunc(s.hungry, func(other *Conn) bool { return other == c })
		s.loop.Start(func(e *SQE) { e.PrepCancelFD(c.fd) }, func(int32, CQEFlags) { close(done) })
	})
	if err == nil {
		<-done
	}
	return os.NewSyscallError("close", unix.Close(c.fd))
}

// Listen listens on a TCP or unix address ("tcp", "127.0.0.1:0"; "unix", "/run/x.sock"), by package net, and accepts through the ring.
func (s *Stack) Listen(ctx context.Context, network, address string) (*Listener, error) {
	var lc net.ListenConfig
	plain, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return s.Accepting(plain)
}

// Accepting takes over a listener of package net, such as one inherited from systemd. It is closed with the Listener.
func (s *Stack) Accepting(plain net.Listener) (*Listener, error) {
	filer, ok := plain.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("uring: %T has no descriptor", plain)
	}
	file, err := filer.File()
	if err != nil {
		return nil, err
	}
	l := &Listener{stack: s, plain: plain, file: file, fd: int(file.Fd()), accepted: make(chan int, acceptedDefault), done: make(chan struct{})}
	s.mu.Lock()
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	return l, s.loop.Post(l.arm)
}

// Dial connects. Names are resolved, and the connection is made, by package net.
func (s *Stack) Dial(ctx context.Context, network, address string) (*Conn, error) {
	var d net.Dialer
	plain, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	filer, ok := plain.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("uring: %T has no descriptor", plain)
	}
	file, err := filer.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return s.adopt(fd, plain.RemoteAddr())
}

// Close closes all listeners and connections and ends the loop.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var closers []interface{ Close() error }
	for l := range s.listeners {
		closers = append(closers, l)
	}
	for c := range s.conns {
		closers = append(closers, c)
	}
	s.mu.Unlock()
	var errs []error
	for _, c := range closers {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, s.buffers.Close(), s.loop.Close())
	return errors.Join(errs...)
}

// doUntil is Do that cancels the request when stop is closed; what had been done by then is returned with errStopped.
func (l *Loop) doUntil(stop <-chan struct{}, prepare func(*SQE)) (int, error) {
	result := make(chan int32, 1)
	var token uint64
	err := l.Post(func() { token = l.Start(prepare, func(res int32, _ CQEFlags) { result <- res }) })
	if err != nil {
		return 0, err
	}
	stopped := false
	select {
	case res := <-result:
		return outcome(res, false)
	case <-stop:
		stopped = true
		// Handed over after the request, so it runs after it; ErrClosed means that the loop is ending and cancels everything itself.
		if err := l.Post(func() { l.Cancel(token) }); err != nil && !errors.Is(err, ErrClosed) {
			return 0, err
		}
	}
	return outcome(<-result, stopped)
}

func outcome(res int32, stopped bool) (int, error) {
	switch {
	case res >= 0 && stopped:
		return int(res), errStopped
	case res >= 0:
		return int(res), nil
	case stopped:
		return 0, errStopped
	}
	return 0, unix.Errno(-res)
}

func localAddr(fd int) net.Addr {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil
	}
	return netAddr(sa)
}

func remoteAddr(fd int) net.Addr {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return &net.UnixAddr{Net: "unix"}
	}
	return netAddr(sa)
}

func netAddr(sa unix.Sockaddr) net.Addr {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)))
	case *unix.SockaddrInet6:
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)))
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: a.Name, Net: "unix"}
	}
	return nil
}
