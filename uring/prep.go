package uring

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Prep methods fill an entry from Ring.Next or Loop.Begin. Memory that they point to must stay alive until the completion: keep a
// reference to it. It stays in place: the methods make the compiler put it on the heap, which does not move. (A goroutine's stack does,
// whenever it grows or the collector shrinks it, and an address in an entry is only a number that nobody adjusts.)

func (e *SQE) rw(op Opcode, fd int, p []byte, off int64) {
	e.Opcode, e.FD, e.Off, e.Len = op, int32(fd), uint64(off), uint32(len(p))
	e.Addr = addressOf(p)
}

// onHeap is assigned only if reallyEscape is true, which it never is. The compiler cannot know that, so what address is given lives on
// the heap.
var (
	reallyEscape bool
	onHeap       unsafe.Pointer //nolint:unused // that nobody reads it is its point
)

// address returns where p points to, as the kernel wants it, and keeps the target off the stack.
func address(p unsafe.Pointer) uint64 {
	if reallyEscape {
		onHeap = p
	}
	return uint64(uintptr(p))
}

func addressOf(p []byte) uint64 { return address(unsafe.Pointer(unsafe.SliceData(p))) }

// PrepNop does nothing, visibly.
func (e *SQE) PrepNop() { e.Opcode = OpNop }

// PrepRead reads into p at offset off.
func (e *SQE) PrepRead(fd int, p []byte, off int64) { e.rw(OpRead, fd, p, off) }

// PrepWrite writes p at offset off.
func (e *SQE) PrepWrite(fd int, p []byte, off int64) { e.rw(OpWrite, fd, p, off) }

// PrepReadFixed reads into p, which lies within registered buffer index.
func (e *SQE) PrepReadFixed(fd int, p []byte, off int64, index uint16) {
	e.rw(OpReadFixed, fd, p, off)
	e.BufIndex = index
}

// PrepWriteFixed writes p, which lies within registered buffer index.
func (e *SQE) PrepWriteFixed(fd int, p []byte, off int64, index uint16) {
	e.rw(OpWriteFixed, fd, p, off)
	e.BufIndex = index
}

// PrepFsync makes written data durable; dataOnly leaves out metadata that is not needed to read it back.
func (e *SQE) PrepFsync(fd int, dataOnly bool) {
	e.Opcode, e.FD = OpFsync, int32(fd)
	if dataOnly {
		e.OpFlags = fsyncDatasync
	}
}

// PrepFallocate manipulates the allocated space of a file, see fallocate(2) for mode.
func (e *SQE) PrepFallocate(fd int, mode uint32, off, length int64) {
	e.Opcode, e.FD, e.Off, e.Addr, e.Len = OpFallocate, int32(fd), uint64(off), uint64(length), mode
}

// PrepAccept accepts connections; multishot completes once for each until cancelled. The new descriptors are close-on-exec.
func (e *SQE) PrepAccept(fd int, multishot bool) {
	e.Opcode, e.FD, e.OpFlags = OpAccept, int32(fd), unix.SOCK_CLOEXEC
	if multishot {
		e.IOPrio = acceptMultishot
	}
}

// PrepRecv receives into p.
func (e *SQE) PrepRecv(fd int, p []byte, flags uint32) {
	e.rw(OpRecv, fd, p, 0)
	e.OpFlags = flags
}

// PrepRecvSelect receives once, into a buffer of the group.
func (e *SQE) PrepRecvSelect(fd int, group uint16) {
	e.Opcode, e.FD, e.BufIndex, e.Flags = OpRecv, int32(fd), group, BufferSelect
}

// PrepRecvMultishot receives into buffers of the group, one completion each, until cancelled, out of buffers, or the end.
func (e *SQE) PrepRecvMultishot(fd int, group uint16) {
	e.Opcode, e.FD, e.BufIndex, e.IOPrio, e.Flags = OpRecv, int32(fd), group, recvMultishot, BufferSelect
}

// PrepSend sends p; unix.MSG_WAITALL makes the kernel go on after a short send.
func (e *SQE) PrepSend(fd int, p []byte, flags uint32) {
	e.rw(OpSend, fd, p, 0)
	e.OpFlags = flags
}

// PrepSendZC sends p without copying it. It completes twice: once with the result (CQEMore set), once with CQENotif when p may be
// changed again.
func (e *SQE) PrepSendZC(fd int, p []byte, flags uint32) {
	e.rw(OpSendZC, fd, p, 0)
	e.OpFlags = flags
}

// SendZCReportUsage makes the CQENotif completion of a zero-copy send say, by ZCCopied in its result, whether the data was copied
// after all. It goes into SQE.IOPrio.
const SendZCReportUsage = 1 << 3

