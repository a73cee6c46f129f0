package nbd

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// Wire is a connection as a Conn uses it. What is written goes out in order. Its methods are called by the Conn's owner and from
// Request.Done, with the owner's lock held if it has one.
type Wire interface {
	// Write queues a copy of p.
	Write(p []byte) (int, error)
	// Send queues p, which is not changed until done is released.
	Send(p []byte, done Releaser)
	// Fill has the next len(p) bytes put into p, then calls Conn.Filled.
	Fill(p []byte)
	// Pause stops calling Conn.Received until Resume.
	Pause()
	Resume()
	// Close closes the connection when everything queued is sent; Abort at once.
	Close()
	Abort(reason error)
}

// Releaser gets a buffer back when it has been sent, or never will be.
type Releaser = interface{ Release() }

// Limits bound what one connection may have under way. Zero values are replaced by good ones.
type Limits struct {
	Requests int // 256 if zero: twice what the clients known to us ever send ahead
	Bytes    int // of payload, beyond one request that always fits; 64 MiB if zero
}

const (
	requestsDefault = 256
	bytesDefault    = 64 << 20
	// extentsMax bounds the answer to one block status request; the client asks again for the rest.
	extentsMax = 1024
	// fillMin is from how many missing bytes on a payload is received in place instead of copied.
	fillMin = 16 << 10
)

// ConnOptions make a Conn.
type ConnOptions struct {
	Limits Limits
	Memory Memory // of payloads; the heap if nil
	// Lock serialises the Conn where requests are done by several goroutines; nil on an event loop.
	Lock sync.Locker
	// Idle, if not nil, is called once: when the Conn was told that the connection is closed and no request is under way any more.
	Idle func()
}

// Conn is the server's side of a connection after the negotiation. Whoever owns the connection gives it what arrives, by Received, Filled
// and Ended, and at last tells it by Closed.
//
//	head -> payload -> Device.Start ... Request.Done -> reply
type Conn struct {
	device     Device
	info       Info
	structured bool
	status     bool
	wire       Wire
	limits     Limits
	memory     Memory
	lock       sync.Locker

	head     [requestBytes]byte // of the request being received
	headGot  int
	current  *Request // whose payload is being received
	got      int      // how much of it has arrived
	skip     int      // bytes of a payload that nobody wants
	unwanted *Request // whose payload that is
	why      error    // it is refused
	starting []*Request
	free     []*Request

	underWay  int // requests the device has
	bytes     int // of their payloads
	paused    bool
	ending    bool // no more requests; close when the last is done
	closed    bool
	attached  bool
	draining  bool
	closeOnce bool // Wire.Close has been called
	idleOnce  bool // Idle has been called
	idle      func()
}

// NewConn makes the Conn of a finished negotiation.
func NewConn(r Result, w Wire, o ConnOptions) (*Conn, error) {
	c := &Conn{device: r.Device, info: r.Info, structured: r.Structured, status: r.Status, wire: w, limits: o.Limits, memory: o.Memory, lock: o.Lock, idle: o.Idle}
	if c.limits.Requests == 0 {
		c.limits.Requests = requestsDefault
	}
	if c.limits.Bytes == 0 {
		c.limits.Bytes = bytesDefault
	}
	if c.memory == nil {
		c.memory = heap{}
	}
	if a, ok := r.Device.(Attacher); ok {
		if err := a.Attach(c); err != nil {
			return nil, fmt.Errorf("nbd: attach export %q: %w", r.Export, err)
		}
		c.attached = true
	}
	return c, nil
}

func (c *Conn) enter() {
	if c.lock != nil {
		c.lock.Lock()
	}
}

// leave starts what has become ready; without the lock, since a device may be done before Start returns.
func (c *Conn) leave() {
	ready := c.starting
	c.starting = nil
	if c.lock != nil {
		c.lock.Unlock()
	}
	for _, r := range ready {
		c.device.Start(r)
	}
	if c.lock == nil && ready != nil && c.starting == nil {
		clear(ready)
		c.starting = ready[:0]
	}
}

// Received takes bytes that arrived. It takes fewer than all only when the connection is at its limits; it has then paused the wire.
func (c *Conn) Received(p []byte) (taken int) {
	c.enter()
	defer c.leave()
	for taken < len(p) {
		switch {
		case c.ending || c.closed:
			return len(p)
		case c.skip > 0:
			n := min(c.skip, len(p)-taken)
			c.skip -= n
			taken += n
			if c.skip == 0 {
				c.refuse(c.unwanted, c.why)
				c.unwanted, c.why = nil, nil
			}
		case c.current != nil:
			n := copy(c.current.Data[c.got:], p[taken:])
			c.got += n
			taken += n
			if c.got == len(c.current.Data) {
				c.payloadComplete()
			}
		case c.full():
			c.pause()
			return taken
		default:
			n := copy(c.head[c.headGot:], p[taken:])
			c.headGot += n
			taken += n
			if c.headGot == requestBytes {
				c.headGot = 0
				c.request()
			}
		}
	}
	if c.current != nil && len(c.current.Data)-c.got >= fillMin {
		c.wire.Fill(c.current.Data[c.got:])
	}
	return taken
}

// Filled says that what Wire.Fill was asked for has arrived.
func (c *Conn) Filled([]byte) {
	c.enter()
	defer c.leave()
	if c.current != nil {
		c.payloadComplete()
	}
}

