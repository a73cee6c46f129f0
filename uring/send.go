package uring

import (
	"os"

	"golang.org/x/sys/unix"
)

// A Releaser gets a buffer back from Link.Send: Release says that the kernel no longer needs it, sent or not. On the loop's thread. It is
// an alias, so that a package can be written for a Link without importing this one.
type Releaser = interface{ Release() }

// segment is a part of what a link has to send.
type segment struct {
	p       []byte
	done    Releaser
	scratch bool // p is our own and may be appended to until it is under way
}

const (
	// sendSegmentsMax bounds one send: beyond it (the kernel's limit is 1024) a call saved no longer shows.
	sendSegmentsMax = 256
	// sendBytesMax bounds one send, so that its buffers come back while the next is filled.
	sendBytesMax = 1 << 20
	// scratchBytes is the room small writes are gathered in.
	scratchBytes = 4 << 10
)

// Send queues p. It belongs to the link until done is released; a nil done means that p is never changed. What is queued goes to the kernel
// at the end of the round, in one call with what all other links have queued.
func (l *Link) Send(p []byte, done Releaser) {
	if len(p) == 0 || l.draining || l.finishing {
		if done != nil {
			done.Release()
		}
		return
	}
	l.push(segment{p: p, done: done})
	l.queued += len(p)
}

// Write queues a copy of p: for small things such as headers, which are gathered. It never fails; a link that is closing drops p.
func (l *Link) Write(p []byte) (int, error) {
	if l.draining || l.finishing {
		return len(p), nil
	}
	l.queued += len(p)
	if n := len(l.queue); n > 0 && l.queue[n-1].scratch {
		if last := &l.queue[n-1]; cap(last.p)-len(last.p) >= len(p) {
			last.p = append(last.p, p...)
			return len(p), nil
		}
	}
	l.push(segment{p: append(l.server.newScratch(len(p)), p...), scratch: true})
	return len(p), nil
}

// newScratch returns an empty buffer with room for n bytes.
func (s *Server) newScratch(n int) []byte {
	if k := len(s.scratch); k > 0 && n <= scratchBytes {
		p := s.scratch[k-1]
		s.scratch = s.scratch[:k-1]
		return p
	}
	return make([]byte, 0, max(scratchBytes, n))
}

// letGo gives back what a segment held.
func (s *Server) letGo(seg segment) {
	if seg.done != nil {
		seg.done.Release()
	}
	if seg.scratch && cap(seg.p) == scratchBytes && len(s.scratch) < kept {
		s.scratch = append(s.scratch, seg.p[:0])
	}
}

// Queued returns how many bytes wait to be sent or are being sent.
func (l *Link) Queued() int { return l.queued }

func (l *Link) push(s segment) {
	l.queue = append(l.queue, s)
	if !l.dirty && l.sending == nil {
		l.dirty = true
		l.loop.atRoundEnd(l)
	}
}

// flush sends what is queued, as much as one send may hold.
func (l *Link) flush() {
	l.dirty = false
	if l.sending != nil || l.finishing || len(l.queue) == 0 {
		return
	}
	op := l.server.newSend(l)
	n := 0
	for n < len(l.queue) && n < sendSegmentsMax && op.total < sendBytesMax {
		op.total += len(l.queue[n].p)
		n++
	}
	op.segments = append(op.segments, l.queue[:n]...)
	if n == len(l.queue) {
		clear(l.queue)
		l.queue = l.queue[:0]
	} else {
		l.queue = append(l.queue[:0], l.queue[n:]...)
		clear(l.queue[len(l.queue):cap(l.queue)])
	}
	l.sending = op
	l.unsettled++
	op.start()
}

// releaseQueue gives back what will not be sent.
func (l *Link) releaseQueue() {
	queue := l.queue
	l.queue = nil
	for _, s := range queue {
		l.queued -= len(s.p)
		l.server.letGo(s)
	}
}

// sendOp is a send under way: some segments, and how far it has come. A zero-copy send completes twice for each request; the second tells
// that the kernel has let go of the buffers.
type sendOp struct {
	link     *Link
	segments []segment
	message  Message
	total    int
	sent     int
	notices  int // second completions to come
	ended    bool
}

func (s *Server) newSend(l *Link) *sendOp {
	if n := len(s.free); n > 0 {
		op := s.free[n-1]
		s.free = s.free[:n-1]
		op.link = l
		return op
	}
	return &sendOp{link: l}
}

// start asks for what has not been sent.
func (op *sendOp) start() {
	l := op.link
	e := l.loop.Begin(op)
	zeroCopy := l.zeroCopyMin > 0 && op.total >= l.zeroCopyMin
	const flags = unix.MSG_NOSIGNAL | unix.MSG_WAITALL
	if len(op.segments) == 1 {
		p := op.segments[0].p[op.sent:]
		if zeroCopy {
			e.PrepSendZC(l.fd, p, flags)
		} else {
			e.PrepSend(l.fd, p, flags)
		}
	} else {
		op.message.Reset()
		skip := op.sent
		for _, s := range op.segments {
			k := min(skip, len(s.p))
			skip -= k
			op.message.Add(s.p[k:])
		}
		if zeroCopy {
			e.PrepSendmsgZC(l.fd, &op.message, flags)
		} else {
			e.PrepSendmsg(l.fd, &op.message, flags)
		}
	}
	if zeroCopy {
		e.IOPrio |= SendZCReportUsage
	}
}

// Complete takes the result, or the second completion of a zero-copy send.
func (op *sendOp) Complete(res int32, flags CQEFlags) {
	l := op.link
	if flags&CQENotif != 0 {
		op.notices--
		if uint32(res)&ZCCopied != 0 {
			l.zeroCopyMin = 0 // it does not pay here
		}
		op.release()
		return
	}
	if flags&CQEMore != 0 {
		op.notices++
	}
	switch {
	case res > 0:
		op.sent += int(res)
		l.queued -= int(res)
		if op.sent < op.total && !l.finishing {
			op.start()
			return
		}
	case unix.Errno(-res) == unix.EOPNOTSUPP && l.zeroCopyMin > 0:
		l.zeroCopyMin = 0
		op.start()
		return
	}
	op.ended = true
	l.sending = nil
	if op.sent < op.total {
		l.queued -= op.total - op.sent
		if !l.finishing {
			l.Abort(os.NewSyscallError("send", unix.Errno(-res)))
		}
	}
	op.release()
	if len(l.queue) > 0 && !l.dirty && !l.finishing {
		l.dirty = true
		l.loop.atRoundEnd(l)
	}
	l.offer() // what arrived while too much waited to be sent
	l.settle()
	l.rearm()
}

// release gives the buffers back when the kernel needs none of them.
func (op *sendOp) release() {
	if !op.ended || op.notices > 0 {
		return
	}
	l := op.link
	for _, s := range op.segments {
		l.server.letGo(s)
	}
	clear(op.segments)
	*op = sendOp{segments: op.segments[:0], message: op.message}
	op.message.Reset()
	if len(l.server.free) < kept {
		l.server.free = append(l.server.free, op)
	}
	l.unsettled--
	l.settle()
}

// kept bounds the emptied send operations, and the scratch buffers, that a server keeps for the next.
const kept = 1024
