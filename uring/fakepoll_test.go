package uring

import (
	"runtime"
	"slices"
	"sync/atomic"
)

// fakePoller is the kernel's thread of a ring with SetupSQPoll: it takes entries by itself, and sleeps now and then.
type fakePoller struct {
	asleep bool
	slept  int
}

// fakeIdleRounds is how often the thread finds nothing before it sleeps.
const fakeIdleRounds = 3

func (f *fake) startPoller() {
	f.poller = &fakePoller{}
	go f.poll()
}

// poll is the thread. It ends when the ring is closed.
func (f *fake) poll() {
	for idle := 0; ; {
		f.mu.Lock()
		for f.poller.asleep && !f.closed {
			f.changed.Wait()
		}
		if f.closed {
			f.mu.Unlock()
			return
		}
		if n := f.takePolled(); n > 0 {
			idle = 0
		} else if idle++; idle > fakeIdleRounds {
			// As the real one does: say so first, then look again, because who saw no need to wake it has published its entries before.
			f.poller.asleep = true
			f.post()
			if f.takePolled() > 0 {
				f.poller.asleep = false
				f.post()
			} else {
				f.poller.slept++
			}
			idle = 0
		}
		f.mu.Unlock()
		runtime.Gosched()
	}
}

// takePolled takes some of the entries that were published, whole chains.
func (f *fake) takePolled() int {
	head, tail := *f.word(0), atomic.LoadUint32(f.word(1))
	n := 0
	for head != tail && (n == 0 || len(f.chains.open) > 0 || f.random.IntN(4) > 0) {
		f.take(head & (f.params.SQEntries - 1))
		head++
		n++
	}
	f.endChain()
	if n > 0 {
		atomic.StoreUint32(f.word(0), head)
		f.post()
		f.changed.Broadcast()
	}
	return n
}

// enterPolled is enter of a ring with a thread: it wakes the thread and waits, and submits nothing itself.
func (f *fake) enterPolled(submit, wait, flags uint32) (int, error) {
	if flags&enterSQWakeup != 0 && f.poller.asleep {
		f.poller.asleep = false
		f.changed.Broadcast()
	}
	full := func() bool { return atomic.LoadUint32(f.word(1))-*f.word(0) == f.params.SQEntries }
	for flags&enterSQWait != 0 && full() {
		f.awaitPoller("waits for room")
	}
	if flags&enterGetEvents != 0 {
		f.post()
		for f.available() < wait {
			if len(f.ready) > 0 || f.rings() {
				f.progress()
			} else {
				f.awaitPoller("waits for completions")
			}
			f.post()
		}
	}
	return int(submit), nil
}

// awaitPoller waits for something to happen. Nobody may wait for a thread that sleeps and has entries to take.
func (f *fake) awaitPoller(what string) {
	if f.poller.asleep && atomic.LoadUint32(f.word(1)) != *f.word(0) {
		f.breach("the program %s of a thread that sleeps and was not woken", what)
		f.poller.asleep = false
		f.changed.Broadcast()
	}
	f.changed.Wait()
}

// rings reports whether the bell rang for somebody. With a thread, the request that listens may not have been taken yet.
func (f *fake) rings() bool {
	return f.rung > 0 && slices.ContainsFunc(f.pending, func(e SQE) bool { return e.UserData == bellToken })
}
