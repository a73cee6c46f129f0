package uring

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Loop is a ring that many goroutines may use: one goroutine, locked to a thread, owns the ring and carries out what the others hand it.
// Requests that arrive while it is busy go to the kernel together, in one call.
//
// Code that reacts to completions (a server) runs on the loop's own thread by Begin: it costs no wake-up. Code that waits for one (File,
// Conn) runs in its own goroutine by Do.
//
// A panic on the loop's thread, and a kernel that refuses the ring outright, end the process: memory that the kernel may still write to
// cannot be given back by halves.
type Loop struct {
	ring *Ring
	bell int     // eventfd; ringing it ends the wait of a parked loop
	tick [8]byte // the eventfd's counter is read into this

	mu       sync.Mutex // guards incoming, and closing's change
	incoming []work     // in order of arrival
	closing  atomic.Bool
	called   atomic.Bool    // incoming has something, or closing was set
	parked   atomic.Bool    // the loop waits in the kernel, or is about to
	ringing  sync.WaitGroup // those who are about to ring the bell, which must not be closed before

	underWay atomic.Int32 // reads and writes of files, in place or through the ring

	spare   []work        // the loop's: the other half of the double buffer
	slots   slots         // the loop's: who gets a completion
	flushes []flush       // the loop's: what to run before the next call of the kernel
	spinner spinner       // the loop's: whether to look for completions before it waits for them
	nap     time.Duration // the loop's: for how long it lets completions gather
	wakeups *wakeups
	ended   chan struct{} // closed when the loop's goroutine has returned
}

// A Completer receives the completions of one request on the loop's thread. It must not block. More follow while flags has CQEMore.
type Completer interface {
	Complete(res int32, flags CQEFlags)
}

// Handler is a function as a Completer.
type Handler func(res int32, flags CQEFlags)

// Complete calls h.
func (h Handler) Complete(res int32, flags CQEFlags) { h(res, flags) }

// flush is something with work to do once per round, after all completions and before the kernel is called.
type flush interface{ flush() }

// work is a request handed over by another goroutine: a function to call, or an entry with the place its result goes to.
type work struct {
	call func()
	sqe  SQE
	op   *pending
}

// LoopFlags are what a loop's ring asks for: completions run only when the owning thread asks.
const LoopFlags = SetupSingleIssuer | SetupDeferTaskrun | SetupCoopTaskrun

// NewLoop starts a loop. The zero Options are good; LoopFlags are added, as far as the kernel knows them. With SetupSQPoll, a kernel
// thread takes the submissions instead: it spins for Options.SQPollIdle and then sleeps, which pays only where a core is to spare.
func NewLoop(o Options) (*Loop, error) {
	if o.kernel == nil {
		o.kernel = linux{}
	}
	if o.Flags&SetupSQPoll == 0 {
		o.Flags |= LoopFlags
		o.Optional |= LoopFlags
	}
	bell, err := o.kernel.bell()
	if err != nil {
		return nil, fmt.Errorf("loop: eventfd: %w", err)
	}
	wakeups, err := newWakeups()
	if err != nil {
		return nil, errors.Join(err, o.kernel.close(bell))
	}
	l := &Loop{bell: bell, wakeups: wakeups, spinner: spinner{limit: o.Spin}, ended: make(chan struct{})}
	started := make(chan error)
	go l.run(o, started)
	if err := <-started; err != nil {
		return nil, errors.Join(err, wakeups.close(), o.kernel.close(bell))
	}
	return l, nil
}

// run is the loop's goroutine. The ring is made here because its single issuer is this thread.
func (l *Loop) run(o Options, started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the loop
	defer close(l.ended)
	ring, err := New(o)
	l.ring = ring
	if err == nil {
		ring.RegisterFD()
		ring.quiet = o.QuietWaits && preemptible()
	}
	started <- err
	if err != nil {
		return
	}
	defer l.ring.Close()
	l.listenForBell()
	timersGone := false
	for {
		l.takeWork()
		if !timersGone && l.closing.Load() {
			timersGone = true
			l.cancelTimers()
		}
		l.ring.Completions(l.complete)
		l.endRound()
		if l.finished() {
			return
		}
		if l.spin() || l.doze() {
			continue
		}
		wait := 0
		if l.mayPark() {
			wait = 1
		}
		if err := l.ring.SubmitAndWait(wait); err != nil {
			panic(fmt.Sprintf("uring: the kernel refuses the loop's ring: %v", err))
		}
		l.parked.Store(false)
	}
}

// mayPark announces that the loop is about to wait, then looks once more: a goroutine that came before the announcement did not ring the
// bell. Both sides write their own word and then read the other's, and Go's atomics are sequentially consistent, so at least one sees
// the other.
func (l *Loop) mayPark() bool {
	l.parked.Store(true)
	if l.called.Load() {
		l.parked.Store(false)
		return false
	}
	return true
}

// finished reports whether the loop was closed and owes nobody a completion.
func (l *Loop) finished() bool {
	if l.slots.inUse > 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing.Load() && len(l.incoming) == 0
}

// takeWork carries out what others handed over.
func (l *Loop) takeWork() {
	if !l.called.Load() {
		return
	}
	l.mu.Lock()
	batch := l.incoming
	l.incoming = l.spare[:0]
	l.called.Store(false)
	l.mu.Unlock()
	for i := range batch {
		w := &batch[i]
		if w.call != nil {
			w.call()
		} else {
			l.startFor(w.op, &w.sqe)
		}
		*w = work{}
	}
	l.spare = batch
}

