package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnavailable means that this kernel or sandbox refuses io_uring; the error that wraps it says which and what to do.
var ErrUnavailable = errors.New("io_uring is not available")

// ErrClosed means that the ring was closed.
var ErrClosed = errors.New("ring closed")

// Options choose how a ring is made. The zero value is a good one.
type Options struct {
	Entries    uint32        // size of the submission queue, a power of two; 256 if zero
	CQEntries  uint32        // size of the completion queue; four times Entries if zero
	Flags      SetupFlags    // asked for; flags that this kernel does not know are dropped if they are in Optional
	Optional   SetupFlags    // flags that may be dropped
	SQPollIdle time.Duration // how long an idle SQPOLL thread spins; with SetupSQPoll
	// WorkersBounded and WorkersUnbounded limit the kernel's threads that run requests which would block: on regular files and block
	// devices, and on everything else. Zero leaves the kernel's own limits.
	WorkersBounded, WorkersUnbounded uint32
	// QuietWaits has a Loop keep its processor while it waits. See Loop.
	QuietWaits bool
	// Spin has a Loop look for completions for so long before it sleeps, as long as that finds some: lower latency where a processor is to
	// spare. 0: it sleeps at once.
	Spin   time.Duration
	kernel kernel // nil: Linux
}

const (
	entriesDefault = 256
	// completionsPerEntry: multishot requests complete many times, so completions outnumber submissions.
	completionsPerEntry = 4
)

// Ring is one submission and one completion queue shared with the kernel. It is for one goroutine, with SetupSingleIssuer moreover
// locked to one thread; Loop and File make it usable by many.
type Ring struct {
	kernel   kernel
	fd       int
	enterFD  int    // fd, or its index among the thread's registered rings
	enterOr  uint32 // flags of every enter
	flags    SetupFlags
	features Features
	rings    []byte // SQ and CQ ring, one mapping
	cqRing   []byte // nil with FeatSingleMmap
	sqeMem   []byte

	sqHead, sqTail, sqFlags *uint32 // shared with the kernel
	sqMask                  uint32
	sqes                    []SQE
	tail                    uint32 // ours: entries up to here are filled

	cqHead, cqTail, cqOverflow *uint32
	cqMask                     uint32
	cqes                       []CQE

	waitTime timespec // of a wait that has a limit
	waitArg  getEventsArg

	quiet bool // waits are not told to Go's scheduler, until one proves to be long

	linksCut uint64 // see Loop.LinksCut

	enters, submitted atomic.Uint64 // written by the owner, read by anyone
	overflow          atomic.Uint32
	closed            bool
}

// New makes a ring. Where io_uring is refused the error wraps ErrUnavailable and says why.
func New(o Options) (*Ring, error) {
	if o.kernel == nil {
		o.kernel = linux{}
	}
	if o.Entries == 0 {
		o.Entries = entriesDefault
	}
	if o.CQEntries == 0 {
		o.CQEntries = o.Entries * completionsPerEntry
	}
	r := &Ring{kernel: o.kernel, fd: -1}
	p, err := r.setup(o)
	if err != nil {
		return nil, err
	}
	if err := r.mapRings(p); err != nil {
		return nil, errors.Join(fmt.Errorf("ring: map queues: %w", err), r.Close())
	}
	if o.WorkersBounded != 0 || o.WorkersUnbounded != 0 {
		limits := [2]uint32{o.WorkersBounded, o.WorkersUnbounded}
		if _, err := r.kernel.register(r.fd, registerIOWQMaxWorkers, unsafe.Pointer(&limits), uint32(len(limits))); err != nil {
			return nil, errors.Join(fmt.Errorf("ring: limit workers: %w", err), r.Close())
		}
	}
	return r, nil
}

// RegisterFD spares every later enter of the calling thread, which must be the ring's only one, the look-up of the ring's descriptor. A
// kernel that does not know how (before 5.18) changes nothing.
func (r *Ring) RegisterFD() {
	u := ringFD{Offset: ^uint32(0), FD: uint64(r.fd)}
	if n, err := r.kernel.register(r.fd, registerRingFDs, unsafe.Pointer(&u), 1); err == nil && n == 1 {
		r.enterFD, r.enterOr = int(u.Offset), enterRegisteredRing
	}
}

// eras are the flags that came together, the newest first: what a kernel does not know is found by leaving them out one after another.
var eras = []SetupFlags{
	SetupDeferTaskrun,                   // Linux 6.1
	SetupSingleIssuer,                   // 6.0
	SetupCoopTaskrun | SetupTaskrunFlag, // 5.19
	^SetupFlags(0),                      // all else
}

