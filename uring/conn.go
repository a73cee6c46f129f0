package uring

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a stream socket on a loop. It satisfies net.Conn: one goroutine may read while another writes, and both may be cut short by
// deadlines or Close.
//
// A multishot receive is armed once; the kernel fills provided buffers as data arrives. When a reader is slow the receive is stopped
// (readAheadMax), so that one connection cannot take all buffers and TCP's own window holds the sender back.
type Conn struct {
	stack         *Stack
	fd            int
	local, remote net.Addr

	mu       sync.Mutex // guards what follows
	chunks   []chunk    // received, not yet read
	held     int        // buffers in chunks
	eof      error      // why no more comes: io.EOF or the kernel's error; nil while receiving
	armed    bool       // a receive is in the kernel
	stopping bool       // its cancel was sent
	closed   bool
	receive  uint64        // the token of the receive
	readable chan struct{} // capacity 1: a reader may look again
	done     chan struct{} // closed by Close

	read, write deadline
	writing     sync.Mutex // one write at a time, so that two do not interleave
}

// chunk is a received buffer, read up to off.
type chunk struct {
	id   uint16
	data []byte
	off  int
}

// readAheadMax is how many buffers one connection may hold unread: enough to keep a fast reader busy, few enough that a slow one starves
// nobody.
const readAheadMax = 8

// deadline wakes those who wait when it passes.
type deadline struct {
	timer  *time.Timer
	passed chan struct{} // closed when the deadline has passed
}

func (d *deadline) set(t time.Time) {
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // it fired, or is about to
	}
	d.timer = nil
	select {
	case <-d.passed:
		d.passed = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	passed := d.passed
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(passed) })
	} else {
		close(passed)
	}
}

// stop frees the timer.
func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func newConn(s *Stack, fd int, remote net.Addr) *Conn {
	c := &Conn{stack: s, fd: fd, local: localAddr(fd), remote: remote, readable: make(chan struct{}, 1), done: make(chan struct{})}
	c.read.passed, c.write.passed = make(chan struct{}), make(chan struct{})
	return c
}

// rearm starts the receive, if there is none and should be one. On the loop's thread.
func (c *Conn) rearm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.armed || c.closed || c.eof != nil || c.held >= readAheadMax {
		return
	}
	c.armed, c.stopping = true, false
	e := c.stack.loop.Begin((*connReceive)(c))
	e.PrepRecvMultishot(c.fd, c.stack.buffers.group)
	c.receive = e.UserData
}

// connReceive is a Conn as the Completer of its receive.
type connReceive Conn

// Complete takes what was received.
func (r *connReceive) Complete(res int32, flags CQEFlags) {
	c := (*Conn)(r)
	c.mu.Lock()
	unwanted := c.keep(res, flags)
	more := flags&CQEMore != 0
	c.armed = more
	retry := false
	switch {
	case res == 0:
		c.eof = io.EOF
	case res < 0 && unix.Errno(-res) == unix.ENOBUFS:
		retry = true
	case res < 0 && unix.Errno(-res) != unix.ECANCELED:
		c.eof = os.NewSyscallError("recv", unix.Errno(-res))
	case more && c.held >= readAheadMax && !c.stopping:
		c.stopping = true
		c.stack.loop.Cancel(c.receive)
	}
	c.mu.Unlock()
	c.stack.giveBack(unwanted...)
	c.stack.loop.wakeups.add(c)
	if retry {
		c.stack.starved(c)
	} else if !more {
		c.rearm()
	}
}

// keep takes the buffer of a completion, if it has one. It returns those to give back.
func (c *Conn) keep(res int32, flags CQEFlags) (unwanted []uint16) {
	if flags&CQEBuffer == 0 {
		return nil
	}
	id, data := c.stack.buffers.Take(flags, int(max(res, 0)))
	if res <= 0 || c.closed {
		return []uint16{id}
	}
	c.chunks = append(c.chunks, chunk{id: id, data: data})
	c.held++
	return nil
}

// wake lets a reader look again.
func (c *Conn) wake() {
	select {
	case c.readable <- struct{}{}:
	default:
	}
}

