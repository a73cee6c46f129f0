package uring

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"
)

// fakeChains are the links between requests. The zero value has none.
type fakeChains struct {
	open   []SQE             // taken in this call, and not begun: the last asks for one more
	after  map[uint64][]SQE  // by the token of a request that runs: what is linked to it
	before map[uint64]uint64 // by token: the request that it was linked to, which completes first
}

// fakeNotice is what a zero-copy send still owes: that its buffers are not needed any more.
type fakeNotice struct {
	sqe    SQE
	pieces [][]byte // the program's
	were   [][]byte // what was in them
}

// link begins a request, or puts it behind the one that it is linked to.
func (f *fake) link(e SQE) {
	f.chains.open = append(f.chains.open, e)
	if e.Flags&(IOLink|IOHardlink) == 0 {
		f.endChain()
	}
}

// endChain begins a chain that has its last link, or that the end of the call has cut.
func (f *fake) endChain() {
	chain := f.chains.open
	f.chains.open = nil
	f.startChain(chain)
}

func (f *fake) startChain(chain []SQE) {
	if len(chain) == 0 {
		return
	}
	e, rest := chain[0], chain[1:]
	if f.chains.after == nil {
		f.chains.after, f.chains.before = map[uint64][]SQE{}, map[uint64]uint64{}
	}
	for i, o := range rest {
		f.chains.before[o.UserData] = chain[i].UserData
	}
	if len(rest) > 0 {
		f.chains.after[e.UserData] = rest
	}
	if e.Opcode == OpLinkTimeout { // it limits what it is linked to, and that was cut away
		f.complete(e, -int32(unix.EINVAL), 0)
		return
	}
	if len(rest) > 0 && rest[0].Opcode == OpLinkTimeout {
		f.pending = append(f.pending, rest[0])
	}
	f.start(e)
}

// goOn begins what is linked to a request that has ended, or cancels it.
func (f *fake) goOn(e SQE, res int32) {
	delete(f.chains.before, e.UserData)
	rest := f.chains.after[e.UserData]
	delete(f.chains.after, e.UserData)
	if len(rest) > 0 && rest[0].Opcode == OpLinkTimeout {
		if slices.ContainsFunc(f.pending, func(o SQE) bool { return o.UserData == rest[0].UserData }) {
			f.chains.after[rest[0].UserData] = nil
			f.end(rest[0], -int32(unix.ECANCELED), 0)
		}
		rest = rest[1:]
	}
	if len(rest) == 0 {
		return
	}
	if e.Flags&IOHardlink == 0 && failed(e, res) {
		for _, o := range rest {
			f.complete(o, -int32(unix.ECANCELED), 0)
		}
		return
	}
	f.startChain(rest)
}

// failed reports whether a result breaks a link: an error, and less than what was asked for.
func failed(e SQE, res int32) bool {
	switch e.Opcode {
	case OpRead, OpWrite, OpReadFixed, OpWriteFixed:
		return res != int32(e.Len)
	case OpSend, OpSendZC, OpRecv, OpSendmsg, OpSendmsgZC:
		return res < 0 || e.OpFlags&unix.MSG_WAITALL != 0 && e.Len > 0 && res < int32(e.Len)
	default:
		return res < 0
	}
}

// expire lets the time of a linked time-out pass, if there is one: what it limits is cancelled.
func (f *fake) expire() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, timer := range f.pending {
		if timer.Opcode != OpLinkTimeout {
			continue
		}
		of := f.chains.before[timer.UserData]
		i := slices.IndexFunc(f.pending, func(o SQE) bool { return o.UserData == of })
		if i < 0 {
			f.breach("a time-out is linked to nothing that runs")
			return false
		}
		e := f.pending[i]
		f.end(timer, -int32(unix.ETIME), 0)
		f.end(e, -int32(unix.ECANCELED), 0)
		f.changed.Broadcast()
		return true
	}
	return false
}

// sendZC takes n bytes of a zero-copy send, and owes the notification: until then the request is pending, and cannot be cancelled.
func (f *fake) sendZC(e SQE, pieces [][]byte, n int32) {
	notice := fakeNotice{sqe: e, pieces: pieces}
	for _, p := range pieces {
		notice.were = append(notice.were, bytes.Clone(p))
	}
	f.notices = append(f.notices, notice)
	f.complete(e, n, CQEMore)
}

// notify sends one of the notifications that are owed, any of them, and looks whether the buffers were left alone until now. With the lock.
func (f *fake) notify() bool {
	if len(f.notices) == 0 {
		return false
	}
	i := f.random.IntN(len(f.notices))
	n := f.notices[i]
	f.notices = slices.Delete(f.notices, i, i+1)
	for k, p := range n.pieces {
		if !bytes.Equal(p, n.were[k]) {
			f.breach("a buffer of %d bytes changed before the notification of its zero-copy send", len(p))
		}
	}
	f.end(n.sqe, 0, CQENotif)
	f.changed.Broadcast()
	return true
}
