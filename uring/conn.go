package uring

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

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
	readable chan struct{} // capacity 1: a reader may look again

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

func newConn(s *Stack, fd int, remote net.Addr) *Conn {
	c := &Conn{stack: s, fd: fd, local: localAddr(fd), remote: remote, readable: make(chan struct{}, 1)}
	c.read.passed, c.write.passed = make(chan struct{}), make(chan struct{})
	return c
}

// arm starts the receive. On the loop's thread.
func (c *Conn) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.armed || c.closed || c.eof != nil || c.held >= readAheadMax {
		return
	}
	c.armed, c.stopping = true, false
	var token uint64
	token = c.stack.loop.Start(func(e *SQE) { e.PrepRecvMultishot(c.fd, c.stack.buffers.group) },
		func(res int32, flags CQEFlags) { c.received(res, flags, token) })
}

// received takes a completion of the receive. On the loop's thread.
func (c *Conn) received(res int32, flags CQEFlags, token uint64) {
	c.mu.Lock()
	if flags&CQEBuffer != 0 {
		id, data := c.stack.buffers.Take(flags, int(max(res, 0)))
		if res > 0 && !c.closed {
			c.chunks = append(c.chunks, chunk{id: id, data: data})
			c.held++
		} else {
			c.stack.buffers.Return(id)
		}
	}
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
		c.stack.loop.Cancel(token)
	}
	c.mu.Unlock()
	c.signal()
	if retry {
		c.stack.starved(c)
	} else if !more {
		c.arm()
	}
}

func (c *Conn) signal() {
	select {
	case c.readable <- struct{}{}:
	default:
	}
}

// Read reads what has arrived, waiting for at least one byte.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		n, err := c.take(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		c.mu.Lock()
		passed := c.read.passed
		c.mu.Unlock()
		select {
		case <-c.readable:
		case <-passed:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// take copies from the received buffers and gives the emptied ones back.
func (c *Conn) take(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	select {
	case <-c.read.passed:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	n, emptied := 0, []uint16(nil)
	for n < len(p) && len(c.chunks) > 0 {
		head := &c.chunks[0]
		k := copy(p[n:], head.data[head.off:])
		n, head.off = n+k, head.off+k
		if head.off == len(head.data) {
			emptied = append(emptied, head.id)
			c.chunks = c.chunks[1:]
			c.held--
		}
	}
	if len(emptied) > 0 {
		c.giveBack(emptied)
	}
	if n == 0 && c.eof != nil {
		return 0, c.eof
	}
	return n, nil
}

// giveBack returns buffers to the kernel and starts the receive again if it was stopped.
func (c *Conn) giveBack(ids []uint16) {
	// A closed loop has taken the buffers with it, so its refusal loses nothing.
	_ = c.stack.loop.Post(func() {
		for _, id := range ids {
			c.stack.buffers.Return(id)
		}
		c.arm()
		c.stack.feed()
	})
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

// send asks the kernel to send all of p; a socket that is full makes it wait there, without a thread.
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
	n, err := c.stack.loop.doUntil(passed, func(e *SQE) { e.PrepSend(c.fd, p, unix.MSG_NOSIGNAL|unix.MSG_WAITALL) })
	switch {
	case err == nil:
		return n, nil
	case err == errStopped:
		return n, os.ErrDeadlineExceeded
	}
	c.mu.Lock()
	closed = c.closed
	c.mu.Unlock()
	if closed {
		return n, net.ErrClosed
	}
	return n, &net.OpError{Op: "write", Net: "tcp", Source: c.local, Addr: c.remote, Err: os.NewSyscallError("send", err)}
}

// CloseWrite ends the sending direction.
func (c *Conn) CloseWrite() error {
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
	c.mu.Unlock()
	c.signal()
	return c.stack.discard(c, ids)
}

// LocalAddr returns our address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.read.set(t)
	c.write.set(t)
	c.mu.Unlock()
	c.signal()
	return nil
}

// SetReadDeadline bounds reads, those waiting now too.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.read.set(t)
	c.mu.Unlock()
	c.signal()
	return nil
}

// SetWriteDeadline bounds writes that begin from now on.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write.set(t)
	return nil
}
