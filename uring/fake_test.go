package uring

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fake is a kernel with rings in ordinary memory. It carries requests out as a script says, completes them in any order it likes, takes
// only part of a submission, is out of memory now and then, and writes down every breach of the protocol:
//
//   - entries: each is taken once, the call's count is true, no entry is written after it was taken
//   - threads: a single-issuer ring is entered by one
//   - tokens: no two requests in flight share one; none completes twice
//   - buffers: none is given to the kernel twice, none is used that is not the kernel's, and none changes before a zero-copy send's notification
//   - links: they reach no further than one call; a request that fails or falls short cancels what is linked to it (fakelinks_test.go)
//   - a submission thread that sleeps is woken (fakepoll_test.go)
type fake struct {
	mu      sync.Mutex
	changed sync.Cond
	random  *rand.Rand
	// begin is asked for each request; it returns the result, or wait to leave it pending.
	begin func(e SQE) (res int32, wait bool)
	// moody lets calls take less than all, or fail for want of memory.
	moody bool
	old   bool // knows no zero-copy sends

	params   params
	words    []uint64 // the rings
	sqes     []SQE
	owner    int // thread
	pending  []SQE
	ready    []CQE // completed, not in the queue yet
	overflow int
	groups   map[uint16]*fakeGroup
	rung     int
	closed   bool

	chains  fakeChains
	notices []fakeNotice
	poller  *fakePoller // with SetupSQPoll

	violations []string
	seen       int // requests taken
}

// fakeGroup is a registered ring of buffers.
type fakeGroup struct {
	ring   []buf
	tail   uint16
	queue  []buf          // given to the kernel, in order
	owned  map[uint16]buf // by the kernel
	places map[uint16]uint64
}

const (
	fakeFD      = 1_000_001
	fakeBellFD  = 1_000_002
	fakeIndex   = 3 // of the registered ring
	fakeSQFlags = 4 // words of 32 bits within the rings
	fakeCQHead  = 8
	fakeCQTail  = 9
	fakeLost    = 10
	fakeArray   = 16
)

func newFake(seed uint64) *fake {
	f := &fake{random: rand.New(rand.NewPCG(seed, 99)), groups: map[uint16]*fakeGroup{}}
	f.changed.L = &f.mu
	f.begin = func(SQE) (int32, bool) { return 0, false }
	return f
}

func (f *fake) breach(format string, args ...any) {
	f.violations = append(f.violations, fmt.Sprintf(format, args...))
}

// verdict fails the test if the protocol was broken.
func (f *fake) verdict(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.violations {
		t.Error(v)
	}
	if !f.closed {
		t.Error("the ring was never closed")
	}
	if len(f.notices) > 0 || len(f.chains.after) > 0 {
		t.Errorf("%d notifications and %d links were left when the ring was closed", len(f.notices), len(f.chains.after))
	}
	for _, e := range f.pending {
		if e.UserData != bellToken {
			t.Errorf("request %+v was in flight when the ring was closed", e)
		}
	}
}

func (f *fake) setup(entries uint32, p *params) (int, error) {
	p.SQEntries, p.Features = entries, FeatSingleMmap|FeatNoDrop|FeatExtArg
	p.SQOff = sqOffsets{Head: 0, Tail: 4, RingMask: 8, RingEntries: 12, Flags: 4 * fakeSQFlags, Dropped: 20, Array: 4 * fakeArray}
	cqes := (fakeArray + entries + 3) / 4 * 16
	p.CQOff = cqOffsets{Head: 4 * fakeCQHead, Tail: 4 * fakeCQTail, RingMask: 44, RingEntries: 48, Overflow: 4 * fakeLost, CQEs: cqes, Flags: 52}
	f.words = make([]uint64, (cqes+p.CQEntries*uint32(cqeSize))/8)
	f.sqes = make([]SQE, entries)
	f.params = *p
	*f.word(2), *f.word(11) = entries-1, p.CQEntries-1
	if p.Flags&SetupSQPoll != 0 {
		f.startPoller()
	}
	return fakeFD, nil
}

// word returns a word of 32 bits of the rings.
func (f *fake) word(i int) *uint32 {
	return (*uint32)(unsafe.Add(unsafe.Pointer(&f.words[0]), 4*i))
}

func (f *fake) cqe(i uint32) *CQE {
	return (*CQE)(unsafe.Add(unsafe.Pointer(&f.words[0]), uintptr(f.params.CQOff.CQEs)+uintptr(i&(f.params.CQEntries-1))*cqeSize))
}

func (f *fake) mmap(_ int, offset int64, length int) ([]byte, error) {
	if offset == offSQEs {
		return unsafe.Slice((*byte)(unsafe.Pointer(&f.sqes[0])), len(f.sqes)*int(sqeSize)), nil
	}
	if have := 8 * len(f.words); offset != offSQRing || length > have {
		f.breach("mapping of %d bytes at %#x, there are %d", length, offset, have)
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&f.words[0])), length), nil
}

