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
	kernel     kernel        // nil: Linux
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

	enters, submitted uint64
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
	return r, nil
}

// setup asks for the ring, dropping optional flags one set at a time when the kernel does not know them.
func (r *Ring) setup(o Options) (*params, error) {
	for _, flags := range []SetupFlags{o.Flags, o.Flags &^ o.Optional} {
		p := &params{Flags: flags | SetupCQSize | SetupClamp | SetupSubmitAll, CQEntries: o.CQEntries,
			SQThreadIdle: uint32(o.SQPollIdle.Milliseconds())}
		fd, err := r.kernel.setup(o.Entries, p)
		if err == nil {
			r.fd, r.flags, r.features = fd, flags, p.Features
			return p, nil
		}
		if !errors.Is(err, unix.EINVAL) || o.Optional == 0 {
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

// Reap runs completions that the kernel holds back (SetupDeferTaskrun, overflow) without waiting.
func (r *Ring) needsReap() bool {
	return r.flags&SetupDeferTaskrun != 0 || atomic.LoadUint32(r.sqFlags)&(sqTaskrun|sqCQOverflow) != 0
}

func (r *Ring) enter(wait uint32, timeout time.Duration) error {
	if r.closed {
		return ErrClosed
	}
	atomic.StoreUint32(r.sqTail, r.tail)
	submit := r.pending()
	var flags uint32
	if r.flags&SetupSQPoll != 0 {
		if atomic.LoadUint32(r.sqFlags)&sqNeedWakeup != 0 {
			flags |= enterSQWakeup
		} else if wait == 0 && !r.needsReap() {
			return nil // the kernel's thread has seen the tail
		}
	}
	if wait > 0 || r.needsReap() {
		flags |= enterGetEvents
	}
	if submit == 0 && flags == 0 {
		return nil
	}
	return r.enterUntilTaken(submit, wait, flags, timeout)
}

// enterUntilTaken repeats the call until the kernel has taken every entry: it stops early when it has no memory or is interrupted.
func (r *Ring) enterUntilTaken(submit, wait, flags uint32, timeout time.Duration) error {
	var ts timespec
	var arg getEventsArg
	var argp unsafe.Pointer
	var size uintptr
	if timeout >= 0 && wait > 0 {
		ts = timespec{Sec: int64(timeout / time.Second), Nsec: int64(timeout % time.Second)}
		arg.TS = uint64(uintptr(unsafe.Pointer(&ts)))
		argp, size, flags = unsafe.Pointer(&arg), unsafe.Sizeof(arg), flags|enterExtArg
	}
	for {
		taken, err := r.kernel.enter(r.fd, submit, wait, flags, argp, size)
		r.enters++
		switch {
		case err == nil:
			r.submitted += uint64(taken)
			submit -= min(submit, uint32(taken))
			if submit == 0 || r.flags&SetupSQPoll != 0 {
				return nil
			}
		case errors.Is(err, unix.ETIME):
			return nil
		case errors.Is(err, unix.EINTR):
			if wait > 0 && r.Ready() > 0 {
				wait = 0
			}
			submit = r.pending()
			if submit == 0 && wait == 0 {
				return nil
			}
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY):
			return nil // the caller reaps completions, which frees what the kernel lacks, and enters again
		default:
			return fmt.Errorf("ring: enter: %w", err)
		}
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
			atomic.StoreUint32(r.cqHead, head+1)
			f(c)
			n++
		}
	}
}

// Stats counts what the ring has done.
type Stats struct {
	Enters    uint64 // calls of io_uring_enter
	Submitted uint64 // entries the kernel took
	Overflow  uint32 // completions that had to wait in the kernel because the queue was full; none is lost with FeatNoDrop
}

// Stats returns the counters so far.
func (r *Ring) Stats() Stats {
	return Stats{r.enters, r.submitted, atomic.LoadUint32(r.cqOverflow)}
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
