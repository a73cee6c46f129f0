package nbd

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
)

// netWire is a Wire over a net.Conn: one goroutine reads, one writes. Its lock is the Conn's lock; the Wire's methods are called with it held.
type netWire struct {
	net   net.Conn
	conn  *Conn
	lock  sync.Mutex
	moved sync.Cond // something of what follows has changed

	queue   []outgoing
	queued  int // bytes in queue and being written
	fill    []byte
	paused  bool
	closing bool // close when the queue is empty
	broken  bool // nothing goes out any more
	reason  error
	idle    bool // the Conn has no request under way and knows that the connection is closed
}

type outgoing struct {
	p       []byte
	done    Releaser
	scratch bool
}

const (
	// readBytes is what is read at once: some hundred requests without payload.
	readBytes = 32 << 10
	// queuedMax is how much may wait to be written before nothing more is read: a client that does not take its answers gets to ask no more.
	queuedMax = 4 << 20
	// gatherBytes is the room small replies are gathered in.
	gatherBytes = 4 << 10
)

func newNetWire(c net.Conn) *netWire {
	w := &netWire{net: c}
	w.moved.L = &w.lock
	return w
}

// Write implements Wire.
func (w *netWire) Write(p []byte) (int, error) {
	if w.broken || w.closing {
		return len(p), nil
	}
	w.queued += len(p)
	if n := len(w.queue); n > 0 && w.queue[n-1].scratch {
		if last := &w.queue[n-1]; cap(last.p)-len(last.p) >= len(p) {
			last.p = append(last.p, p...)
			return len(p), nil
		}
	}
	w.queue = append(w.queue, outgoing{p: append(make([]byte, 0, max(gatherBytes, len(p))), p...), scratch: true})
	w.moved.Broadcast()
	return len(p), nil
}

// Send implements Wire.
func (w *netWire) Send(p []byte, done Releaser) {
	if w.broken || w.closing {
		done.Release()
		return
	}
	w.queued += len(p)
	w.queue = append(w.queue, outgoing{p: p, done: done})
	w.moved.Broadcast()
}

// Fill implements Wire.
func (w *netWire) Fill(p []byte) { w.fill = p }

// Pause implements Wire.
func (w *netWire) Pause() { w.paused = true }

// Resume implements Wire.
func (w *netWire) Resume() {
	w.paused = false
	w.moved.Broadcast()
}

// Close implements Wire.
func (w *netWire) Close() {
	w.closing = true
	w.moved.Broadcast()
}

// Abort implements Wire.
func (w *netWire) Abort(reason error) {
	if w.broken {
		return
	}
	w.broken, w.reason = true, reason
	w.moved.Broadcast()
	_ = w.net.Close() // reader and writer come back with an error
}

// run serves the connection until it is closed and the device is done with its requests. early is what arrived with the negotiation.
func (w *netWire) run(early []byte) error {
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.writeAll()
	}()
	w.readAll(early)
	<-written
	w.conn.Closed(w.reason)
	w.lock.Lock()
	defer w.lock.Unlock()
	for !w.idle {
		w.moved.Wait()
	}
	return w.reason
}

// nowIdle is the Conn's Idle.
func (w *netWire) nowIdle() {
	w.idle = true
	w.moved.Broadcast()
}

// readAll gives the Conn what arrives until there is no more.
func (w *netWire) readAll(early []byte) {
	w.offer(early)
	buffer := make([]byte, readBytes)
	for {
		fill, ok := w.mayRead()
		if !ok {
			return
		}
		var n int
		var err error
		if fill != nil {
			if _, err = io.ReadFull(w.net, fill); err == nil {
				w.conn.Filled(fill)
			}
		} else {
			n, err = w.net.Read(buffer)
			w.offer(buffer[:n])
		}
		switch {
		case errors.Is(err, io.EOF):
			w.conn.Ended()
			return
		case err != nil:
			w.lock.Lock()
			if !w.closing { // else it is we who closed it
				w.Abort(err)
			}
			w.lock.Unlock()
			return
		}
	}
}

// mayRead waits until more may be read, and says where the next bytes go if it is not the reader's own buffer.
func (w *netWire) mayRead() (fill []byte, ok bool) {
	w.lock.Lock()
	defer w.lock.Unlock()
	for (w.paused || w.queued > queuedMax) && !w.broken && !w.closing {
		w.moved.Wait()
	}
	fill, w.fill = w.fill, nil
	return fill, !w.broken && !w.closing
}

// offer gives p to the Conn, as fast as it takes it.
func (w *netWire) offer(p []byte) {
	for len(p) > 0 {
		p = p[w.conn.Received(p):]
		if len(p) > 0 {
			if _, ok := w.mayRead(); !ok {
				return
			}
		}
	}
}

// writeAll writes what is queued until the connection is closed.
func (w *netWire) writeAll() {
	for {
		w.lock.Lock()
		for len(w.queue) == 0 && !w.broken && !w.closing {
			w.moved.Wait()
		}
		batch, broken := w.queue, w.broken
		w.queue = nil
		w.lock.Unlock()
		if broken || len(batch) == 0 {
			release(batch)
			_ = w.net.Close() // of what was written nothing is left to fail
			return
		}
		err := w.write(batch)
		release(batch)
		w.lock.Lock()
		for _, o := range batch {
			w.queued -= len(o.p)
		}
		if err != nil {
			w.Abort(err)
		}
		w.moved.Broadcast()
		w.lock.Unlock()
	}
}

// write writes a batch: in one call where the connection can, else gathered, since TLS would seal each piece by itself.
func (w *netWire) write(batch []outgoing) error {
	switch w.net.(type) {
	case *net.TCPConn, *net.UnixConn:
		buffers := make(net.Buffers, len(batch))
		for i, o := range batch {
			buffers[i] = o.p
		}
		_, err := buffers.WriteTo(w.net)
		return err
	}
	out := bufio.NewWriterSize(w.net, sealBytes)
	for _, o := range batch {
		if _, err := out.Write(o.p); err != nil {
			return err
		}
	}
	return out.Flush()
}

// sealBytes is a little over what four records of TLS hold.
const sealBytes = 64 << 10

func release(batch []outgoing) {
	for _, o := range batch {
		if o.done != nil {
			o.done.Release()
		}
	}
}