// startFor begins a request for a goroutine that waits.
func (l *Loop) startFor(op *pending, e *SQE) uint64 {
	entry := l.entry()
	*entry = *e
	entry.UserData = l.slots.take(op)
	return entry.UserData
}

// endRound runs what was left for the end of the round and wakes the goroutines whose requests completed.
func (l *Loop) endRound() {
	for len(l.flushes) > 0 {
		todo := l.flushes
		l.flushes = nil
		for _, f := range todo {
			f.flush()
		}
		if l.flushes == nil {
			clear(todo)
			l.flushes = todo[:0]
			break
		}
	}
	l.wakeups.wake()
}

// entry returns a free entry, making room by submitting when there is none.
func (l *Loop) entry() *SQE {
	for {
		if e := l.ring.Next(); e != nil {
			return e
		}
		l.submit()
	}
}

func (l *Loop) submit() {
	if err := l.ring.Submit(); err != nil {
		panic(fmt.Sprintf("uring: the kernel refuses the loop's ring: %v", err))
	}
}

func (l *Loop) complete(c CQE) {
	switch c.UserData {
	case bellToken:
		l.listenForBell()
		return
	case ignoredToken:
		return
	}
	who := l.slots.owner(c.UserData)
	if c.Flags&CQEMore == 0 {
		l.slots.free(c.UserData)
	}
	if op, ok := who.(*pending); ok {
		op.res = c.Res
		l.wakeups.add(op)
		return
	}
	who.Complete(c.Res, c.Flags)
}

func (l *Loop) listenForBell() {
	e := l.entry()
	e.PrepRead(l.bell, l.tick[:], 0)
	e.UserData = bellToken
}

// hand gives work to the loop and wakes it if it waits.
func (l *Loop) hand(w work) error {
	l.mu.Lock()
	if l.closing.Load() {
		l.mu.Unlock()
		return ErrClosed
	}
	l.incoming = append(l.incoming, w)
	asleep := false
	if !l.called.Load() { // else who came first rings
		l.called.Store(true)
		asleep = l.parked.Load()
	}
	if asleep {
		l.ringing.Add(1)
	}
	l.mu.Unlock()
	if asleep {
		l.ringBell()
		l.ringing.Done()
	}
	return nil
}

// ringBell ends the wait of a parked loop. A kernel that cannot count to one is no kernel to go on with.
func (l *Loop) ringBell() {
	if err := l.ring.kernel.ring(l.bell); err != nil {
		panic(fmt.Sprintf("uring: the loop's eventfd: %v", err))
	}
}

// Post runs f on the loop's thread, after everything handed over before. f must not block.
func (l *Loop) Post(f func()) error { return l.hand(work{call: f}) }

// Begin begins a request: it returns its entry for the caller to fill at once, before anything else is asked of the loop. The entry's
// UserData is set; it is the token for Cancel. c receives the completions, and holds what the entry points to. On the loop's own thread
// only: in a Completer or in a function given to Post.
func (l *Loop) Begin(c Completer) *SQE {
	e := l.entry()
	e.UserData = l.slots.take(c)
	return e
}

// Reserve makes room for n entries, so that the next n Begins go to the kernel in one call, as links between them need. On the loop's own
// thread only.
func (l *Loop) Reserve(n int) {
	for l.ring.Space() < n {
		l.submit()
	}
}

// LinksCut counts the links that the kernel has cut: short of memory, it took the first part of a chain in one call and the rest in another, so that
// they ran beside each other. If it has changed between a Begin and the completion, the order that the link was for is not certain. On the loop's own
// thread only.
func (l *Loop) LinksCut() uint64 { return l.ring.linksCut }

// Cancel asks the kernel to end a request begun with Begin. Its completion still comes. A token of a request that has completed does
// nothing. On the loop's own thread only.
func (l *Loop) Cancel(token uint64) {
	if l.slots.owner(token) == nil {
		return
	}
	e := l.entry()
	e.PrepCancel(token, false)
	e.UserData = ignoredToken
}

// AtRoundEnd calls f once, after the completions of this round and before the kernel is called: for work that is done best for all that
// happened in a round together. On the loop's own thread only.
func (l *Loop) AtRoundEnd(f func()) { l.atRoundEnd(flushFunc(f)) }

// flushFunc is a function as a flush.
type flushFunc func()

func (f flushFunc) flush() { f() }

// atRoundEnd has f flushed once, after the completions of this round. On the loop's own thread only.
func (l *Loop) atRoundEnd(f flush) { l.flushes = append(l.flushes, f) }

// Stats returns counters of the loop's ring, at most one round old.
func (l *Loop) Stats() Stats { return l.ring.Stats() }

// Close refuses new work, cancels timers, waits for what else is in flight, and ends the loop. Cancel long requests (accepts, receives)
// before.
func (l *Loop) Close() error {
	l.mu.Lock()
	was := l.closing.Swap(true)
	l.called.Store(true)
	l.mu.Unlock()
	if was {
		<-l.ended
		return nil
	}
	l.ringBell()
	<-l.ended
	l.ringing.Wait()
	return errors.Join(l.wakeups.close(), l.ring.kernel.close(l.bell))
}