// ZCCopied is set in the result of the CQENotif completion when the kernel copied the data of a zero-copy send.
const ZCCopied = 1 << 31

// PrepSendmsg sends the buffers of m.
func (e *SQE) PrepSendmsg(fd int, m *Message, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.Len, e.OpFlags = OpSendmsg, int32(fd), address(unsafe.Pointer(&m.hdr)), 1, flags
}

// PrepSendmsgZC is PrepSendmsg without copying; it completes like PrepSendZC.
func (e *SQE) PrepSendmsgZC(fd int, m *Message, flags uint32) {
	e.PrepSendmsg(fd, m, flags)
	e.Opcode = OpSendmsgZC
}

// Message is a list of buffers to send as one. It must live until the entry that points to it has completed, like the buffers.
type Message struct {
	hdr unix.Msghdr
	iov []unix.Iovec
}

// Reset empties m and keeps its room.
func (m *Message) Reset() { m.iov = m.iov[:0] }

// Add appends a buffer; empty ones are left out.
func (m *Message) Add(p []byte) {
	if len(p) == 0 {
		return
	}
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	m.iov = append(m.iov, v)
	m.hdr.Iov = &m.iov[0]
	m.hdr.Iovlen = uint64(len(m.iov))
}

// PrepSplice moves up to n bytes between two descriptors, one of them a pipe; offsets are -1 for pipes.
func (e *SQE) PrepSplice(in int, inOff int64, out int, outOff int64, n uint32, flags uint32) {
	e.Opcode, e.FD, e.Off, e.Addr, e.Len = OpSplice, int32(out), uint64(outOff), uint64(inOff), n
	e.SpliceFDIn, e.OpFlags = int32(in), flags
}

// PrepPoll waits for events (unix.POLLIN ...) on a descriptor; multishot goes on reporting.
func (e *SQE) PrepPoll(fd int, events uint32, multishot bool) {
	e.Opcode, e.FD, e.OpFlags = OpPollAdd, int32(fd), events
	if multishot {
		e.Len = pollAddMulti
	}
}

// PrepConnect connects a socket to the address at addr, n bytes long.
func (e *SQE) PrepConnect(fd int, addr unsafe.Pointer, n uint32) {
	e.Opcode, e.FD, e.Addr, e.Off = OpConnect, int32(fd), address(addr), uint64(n)
}

// PrepPollRemove ends a poll whose UserData is target.
func (e *SQE) PrepPollRemove(target uint64) { e.Opcode, e.FD, e.Addr = OpPollRemove, -1, target }

// PrepShutdown ends one or both directions of a connection (unix.SHUT_WR ...).
func (e *SQE) PrepShutdown(fd, how int) { e.Opcode, e.FD, e.Len = OpShutdown, int32(fd), uint32(how) }

// PrepClose closes a descriptor.
func (e *SQE) PrepClose(fd int) { e.Opcode, e.FD = OpClose, int32(fd) }

// PrepCancel cancels the request, or with all every request, whose UserData is target.
func (e *SQE) PrepCancel(target uint64, all bool) {
	e.Opcode, e.FD, e.Addr = OpAsyncCancel, -1, target
	if all {
		e.OpFlags = cancelAll
	}
}

// PrepCancelFD cancels every request on a descriptor.
func (e *SQE) PrepCancelFD(fd int) {
	e.Opcode, e.FD, e.OpFlags = OpAsyncCancel, int32(fd), cancelFD|cancelAll
}

// Timespec is a time-out in the kernel's form. It must live until the entry that points to it is submitted.
type Timespec struct{ t timespec }

// Set makes t the duration d.
func (t *Timespec) Set(d time.Duration) {
	t.t = timespec{int64(d / time.Second), int64(d % time.Second)}
}

// PrepTimeout completes with -ETIME after t, or with 0 after count completions.
func (e *SQE) PrepTimeout(t *Timespec, count uint32) {
	e.Opcode, e.FD, e.Addr, e.Len, e.Off = OpTimeout, -1, address(unsafe.Pointer(&t.t)), 1, uint64(count)
}

// PrepTimeoutRemove ends a timeout whose UserData is target; it completes with -ECANCELED.
func (e *SQE) PrepTimeoutRemove(target uint64) { e.Opcode, e.FD, e.Addr = OpTimeoutRemove, -1, target }

// PrepLinkTimeout limits the request linked before it to t.
func (e *SQE) PrepLinkTimeout(t *Timespec) {
	e.Opcode, e.FD, e.Addr, e.Len = OpLinkTimeout, -1, address(unsafe.Pointer(&t.t)), 1
}