// pages are of Go's heap, where the race detector sees who synchronises with whom.
func (f *fake) pages(length int) ([]byte, error) {
	words := make([]uint64, (length+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), length), nil
}

func (f *fake) munmap([]byte) error { return nil }

func (f *fake) close(fd int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fd == fakeFD {
		f.closed = true
		f.changed.Broadcast()
	}
	return nil
}

func (f *fake) bell() (int, error) { return fakeBellFD, nil }

func (f *fake) ring(int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rung++
	f.changed.Broadcast()
	return nil
}

func (f *fake) register(_ int, op uint32, arg unsafe.Pointer, _ uint32) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op {
	case registerRingFDs:
		(*ringFD)(arg).Offset = fakeIndex
		return 1, nil
	case registerProbe:
		if !f.old {
			p := (*probe)(arg)
			p.OpsLen = uint8(OpSendmsgZC) + 1
			p.Ops[OpSendZC] = probeOp{Op: OpSendZC, Flags: opSupported}
			p.Ops[OpSendmsgZC] = probeOp{Op: OpSendmsgZC, Flags: opSupported}
		}
	case registerPbufRing:
		r := (*bufReg)(arg)
		ring := unsafe.Slice((*buf)(*(*unsafe.Pointer)(unsafe.Pointer(&r.RingAddr))), r.RingEntries)
		f.groups[r.BGID] = &fakeGroup{ring: ring, owned: map[uint16]buf{}, places: map[uint16]uint64{}}
	}
	return 0, nil
}

func (f *fake) enter(fd int, submit, wait, flags uint32, _ unsafe.Pointer, _ uintptr, _ bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		f.breach("enter after close")
	}
	if registered := flags&enterRegisteredRing != 0; registered != (fd == fakeIndex) {
		f.breach("enter with descriptor %d and flags %#x", fd, flags)
	}
	if thread := unix.Gettid(); f.owner == 0 {
		f.owner = thread
	} else if f.owner != thread && f.params.Flags&SetupSingleIssuer != 0 {
		f.breach("thread %d entered the ring of thread %d", thread, f.owner)
	}
	if f.poller != nil {
		return f.enterPolled(submit, wait, flags)
	}
	head, tail := *f.word(0), atomic.LoadUint32(f.word(1))
	if tail-head != submit || submit > f.params.SQEntries {
		f.breach("%d entries submitted of %d that are there", submit, tail-head)
	}
	if f.moody && f.random.IntN(8) == 0 {
		return 0, []error{unix.EINTR, unix.EAGAIN, unix.EBUSY}[f.random.IntN(3)]
	}
	taken := submit
	if f.moody && submit > 1 && f.random.IntN(4) == 0 {
		taken = 1 + f.random.Uint32N(submit-1)
	}
	for i := range taken {
		f.take((head + i) & (f.params.SQEntries - 1))
	}
	f.endChain()
	atomic.StoreUint32(f.word(0), head+taken)
	if flags&enterGetEvents != 0 {
		f.post()
		for taken == submit && f.available() < wait {
			f.progress()
			f.post()
		}
	}
	return int(taken), nil
}

// available is how many completions are in the queue.
func (f *fake) available() uint32 {
	return *f.word(fakeCQTail) - atomic.LoadUint32(f.word(fakeCQHead))
}

// take begins one request.
func (f *fake) take(slot uint32) {
	if index := *f.word(int(fakeArray + slot)); index != slot {
		f.breach("slot %d of the queue holds entry %d", slot, index)
	}
	e := f.sqes[slot]
	f.sqes[slot] = SQE{Opcode: 255, Flags: e.Flags, UserData: 0xdead} // whoever writes it later than now starts from this
	f.seen++
	if e.Opcode == 255 {
		f.breach("an entry was submitted that nobody filled")
	}
	if e.UserData != ignoredToken && slices.ContainsFunc(f.pending, func(o SQE) bool { return o.UserData == e.UserData }) {
		f.breach("token %#x is used by two requests in flight", e.UserData)
	}
	f.link(e)
}

// start begins a request whose turn has come.
func (f *fake) start(e SQE) {
	switch {
	case e.Opcode == OpRead && e.FD == fakeBellFD:
		f.pending = append(f.pending, e)
	case e.Opcode == OpAsyncCancel:
		f.cancel(e)
	default:
		if res, wait := f.begin(e); wait {
			f.pending = append(f.pending, e)
		} else {
			f.complete(e, res, 0)
		}
	}
}