// setup asks for the ring, leaving out optional flags, the newest first, as long as the kernel does not know them.
func (r *Ring) setup(o Options) (*params, error) {
	attempts := []SetupFlags{o.Flags}
	for flags, i := o.Flags, 0; i < len(eras); i++ {
		if fewer := flags &^ (o.Optional & eras[i]); fewer != flags {
			attempts = append(attempts, fewer)
			flags = fewer
		}
	}
	for _, flags := range attempts {
		p := &params{Flags: flags | SetupCQSize | SetupClamp | SetupSubmitAll, CQEntries: o.CQEntries,
			SQThreadIdle: uint32(o.SQPollIdle.Milliseconds())}
		fd, err := r.kernel.setup(o.Entries, p)
		if err == nil {
			r.fd, r.enterFD, r.flags, r.features = fd, fd, flags, p.Features
			return p, nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return nil, explainSetup(err)
		}
	}
	return nil, explainSetup(unix.EINVAL)
}

// explainSetup says what a refused io_uring_setup means and what to do.
func explainSetup(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: the kernel has no io_uring (needs Linux 6.1), or a seccomp filter hides it: %w", ErrUnavailable, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: refused by a seccomp filter or by the sysctl kernel.io_uring_disabled (set it to 0, or allow io_uring_setup, io_uring_enter and io_uring_register): %w", ErrUnavailable, err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w: no memory to lock for the queues (raise RLIMIT_MEMLOCK or ask for fewer entries): %w", ErrUnavailable, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel does not know a requested set-up flag (needs Linux 6.1): %w", ErrUnavailable, err)
	}
	return fmt.Errorf("ring: set up: %w", err)
}

func (r *Ring) mapRings(p *params) error {
	sqSize := int(p.SQOff.Array + p.SQEntries*4)
	cqSize := int(p.CQOff.CQEs) + int(p.CQEntries)*int(cqeSize)
	single := p.Features&FeatSingleMmap != 0
	if single {
		sqSize = max(sqSize, cqSize)
	}
	var err error
	if r.rings, err = r.kernel.mmap(r.fd, offSQRing, sqSize); err != nil {
		return err
	}
	cq := r.rings
	if !single {
		if r.cqRing, err = r.kernel.mmap(r.fd, offCQRing, cqSize); err != nil {
			return err
		}
		cq = r.cqRing
	}
	if r.sqeMem, err = r.kernel.mmap(r.fd, offSQEs, int(p.SQEntries)*int(sqeSize)); err != nil {
		return err
	}
	at := func(mem []byte, off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&mem[off])) }
	r.sqHead, r.sqTail, r.sqFlags = at(r.rings, p.SQOff.Head), at(r.rings, p.SQOff.Tail), at(r.rings, p.SQOff.Flags)
	r.sqMask = *at(r.rings, p.SQOff.RingMask)
	r.sqes = unsafe.Slice((*SQE)(unsafe.Pointer(&r.sqeMem[0])), p.SQEntries)
	r.cqHead, r.cqTail, r.cqOverflow = at(cq, p.CQOff.Head), at(cq, p.CQOff.Tail), at(cq, p.CQOff.Overflow)
	r.cqMask = *at(cq, p.CQOff.RingMask)
	r.cqes = unsafe.Slice((*CQE)(unsafe.Pointer(&cq[p.CQOff.CQEs])), p.CQEntries)
	array := unsafe.Slice(at(r.rings, p.SQOff.Array), p.SQEntries)
	for i := range array {
		array[i] = uint32(i) // entry i of the queue is always SQE i
	}
	r.tail = atomic.LoadUint32(r.sqTail)
	return nil
}

// Flags returns the set-up flags in force.
func (r *Ring) Flags() SetupFlags { return r.flags }

// Features returns what the kernel said of itself.
func (r *Ring) Features() Features { return r.features }

// FD returns the ring's descriptor.
func (r *Ring) FD() int { return r.fd }

// Next returns a zeroed entry to fill, or nil when the queue is full: Submit, then ask again.
func (r *Ring) Next() *SQE {
	if r.tail-atomic.LoadUint32(r.sqHead) >= uint32(len(r.sqes)) {
		return nil
	}
	e := &r.sqes[r.tail&r.sqMask]
	*e = SQE{}
	r.tail++
	return e
}

// Space returns how many entries Next has left.
func (r *Ring) Space() int {
	return len(r.sqes) - int(r.tail-atomic.LoadUint32(r.sqHead))
}

// pending returns how many filled entries the kernel has not taken.
func (r *Ring) pending() uint32 { return r.tail - atomic.LoadUint32(r.sqHead) }

// Submit hands all filled entries to the kernel without waiting.
func (r *Ring) Submit() error { return r.enter(0, -1) }

// SubmitAndWait hands all filled entries to the kernel and waits until at least n completions are there.
func (r *Ring) SubmitAndWait(n int) error { return r.enter(uint32(n), -1) }

// SubmitAndWaitTimeout is SubmitAndWait that gives up waiting, without error, after d. Needs FeatExtArg.
func (r *Ring) SubmitAndWaitTimeout(n int, d time.Duration) error { return r.enter(uint32(n), d) }

// needsReap reports whether the kernel may hold back completions until it is asked.
func (r *Ring) needsReap() bool {
	return r.flags&SetupDeferTaskrun != 0 || atomic.LoadUint32(r.sqFlags)&(sqTaskrun|sqCQOverflow) != 0
}