func (c *Conn) payloadComplete() {
	r := c.current
	c.current, c.got = nil, 0
	c.start(r)
}

// full reports whether the connection is at its limits.
func (c *Conn) full() bool {
	return c.underWay >= c.limits.Requests || c.bytes >= c.limits.Bytes
}

func (c *Conn) pause() {
	if !c.paused {
		c.paused = true
		c.wire.Pause()
	}
}

// request takes a request whose head is complete.
func (c *Conn) request() {
	h := c.head[:]
	if magic := binary.BigEndian.Uint32(h); magic != magicRequest {
		c.fail(violation("request magic %#x", magic))
		return
	}
	flags, command := CommandFlags(binary.BigEndian.Uint16(h[4:])), Command(binary.BigEndian.Uint16(h[6:]))
	cookie, offset, length := binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[16:]), binary.BigEndian.Uint32(h[24:])
	if command == CmdDisc {
		c.end()
		return
	}
	r := c.newRequest()
	r.Command, r.Flags, r.Offset, r.Length, r.cookie = command, flags, offset, length, cookie
	if err := c.check(r); err != nil {
		if command == CmdWrite && length > 0 {
			// A client that is still sending is not prepared for an answer, so it gets it when all has arrived.
			c.skip, c.unwanted, c.why = int(length), r, err
			return
		}
		c.refuse(r, err)
		return
	}
	if length == 0 && command != CmdFlush {
		c.refuse(r, nil) // nothing to do, and done
		return
	}
	r.ExtentsMax = extentsMax
	switch command {
	case CmdRead, CmdWrite:
		r.Buffer = c.memory.Get(int(length))
		r.Buffer.memory = c.memory
		r.Data = r.Buffer.Data()[:length:length]
		c.bytes += int(length)
	case CmdBlockStatus:
		if flags&CmdFlagReqOne != 0 {
			r.ExtentsMax = 1
		}
	default: // no payload
	}
	if command == CmdWrite {
		c.current, c.got = r, 0
		return
	}
	c.start(r)
}

func (c *Conn) newRequest() *Request {
	if n := len(c.free); n > 0 {
		r := c.free[n-1]
		c.free = c.free[:n-1]
		return r
	}
	return &Request{conn: c}
}

// start gives a request to the device, as soon as the owner lets go of the Conn.
func (c *Conn) start(r *Request) {
	c.underWay++
	c.starting = append(c.starting, r)
}

// refuse answers a request without the device.
func (c *Conn) refuse(r *Request, err error) {
	c.reply(r, err)
	c.recycle(r)
}

// done is Request.Done.
func (c *Conn) done(r *Request, err error) {
	c.enter()
	defer c.leave()
	c.underWay--
	c.bytes -= len(r.Data)
	if c.closed {
		c.letGo(r)
	} else {
		c.reply(r, err)
	}
	c.recycle(r)
	if c.paused && !c.full() {
		c.paused = false
		c.wire.Resume()
	}
	c.settle()
}

// letGo gives a request's buffer back unsent.
func (c *Conn) letGo(r *Request) {
	if r.Buffer != nil {
		r.Buffer.Release()
		r.Buffer = nil
	}
}

func (c *Conn) recycle(r *Request) {
	*r = Request{conn: c, Extents: r.Extents[:0], Local: r.Local}
	if len(c.free) < c.limits.Requests {
		c.free = append(c.free, r)
	}
}

// fail cuts the client off.
func (c *Conn) fail(err error) {
	c.ending = true
	c.wire.Abort(err)
}

// end takes no more requests; the connection closes when the last one is answered.
func (c *Conn) end() {
	c.ending = true
	c.settle()
}

func (c *Conn) settle() {
	if c.underWay > 0 {
		return
	}
	if c.ending && !c.closed && !c.closeOnce {
		c.closeOnce = true
		c.wire.Close()
	}
	if c.closed && !c.idleOnce {
		c.idleOnce = true
		if c.attached {
			c.device.(Attacher).Detach()
		}
		if c.idle != nil {
			c.idle()
		}
	}
}

// Drain has every further request answered with Shutdown, upon which clients disconnect; what is under way is finished.
func (c *Conn) Drain() {
	c.enter()
	defer c.leave()
	c.draining = true
}

// Finish takes no more requests, finishes what is under way, and closes the connection. A client that reconnects (QEMU does) asks again for
// what went unanswered; to tell it that it should not, Drain for a while before.
func (c *Conn) Finish() {
	c.enter()
	defer c.leave()
	c.end()
}

// Ended says that the client will send nothing more; what it asked for is still answered.
func (c *Conn) Ended() {
	c.enter()
	defer c.leave()
	c.end()
}

// Closed says that the connection is closed, whyever. The device's requests may still end; their answers go nowhere.
func (c *Conn) Closed(error) {
	if left := c.closing(); left != nil {
		left.Leave()
	}
}

// closing does what Closed does under the lock. It returns the device if it is to be told.
func (c *Conn) closing() Leaver {
	c.enter()
	defer c.leave()
	c.closed = true
	if r := c.current; r != nil {
		c.current = nil
		c.bytes -= len(r.Data)
		c.letGo(r)
	}
	c.settle()
	if l, ok := c.device.(Leaver); ok && c.attached && c.underWay > 0 {
		return l
	}
	return nil
}
