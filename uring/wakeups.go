package uring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// wakeups brings completed requests to the goroutines that wait for them.
//
// The loop's thread could send on each goroutine's channel itself. But a goroutine made runnable there stands in the queue of a
// processor whose thread is about to wait in the kernel, and another thread has to be started to steal it from there: tens of
// microseconds. So the loop collects a round's completions and rings one eventfd, which Go's network poller watches anyway; the goroutine
// that reads it makes the others runnable on its own thread, where they run next (decision 10).
type wakeups struct {
	round []waiter // the loop's: whose wait ended in this round

	mu    sync.Mutex
	ready []waiter
	idle  atomic.Bool // the waking goroutine waits, or is about to

	bell  *os.File // an eventfd on the poller
	fd    int
	ended chan struct{}
}

// waiter has a goroutine that waits. wake does not block.
type waiter interface{ wake() }

func newWakeups() (*wakeups, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("loop: eventfd: %w", err)
	}
	w := &wakeups{bell: os.NewFile(uintptr(fd), "wakeups"), fd: fd, ended: make(chan struct{})}
	go w.run()
	return w, nil
}

// add notes whose wait has ended. On the loop's thread.
func (w *wakeups) add(op waiter) { w.round = append(w.round, op) }

// wake hands the round's waiters over. On the loop's thread.
func (w *wakeups) wake() {
	if len(w.round) == 0 {
		return
	}
	w.mu.Lock()
	w.ready = append(w.ready, w.round...)
	w.mu.Unlock()
	clear(w.round)
	w.round = w.round[:0]
	if w.idle.CompareAndSwap(true, false) {
		if err := (linux{}).ring(w.fd); err != nil {
			panic(fmt.Sprintf("uring: the waking eventfd: %v", err))
		}
	}
}

// run is the waking goroutine.
func (w *wakeups) run() {
	defer close(w.ended)
	var tick [8]byte
	var batch []waiter
	for {
		if batch = w.take(batch); len(batch) > 0 {
			wakeAll(batch)
			continue
		}
		// Announce, look again, wait: as in Loop.mayPark.
		w.idle.Store(true)
		if batch = w.take(batch); len(batch) > 0 {
			w.idle.Store(false)
			wakeAll(batch)
			continue
		}
		if _, err := w.bell.Read(tick[:]); err != nil {
			if !errors.Is(err, os.ErrClosed) {
				panic(fmt.Sprintf("uring: the waking eventfd: %v", err))
			}
			wakeAll(w.take(batch)) // the last ones
			return
		}
	}
}

// take exchanges the list of those who are ready for an empty one.
func (w *wakeups) take(empty []waiter) []waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	ready := w.ready
	w.ready = empty[:0]
	return ready
}

func wakeAll(batch []waiter) {
	for i, one := range batch {
		batch[i] = nil
		one.wake()
	}
}

// close ends the waking goroutine, after the loop's thread has ended.
func (w *wakeups) close() error {
	err := w.bell.Close()
	<-w.ended
	return err
}