func (r *Ring) enter(wait uint32, timeout time.Duration) error {
	if r.closed {
		return ErrClosed
	}
	atomic.StoreUint32(r.sqTail, r.tail)
	submit := r.pending()
	flags := r.enterOr
	if r.flags&SetupSQPoll != 0 {
		// The store of the tail above and this load are sequentially consistent, as the kernel's thread demands.
		switch {
		case atomic.LoadUint32(r.sqFlags)&sqNeedWakeup != 0:
			flags |= enterSQWakeup
		case submit == uint32(len(r.sqes)):
			flags |= enterSQWait
		case wait == 0 && !r.needsReap():
			return nil // the kernel's thread has seen the tail
		}
	}
	if wait > 0 || r.needsReap() {
		flags |= enterGetEvents
	}
	if submit == 0 && flags == r.enterOr {
		return nil
	}
	return r.enterUntilTaken(submit, wait, flags, timeout)
}

// enterUntilTaken repeats the call until the kernel has taken every entry and wait completions are there. It stops early when a kernel
// without memory wants completions taken first, and when the time is over.
func (r *Ring) enterUntilTaken(submit, wait, flags uint32, timeout time.Duration) error {
	var argp unsafe.Pointer
	var size uintptr
	if timeout >= 0 && wait > 0 {
		r.waitTime = timespec{Sec: int64(timeout / time.Second), Nsec: int64(timeout % time.Second)}
		r.waitArg.TS = address(unsafe.Pointer(&r.waitTime))
		argp, size, flags = unsafe.Pointer(&r.waitArg), unsafe.Sizeof(r.waitArg), flags|enterExtArg
	}
	for quiet := r.quiet; ; quiet = false {
		taken, err := r.kernel.enter(r.enterFD, submit, wait, flags, argp, size, quiet)
		r.enters.Store(r.enters.Load() + 1)
		r.submitted.Store(r.submitted.Load() + uint64(max(taken, 0)))
		if lost := atomic.LoadUint32(r.cqOverflow); lost != r.overflow.Load() {
			r.overflow.Store(lost)
		}
		switch {
		case err == nil:
			if taken > 0 && uint32(taken) < submit && r.flags&SetupSQPoll == 0 {
				r.noteCut()
			}
			submit -= min(submit, uint32(taken))
			if r.flags&SetupSQPoll != 0 {
				submit = 0
			}
		case errors.Is(err, unix.EINTR): // a signal; nothing was taken
		case errors.Is(err, unix.ETIME):
			return nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY):
			return nil // the caller takes completions, which frees what the kernel lacks, and enters again
		default:
			return fmt.Errorf("ring: enter: %w", err)
		}
		if submit == 0 && (wait == 0 || r.Ready() >= int(wait) || timeout >= 0) {
			return nil
		}
	}
}

// noteCut takes note of a link that was cut because the kernel had no memory for more than a part of a submission: links do not reach from one
// call to the next.
func (r *Ring) noteCut() {
	last := &r.sqes[(atomic.LoadUint32(r.sqHead)-1)&r.sqMask]
	if last.Flags&(IOLink|IOHardlink) != 0 {
		r.linksCut++
	}
}

// Ready returns how many completions are waiting to be taken.
func (r *Ring) Ready() int {
	return int(atomic.LoadUint32(r.cqTail) - *r.cqHead)
}

// Completions calls f with each waiting completion and takes it off the queue. f may fill new entries. It returns how many there were.
func (r *Ring) Completions(f func(CQE)) int {
	n := 0
	for {
		head, tail := *r.cqHead, atomic.LoadUint32(r.cqTail)
		if head == tail {
			return n
		}
		for ; head != tail; head++ {
			c := r.cqes[head&r.cqMask]
			if (tail-head)%headEvery == 0 {
				atomic.StoreUint32(r.cqHead, head+1)
			}
			f(c)
			n++
		}
		atomic.StoreUint32(r.cqHead, head)
	}
}

// headEvery is after how many completions the kernel is told that their places are free: an atomic store for each would cost more than
// the rest of the loop, one at the end could leave the kernel without room while f submits.
const headEvery = 32

// Stats counts what the ring has done.
type Stats struct {
	Enters    uint64 // calls of io_uring_enter
	Submitted uint64 // entries the kernel took
	Overflow  uint32 // completions the kernel dropped because it had no memory to keep them; zero on a sane machine
}

// Stats returns the counters so far. Any goroutine may ask.
func (r *Ring) Stats() Stats {
	return Stats{r.enters.Load(), r.submitted.Load(), r.overflow.Load()}
}

// Close ends the ring. Requests in flight are cancelled by the kernel; their completions are not delivered.
func (r *Ring) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	var errs []error
	for _, mem := range [][]byte{r.sqeMem, r.cqRing, r.rings} {
		if mem != nil {
			errs = append(errs, r.kernel.munmap(mem))
		}
	}
	if r.fd >= 0 {
		errs = append(errs, r.kernel.close(r.fd))
	}
	return errors.Join(errs...)
}
