package uring

import "unsafe"

// The kernel's structures, as in <linux/io_uring.h>. abi_test.go compares sizes, offsets and constants with the installed header.

// SQE is a submission queue entry: one request to the kernel. Fill it with one of the Prep methods; the fields are exported for
// operations that have none.
type SQE struct {
	Opcode      Opcode
	Flags       SQEFlags
	IOPrio      uint16 // also: recv, send and accept flags
	FD          int32  // a descriptor, or the index of a registered file with FixedFile
	Off         uint64 // file offset; also addr2
	Addr        uint64 // buffer, iovec or path
	Len         uint32
	OpFlags     uint32 // the operation's own flags: rw, fsync, poll, msg, timeout, accept, cancel ...
	UserData    uint64 // comes back in the CQE
	BufIndex    uint16 // registered buffer, or buffer group with BufferSelect
	Personality uint16
	SpliceFDIn  int32 // also: file index
	Addr3       uint64
	_           uint64
}

// CQE is a completion queue entry.
type CQE struct {
	UserData uint64
	Res      int32 // result, or a negated errno
	Flags    CQEFlags
}

// Opcode selects an operation.
type Opcode uint8

// The operations this package uses.
const (
	OpNop           Opcode = 0
	OpReadv         Opcode = 1
	OpWritev        Opcode = 2
	OpFsync         Opcode = 3
	OpReadFixed     Opcode = 4
	OpWriteFixed    Opcode = 5
	OpPollAdd       Opcode = 6
	OpPollRemove    Opcode = 7
	OpSendmsg       Opcode = 9
	OpRecvmsg       Opcode = 10
	OpTimeout       Opcode = 11
	OpTimeoutRemove Opcode = 12
	OpAccept        Opcode = 13
	OpAsyncCancel   Opcode = 14
	OpLinkTimeout   Opcode = 15
	OpConnect       Opcode = 16
	OpFallocate     Opcode = 17
	OpClose         Opcode = 19
	OpRead          Opcode = 22
	OpWrite         Opcode = 23
	OpSend          Opcode = 26
	OpRecv          Opcode = 27
	OpSplice        Opcode = 30
	OpShutdown      Opcode = 34
	OpMsgRing       Opcode = 40
	OpSendZC        Opcode = 47
	OpSendmsgZC     Opcode = 48
)

// SQEFlags modify one request.
type SQEFlags uint8

// The flags of a request.
const (
	FixedFile      SQEFlags = 1 << 0 // FD is an index of the registered files
	IODrain        SQEFlags = 1 << 1 // start when everything before has completed
	IOLink         SQEFlags = 1 << 2 // the next request starts when this one has succeeded
	IOHardlink     SQEFlags = 1 << 3 // the next request starts when this one has ended
	Async          SQEFlags = 1 << 4 // run in a worker at once
	BufferSelect   SQEFlags = 1 << 5 // take a buffer of the group BufIndex
	CQESkipSuccess SQEFlags = 1 << 6 // no completion unless it fails
)

// CQEFlags qualify a completion.
type CQEFlags uint32

// The flags of a completion.
const (
	CQEBuffer       CQEFlags = 1 << 0 // the upper 16 bits are a buffer id
	CQEMore         CQEFlags = 1 << 1 // further completions of this request follow
	CQESockNonempty CQEFlags = 1 << 2 // the socket has more to read
	CQENotif        CQEFlags = 1 << 3 // a zero-copy send no longer needs its buffer
)

const cqeBufferShift = 16

// BufferID returns the provided buffer that a completion with CQEBuffer used.
func (f CQEFlags) BufferID() uint16 { return uint16(f >> cqeBufferShift) }

// SetupFlags choose how a ring works.
type SetupFlags uint32

// The set-up flags this package uses.
const (
	SetupSQPoll       SetupFlags = 1 << 1  // a kernel thread takes submissions
	SetupCQSize       SetupFlags = 1 << 3  // the size of the completion queue is given
	SetupClamp        SetupFlags = 1 << 4  // sizes too large are reduced, not refused
	SetupRDisabled    SetupFlags = 1 << 6  // the ring starts disabled
	SetupSubmitAll    SetupFlags = 1 << 7  // one bad request does not stop the batch
	SetupCoopTaskrun  SetupFlags = 1 << 8  // no interrupt for completions: they are taken at the next kernel entry
	SetupTaskrunFlag  SetupFlags = 1 << 9  // a flag in the ring tells when to enter for them
	SetupSingleIssuer SetupFlags = 1 << 12 // one thread submits
	SetupDeferTaskrun SetupFlags = 1 << 13 // completions run only when that thread asks for them
)

