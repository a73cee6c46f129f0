package uring

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Loop is a ring that many goroutines may use: one goroutine, locked to a thread, owns the ring and carries out what the others hand it.
// Requests that arrive while it is busy go to the kernel together, in one call.
//
// Code that reacts to completions (a server) runs on the loop's own thread by Start: it costs no wake-up. Code that waits for one (File,
// Conn) runs in its own goroutine by Do.
type Loop struct {
	ring *Ring
	wake int     // eventfd; a write ends the wait of a parked loop
	tick [8]byte // the eventfd's counter is read into this

	mu       sync.Mutex // guards incoming and closing
	incoming []work     // in order of arrival
	closing  bool
	parked   atomic.Bool // the loop waits in the kernel, or is about to

	spare []work // the loop's: the other half of the double buffer
	slots []slot // the loop's: what to do with a completion, by UserData
	free  []uint32
	inUse int
	ended chan struct{} // closed when the loop's goroutine has returned
	stats atomic.Pointer[Stats]
}

// A Handler receives completions of one request on the loop's thread. It must not block. More completions follow while flags has CQEMore.
type Handler func(res int32, flags CQEFlags)

// work is a request handed over by another goroutine: a function to call, or an entry with the place its result goes to.
type work struct {
	call func()
	sqe  SQE
	op   *pending
}

// pending is a goroutine that waits for a completion.
type pending struct {
	res  int32
	done chan struct{} // capacity 1: the loop never waits for the goroutine
}

var pendings = sync.Pool{New: func() any { return &pending{done: make(chan struct{}, 1)} }}

type slot struct {
	handler Handler
	op      *pending
}

const (
	// slotsMin is the room for requests in flight a loop starts with; it grows as needed.
	slotsMin = 256
	// wakeSlot is the UserData of the eventfd read, ignoredSlot that of requests whose result nobody wants.
	wakeSlot    = ^uint64(0)
	ignoredSlot = ^uint64(1)
)

// LoopFlags are what a loop's ring asks for: completions run only when the owning thread asks.
const LoopFlags = SetupSingleIssuer | SetupDeferTaskrun | SetupCoopTaskrun

// NewLoop starts a loop. The zero Options are good; LoopFlags are added, as far as the kernel knows them.
func NewLoop(o Options) (*Loop, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("loop: eventfd: %w", err)
	}
	if o.Flags&SetupSQPoll == 0 {
		o.Flags |= LoopFlags
		o.Optional |= LoopFlags
	}
	l := &Loop{wake: wake, ended: make(chan struct{}), slots: make([]slot, 0, slotsMin)}
	started := make(chan error)
	go l.run(o, started)
	if err := <-started; err != nil {
		unix.Close(wake)
		return nil, err
	}
	return l, nil
}

// run is the loop's goroutine. The ring is made here because its single issuer is this thread.
func (l *Loop) run(o Options, started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the loop
	defer close(l.ended)
	ring, err := New(o)
	l.ring = ring
	started <- err
	if err != nil {
		return
	}
	defer l.ring.Close()
	l.armWake()
	for {
		worked := l.takeWork()
		worked = l.ring.Completions(l.complete) > 0 || worked
		if l.finished() {
			return
		}
		wait := 0
		if !worked && l.mayPark() {
			wait = 1
		}
		if err := l.ring.SubmitAndWait(wait); err != nil {
			panic(fmt.Sprintf("uring: the kernel refuses the loop's ring: %v", err))
		}
		l.parked.Store(false)
		s := l.ring.Stats()
		l.stats.Store(&s)
	}
}

// mayPark announces that the loop is about to wait, then looks once more: a goroutine that came before the announcement did not wake it.
func (l *Loop) mayPark() bool {
	l.parked.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.incoming) > 0 || l.closing {
		l.parked.Store(false)
		return false
	}
	return true
}

// finished reports whether the loop was closed and owes nobody a completion.
func (l *Loop) finished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing && len(l.incoming) == 0 && l.inUse == 0
}

// takeWork carries out what others handed over.
func (l *Loop) takeWork() bool {
	l.mu.Lock()
	batch := l.incoming
	l.incoming = l.spare[:0]
	l.mu.Unlock()
	for i := range batch {
		w := &batch[i]
		if w.call != nil {
			w.call()
		} else {
			e := l.entry()
			*e = w.sqe
			e.UserData = l.slot(slot{op: w.op})
		}
		*w = work{}
	}
	l.spare = batch
	return len(batch) > 0
}

// entry returns a free entry, making room by submitting when there is none.
func (l *Loop) entry() *SQE {
	for {
		if e := l.ring.Next(); e != nil {
			return e
		}
		if err := l.ring.Submit(); err != nil {
			panic(fmt.Sprintf("uring: the kernel refuses the loop's ring: %v", err))
		}
	}
}

func (l *Loop) slot(s slot) uint64 {
	l.inUse++
	if n := len(l.free); n > 0 {
		i := l.free[n-1]
		l.free = l.free[:n-1]
		l.slots[i] = s
		return uint64(i)
	}
	l.slots = append(l.slots, s)
	return uint64(len(l.slots) - 1)
}

func (l *Loop) complete(c CQE) {
	switch c.UserData {
	case wakeSlot:
		l.armWake()
		return
	case ignoredSlot:
		return
	}
	s := l.slots[c.UserData]
	if c.Flags&CQEMore == 0 {
		l.slots[c.UserData] = slot{}
		l.free = append(l.free, uint32(c.UserData))
		l.inUse--
	}
	if s.op != nil {
		s.op.res = c.Res
		s.op.done <- struct{}{}
		return
	}
	s.handler(c.Res, c.Flags)
}