// Read reads what has arrived, waiting for at least one byte.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		n, passed, err := c.take(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		select {
		case <-c.readable:
		case <-c.done:
		case <-passed:
		}
	}
}

// take copies from the received buffers and gives the emptied ones back. When there is nothing to take it returns the channel that ends the
// wait at the deadline.
func (c *Conn) take(p []byte) (n int, passed <-chan struct{}, err error) {
	c.mu.Lock()
	var emptied [readAheadMax]uint16
	gone := emptied[:0]
	defer func() {
		armed := c.armed && !c.stopping
		c.mu.Unlock()
		if len(gone) > 0 {
			c.giveBack(gone, armed)
		}
	}()
	passed = c.read.passed
	if c.closed {
		return 0, nil, net.ErrClosed
	}
	select {
	case <-passed:
		return 0, nil, os.ErrDeadlineExceeded
	default:
	}
	for n < len(p) && len(c.chunks) > 0 {
		head := &c.chunks[0]
		k := copy(p[n:], head.data[head.off:])
		n, head.off = n+k, head.off+k
		if head.off == len(head.data) {
			gone = append(gone, head.id)
			c.chunks = c.chunks[1:]
			c.held--
		}
	}
	if len(c.chunks) > 0 || c.eof != nil {
		c.wake() // there is something for another reader too
	}
	if n == 0 && c.eof != nil && len(p) > 0 {
		return 0, nil, c.eof
	}
	return n, passed, nil
}

// giveBack returns buffers to the kernel and starts the receive again if it was stopped. A closed loop has taken the buffers with it, so
// its refusal loses nothing.
func (c *Conn) giveBack(ids []uint16, armed bool) {
	for _, id := range ids {
		c.stack.buffers.Return(id)
	}
	if !armed {
		_ = c.stack.loop.Post(c.rearm)
	}
	if c.stack.starving.Load() {
		_ = c.stack.loop.Post(c.stack.feed)
	}
}

// Write sends p whole.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n := 0
	for n < len(p) {
		sent, err := c.send(p[n:])
		n += sent
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// send sends what the socket takes at once in place, as package net would; when the socket is full, the ring waits for room without a
// thread and sends all of p.
func (c *Conn) send(p []byte) (int, error) {
	c.mu.Lock()
	closed, passed := c.closed, c.write.passed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	select {
	case <-passed:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	// The descriptor is ours: Close closes it only when nobody writes.
	n, err := uninterrupted(func() (int, error) { return sendNow(c.fd, p) })
	if errors.Is(err, unix.EAGAIN) {
		var e SQE
		e.PrepSend(c.fd, p, unix.MSG_NOSIGNAL|unix.MSG_WAITALL)
		n, err = c.stack.loop.doUntil(passed, &e, c.open)
		runtime.KeepAlive(p)
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, errStopped):
		return n, os.ErrDeadlineExceeded
	case !c.open():
		return n, net.ErrClosed
	}
	return n, &net.OpError{Op: "write", Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: os.NewSyscallError("send", err)}
}

// sendNow sends what fits without waiting.
func sendNow(fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (c *Conn) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed
}

// CloseWrite ends the sending direction.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.open() {
		return net.ErrClosed
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(c.fd, unix.SHUT_WR))
}

// Close ends the connection; readers and writers return net.ErrClosed.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	var ids []uint16
	for _, k := range c.chunks {
		ids = append(ids, k.id)
	}
	c.chunks, c.held = nil, 0
	c.read.stop()
	c.write.stop()
	c.mu.Unlock()
	close(c.done)
	return c.stack.discard(c, ids)
}

// LocalAddr returns our address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, &c.read, &c.write) }

// SetReadDeadline bounds reads, those waiting now too.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.read) }

// SetWriteDeadline bounds writes, those waiting now too.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.write) }

func (c *Conn) setDeadlines(t time.Time, which ...*deadline) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	for _, d := range which {
		d.set(t)
	}
	c.wake() // a reader that waits by a deadline that is gone
	return nil
}