// Features are what the kernel said of itself at set-up.
type Features uint32

// The features this package asks about.
const (
	FeatSingleMmap    Features = 1 << 0
	FeatNoDrop        Features = 1 << 1 // an overflowing completion queue loses nothing
	FeatSubmitStable  Features = 1 << 2
	FeatFastPoll      Features = 1 << 5
	FeatExtArg        Features = 1 << 8 // waits take a time-out
	FeatNativeWorkers Features = 1 << 9
	FeatCQESkip       Features = 1 << 11
)

const (
	enterGetEvents      = 1 << 0
	enterSQWakeup       = 1 << 1
	enterSQWait         = 1 << 2
	enterExtArg         = 1 << 3
	enterRegisteredRing = 1 << 4

	sqNeedWakeup = 1 << 0
	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2

	offSQRing = 0
	offCQRing = 0x8000000
	offSQEs   = 0x10000000

	registerBuffers        = 0
	unregisterBuffers      = 1
	registerFiles          = 2
	unregisterFiles        = 3
	registerEventfd        = 4
	unregisterEventfd      = 5
	registerFilesUpdate    = 6
	registerProbe          = 8
	registerEnableRings    = 12
	registerFiles2         = 13
	registerIOWQMaxWorkers = 19
	registerRingFDs        = 20
	unregisterRingFDs      = 21
	registerPbufRing       = 22
	unregisterPbufRing     = 23
	registerSyncCancel     = 24

	rsrcRegisterSparse = 1 << 0
	opSupported        = 1 << 0

	fsyncDatasync     = 1 << 0
	acceptMultishot   = 1 << 0
	recvSendPollFirst = 1 << 0
	recvMultishot     = 1 << 1
	recvSendFixedBuf  = 1 << 2
	pollAddMulti      = 1 << 0
	cancelAll         = 1 << 0
	cancelFD          = 1 << 1
	cancelAny         = 1 << 2
	timeoutAbs        = 1 << 0
)

type sqOffsets struct {
	Head, Tail, RingMask, RingEntries, Flags, Dropped, Array, _ uint32
	_                                                           uint64
}

type cqOffsets struct {
	Head, Tail, RingMask, RingEntries, Overflow, CQEs, Flags, _ uint32
	_                                                           uint64
}

type params struct {
	SQEntries, CQEntries uint32
	Flags                SetupFlags
	SQThreadCPU          uint32
	SQThreadIdle         uint32
	Features             Features
	WQFD                 uint32
	_                    [3]uint32
	SQOff                sqOffsets
	CQOff                cqOffsets
}

type probeOp struct {
	Op    Opcode
	_     uint8
	Flags uint16
	_     uint32
}

type probe struct {
	LastOp Opcode
	OpsLen uint8
	_      uint16
	_      [3]uint32
	Ops    [256]probeOp
}

type getEventsArg struct {
	SigMask   uint64
	SigMaskSz uint32
	_         uint32
	TS        uint64
}

// timespec is the kernel's struct __kernel_timespec.
type timespec struct{ Sec, Nsec int64 }

// buf is an entry of a provided buffer ring. The ring's tail lies over the last field of entry 0.
type buf struct {
	Addr uint64
	Len  uint32
	BID  uint16
	Resv uint16
}

type bufReg struct {
	RingAddr    uint64
	RingEntries uint32
	BGID        uint16
	_           uint16
	_           [3]uint64
}

// ringFD is the kernel's struct io_uring_rsrc_update as RegisterRingFDs reads it.
type ringFD struct {
	Offset uint32
	_      uint32
	FD     uint64
}

type rsrcRegister struct {
	NR    uint32
	Flags uint32
	_     uint64
	Data  uint64
	Tags  uint64
}

type filesUpdate struct {
	Offset uint32
	_      uint32
	FDs    uint64
}

const (
	sqeSize = unsafe.Sizeof(SQE{})
	cqeSize = unsafe.Sizeof(CQE{})
)