func (l *Loop) armWake() {
	e := l.entry()
	e.PrepRead(l.wake, l.tick[:], 0)
	e.UserData = wakeSlot
}

// hand gives work to the loop and wakes it if it waits.
func (l *Loop) hand(w work) error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return ErrClosed
	}
	l.incoming = append(l.incoming, w)
	first := len(l.incoming) == 1
	l.mu.Unlock()
	if first && l.parked.Load() {
		return l.ring1()
	}
	return nil
}

// ring1 rings the bell once.
func (l *Loop) ring1() error {
	one := [8]byte{1}
	_, err := unix.Write(l.wake, one[:])
	return err
}

// Do hands an entry to the kernel and waits for its one completion. It returns the result, or the error the kernel gave. keep is kept
// alive until then: everything the entry points to. Do not use it for multishot requests.
func (l *Loop) Do(e SQE, keep ...any) (int, error) {
	op := pendings.Get().(*pending)
	if err := l.hand(work{sqe: e, op: op}); err != nil {
		return 0, err
	}
	<-op.done
	res := op.res
	pendings.Put(op)
	runtime.KeepAlive(keep)
	if res < 0 {
		return 0, unix.Errno(-res)
	}
	return int(res), nil
}

// DoContext is Do that cancels the request in the kernel when ctx ends. It still waits for the completion, because until then the kernel
// may use the memory; the request may have succeeded all the same.
func (l *Loop) DoContext(ctx context.Context, e SQE, keep ...any) (int, error) {
	if ctx.Done() == nil {
		return l.Do(e, keep...)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	op := pendings.Get().(*pending)
	var id uint64
	begin := func() {
		entry := l.entry()
		*entry = e
		id = l.slot(slot{op: op})
		entry.UserData = id
	}
	if err := l.hand(work{call: begin}); err != nil {
		return 0, err
	}
	select {
	case <-op.done:
	case <-ctx.Done():
		// The cancel is handed over after the request, so it runs after it on the loop's thread; the slot is not reused before the
		// completion that we wait for.
		if err := l.hand(work{call: func() { l.cancel(id) }}); err != nil && !errors.Is(err, ErrClosed) {
			return 0, err
		}
		<-op.done
	}
	res := op.res
	pendings.Put(op)
	runtime.KeepAlive(keep)
	switch {
	case res >= 0:
		return int(res), nil
	case unix.Errno(-res) == unix.ECANCELED || unix.Errno(-res) == unix.EINTR:
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return 0, unix.Errno(-res)
}

func (l *Loop) cancel(id uint64) {
	e := l.entry()
	e.PrepCancel(id, false)
	e.UserData = ignoredSlot
}

// Post runs f on the loop's thread, after everything handed over before.
func (l *Loop) Post(f func()) error { return l.hand(work{call: f}) }

// Start begins a request from the loop's own thread: in a Handler or in a function given to Post. h receives its completions. The
// returned token is for Cancel.
func (l *Loop) Start(prepare func(*SQE), h Handler) (token uint64) {
	e := l.entry()
	prepare(e)
	e.UserData = l.slot(slot{handler: h})
	return e.UserData
}

// Cancel asks the kernel to end a request begun with Start. On the loop's own thread only. Its completion still comes.
func (l *Loop) Cancel(token uint64) { l.cancel(token) }

// Stats returns counters of the loop's ring, at most one round old.
func (l *Loop) Stats() Stats {
	if s := l.stats.Load(); s != nil {
		return *s
	}
	return Stats{}
}

// RegisterBuffers tells the kernel memory that PrepReadFixed and PrepWriteFixed will use, by index. It replaces none: register once.
func (l *Loop) RegisterBuffers(buffers [][]byte) error {
	iovecs := make([]unix.Iovec, len(buffers))
	for i, b := range buffers {
		iovecs[i].Base = unsafe.SliceData(b)
		iovecs[i].SetLen(len(b))
	}
	return l.register(registerBuffers, unsafe.Pointer(unsafe.SliceData(iovecs)), len(iovecs), buffers)
}

// RegisterFiles tells the kernel descriptors that entries name by index with FixedFile.
func (l *Loop) RegisterFiles(fds []int32) error {
	return l.register(registerFiles, unsafe.Pointer(unsafe.SliceData(fds)), len(fds), fds)
}

// register runs on the loop's thread: a single issuer registers too.
func (l *Loop) register(op uint32, arg unsafe.Pointer, n int, keep any) error {
	result := make(chan error, 1)
	err := l.Post(func() { result <- l.ring.kernel.register(l.ring.fd, op, arg, uint32(n)) })
	if err != nil {
		return err
	}
	err = <-result
	runtime.KeepAlive(keep)
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("loop: register: no memory may be locked; raise RLIMIT_MEMLOCK: %w", err)
	}
	return err
}

// Close refuses new work, waits for what is in flight, and ends the loop. Cancel long requests (accepts, receives) before.
func (l *Loop) Close() error {
	l.mu.Lock()
	was := l.closing
	l.closing = true
	l.mu.Unlock()
	if was {
		<-l.ended
		return nil
	}
	if err := l.ring1(); err != nil {
		return err
	}
	<-l.ended
	return unix.Close(l.wake)
}
