package uring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Stack is a loop with sockets: listeners and connections that share its ring and one group of receive buffers.
type Stack struct {
	loop        *Loop
	buffers     *Buffers
	acceptedMax int

	hungry   []rearming  // the loop's: who found no free buffer, in order
	starving atomic.Bool // hungry is not empty

	mu      sync.Mutex // guards what follows
	conns   map[*Conn]struct{}
	closers map[io.Closer]struct{} // listeners and servers
	closed  bool
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
	// Multishot receives cannot be probed for; zero-copy sends, which can, came with the same kernel.
	if support, err := loop.Probe(); err != nil || !support.Has(OpSendZC) {
		refusal := fmt.Errorf("%w: sockets need Linux 6.0", ErrUnavailable)
		return nil, errors.Join(refusal, err, loop.Close())
	}
	buffers, err := loop.NewBuffers(stackGroup, o.Buffers, o.BufferBytes)
	if err != nil {
		return nil, errors.Join(err, loop.Close())
	}
	return &Stack{loop: loop, buffers: buffers, acceptedMax: cmp.Or(o.AcceptedMax, acceptedDefault), conns: map[*Conn]struct{}{}, closers: map[io.Closer]struct{}{}}, nil
}

// Loop returns the loop, for file I/O beside the sockets.
func (s *Stack) Loop() *Loop { return s.loop }

// rearming is a receiver that ran out of buffers.
type rearming interface{ rearm() }

// starved remembers a receiver that found no free buffer. If all came back between the kernel's answer and now, nobody would come to
// wake it, so it tries again at once. On the loop's thread.
func (s *Stack) starved(c rearming) {
	if !slices.Contains(s.hungry, c) {
		s.hungry = append(s.hungry, c)
	}
	s.starving.Store(true)
	if s.buffers.free() { // after the store: who returns a buffer looks at starving after that
		s.feed()
	}
}

// giveBack returns buffers to the kernel and lets those who found none try again. On the loop's thread.
func (s *Stack) giveBack(ids ...uint16) {
	for _, id := range ids {
		if s.buffers.holds[id] > 0 {
			s.buffers.holds[id]-- // somebody else has it still
			continue
		}
		s.buffers.Return(id)
	}
	if s.starving.Load() {
		s.feed()
	}
}

// release gives up a hold on a receive buffer.
type release struct {
	stack *Stack
	id    uint16
}

// Release implements Releaser.
func (r *release) Release() { r.stack.giveBack(r.id) }

// hold keeps a buffer from the kernel until the Releaser is released. On the loop's thread.
func (s *Stack) hold(id uint16) Releaser {
	s.buffers.holds[id]++
	r := &s.buffers.holder[id]
	r.stack, r.id = s, id
	return r
}

// feed lets those who found no buffer try again. On the loop's thread.
func (s *Stack) feed() {
	waiting := s.hungry
	s.hungry = nil
	s.starving.Store(false)
	for _, c := range waiting {
		c.rearm()
	}
}

// forget takes a receiver from those who wait for buffers. On the loop's thread.
func (s *Stack) forget(c rearming) {
	s.hungry = slices.DeleteFunc(s.hungry, func(other rearming) bool { return other == c })
}

// adopt makes a connection of a connected socket.
func (s *Stack) adopt(fd int, remote net.Addr) (*Conn, error) {
	if err := noDelay(fd); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	c := newConn(s, fd, remote)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errors.Join(net.ErrClosed, unix.Close(fd))
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	if err := s.loop.Post(c.rearm); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// noDelay lets small messages go at once, as package net does: to gather them is the caller's to decide. Sockets that are not TCP do not
// know the option.
func noDelay(fd int) error {
	err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return os.NewSyscallError("setsockopt", err)
}

// discard cancels what a closed connection has in the kernel, then closes its descriptor.
func (s *Stack) discard(c *Conn, ids []uint16) error {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	done := make(chan struct{})
	err := s.loop.Post(func() {
		s.forget(c)
		s.giveBack(ids...)
		s.loop.Begin(Handler(func(int32, CQEFlags) { close(done) })).PrepCancelFD(c.fd)
	})
	if err == nil {
		<-done
	}
	// A writer has seen closed, or its request was cancelled, or it is refused on the loop's thread: it is about to leave. Once it has,
	// nobody uses the descriptor's number, which may go to another connection.
	c.writing.Lock()
	defer c.writing.Unlock()
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
	file, err := descriptorOf(plain)
	if err != nil {
		return nil, err
	}
	l := newListener(s, plain, file)
	if err := s.join(l); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return l, s.loop.Post(l.acceptor.arm)
}

// join has Close close c; leave takes it back.
func (s *Stack) join(c io.Closer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closers[c] = struct{}{}
	return nil
}

func (s *Stack) leave(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.closers, c)
}

// descriptorOf returns a duplicate of a socket's descriptor.
func descriptorOf(socket any) (*os.File, error) {
	filer, ok := socket.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("uring: %T has no descriptor", socket)
	}
	return filer.File()
}

// Dial connects. Names are resolved, and the connection is made, by package net.
func (s *Stack) Dial(ctx context.Context, network, address string) (*Conn, error) {
	var d net.Dialer
	plain, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	file, err := descriptorOf(plain)
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

// Close closes all listeners, servers and connections and ends the loop.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var closers []io.Closer
	for c := range s.closers {
		closers = append(closers, c)
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
	// The ring goes first: while it lives, cancelled receives may still look at the buffers.
	errs = append(errs, s.loop.Close(), s.buffers.Close())
	return errors.Join(errs...)
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