func (f *fake) cancel(e SQE) {
	found := false
	for _, o := range slices.Clone(f.pending) {
		byToken := e.OpFlags == 0 && o.UserData == e.Addr
		byFD := e.OpFlags&cancelFD != 0 && o.FD == e.FD && o.UserData != bellToken
		owes := slices.ContainsFunc(f.notices, func(n fakeNotice) bool { return n.sqe.UserData == o.UserData })
		if (byToken || byFD) && !owes {
			found = true
			f.end(o, -int32(unix.ECANCELED), 0)
		}
	}
	res := int32(0)
	if !found {
		res = -int32(unix.ENOENT)
	}
	f.complete(e, res, 0)
}

// end completes a pending request for the last time.
func (f *fake) end(e SQE, res int32, flags CQEFlags) {
	i := slices.IndexFunc(f.pending, func(o SQE) bool { return o.UserData == e.UserData })
	f.pending = slices.Delete(f.pending, i, i+1)
	f.complete(e, res, flags)
}

// complete makes a completion ready, at a random place among those that are.
func (f *fake) complete(e SQE, res int32, flags CQEFlags) {
	i := len(f.ready)
	before := f.chains.before[e.UserData]
	for i > 0 && f.ready[i-1].UserData != e.UserData && (before == 0 || f.ready[i-1].UserData != before) && f.random.IntN(2) == 0 {
		i--
	}
	if slices.ContainsFunc(f.ready[i:], func(c CQE) bool { return c.UserData == e.UserData }) || flags&CQEBuffer != 0 {
		i = len(f.ready) // completions of one request keep their order, and so do the bytes of a stream
	}
	f.ready = slices.Insert(f.ready, i, CQE{UserData: e.UserData, Res: res, Flags: flags})
	if flags&CQEMore == 0 {
		f.goOn(e, res)
	}
}

// post moves ready completions to the queue as far as there is room.
func (f *fake) post() {
	for len(f.ready) > 0 && f.available() < f.params.CQEntries {
		tail := *f.word(fakeCQTail)
		*f.cqe(tail) = f.ready[0]
		f.ready = f.ready[1:]
		atomic.StoreUint32(f.word(fakeCQTail), tail+1)
	}
	flags := uint32(0)
	if len(f.ready) > 0 {
		f.overflow++
		flags = sqCQOverflow
	}
	if f.poller != nil && f.poller.asleep {
		flags |= sqNeedWakeup
	}
	atomic.StoreUint32(f.word(fakeSQFlags), flags)
}

// progress waits until something may have happened. A test makes it happen by ring or by finish.
func (f *fake) progress() {
	if f.rung == 0 && len(f.ready) == 0 {
		f.changed.Wait()
	}
	if f.rung > 0 {
		for _, e := range f.pending {
			if e.UserData == bellToken {
				f.rung = 0
				f.end(e, 8, 0)
				return
			}
		}
		f.breach("the bell rings and nobody listens")
		f.rung = 0
	}
}

// finish completes some pending requests other than the bell's, at random; more than none if there are any.
func (f *fake) finish(result func(e SQE) int32) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, e := range slices.Clone(f.pending) {
		if e.UserData != bellToken && (n == 0 || f.random.IntN(2) == 0) {
			f.end(e, result(e), 0)
			n++
		}
	}
	f.changed.Broadcast()
	return n
}

// refill takes note of the buffers that were given to the kernel.
func (f *fake) refill(g *fakeGroup) {
	word := atomic.LoadUint32((*uint32)(unsafe.Pointer(&g.ring[0].BID)))
	for tail := uint16(word >> 16); g.tail != tail; g.tail++ {
		i := g.tail & uint16(len(g.ring)-1)
		b := buf{Addr: g.ring[i].Addr, Len: g.ring[i].Len}
		if b.BID = uint16(word); i > 0 {
			b.BID = g.ring[i].BID
		}
		if _, twice := g.owned[b.BID]; twice || int(b.BID) >= len(g.ring) {
			f.breach("buffer %d was given to the kernel twice, or does not exist", b.BID)
		}
		if place, known := g.places[b.BID]; known && place != b.Addr {
			f.breach("buffer %d has moved", b.BID)
		}
		g.places[b.BID] = b.Addr
		g.owned[b.BID] = b
		g.queue = append(g.queue, b)
	}
}

// receive takes the next buffer of a group and puts as much of p into it as fits.
func (f *fake) receive(group uint16, p []byte) (id uint16, n int, ok bool) {
	g := f.groups[group]
	f.refill(g)
	if len(g.queue) == 0 {
		return 0, 0, false
	}
	b := g.queue[0]
	g.queue = g.queue[1:]
	delete(g.owned, b.BID)
	return b.BID, copy(memoryAt(b.Addr, int(b.Len)), p), true
}

// memoryAt is the memory a request points to.
func memoryAt(addr uint64, n int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), n)
}

func pointerTo(addr uint64) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

func iovecs(m *unix.Msghdr) (out [][]byte) {
	for _, v := range unsafe.Slice(m.Iov, m.Iovlen) {
		out = append(out, unsafe.Slice(v.Base, v.Len))
	}
	return out
}
