package uring

import (
	"fmt"
	"time"
)

// Spinning (Options.Spin).
//
// A thread that sleeps in the kernel is woken by whoever completes its request, which costs both sides an interrupt of another processor and
// a switch: half of all that a server with one request at a time uses. When the next request comes soon, looking for it is both faster
// and cheaper than sleeping. So a loop that has nothing to do first asks the kernel over and over, for no longer than a sleep costs.
//
// A spin in vain is followed by waits that go straight to sleep: one at first, twice as many each time, half as many again after a spin that
// found something. While most gaps are short, a long one now and then (the peer's processor was taken away) thus costs one spin and
// hardly a sleep; while most are long, the rests grow to spinRest. A loop that is idle does not spin.

// spinRest bounds the waits that go straight to sleep after a spin in vain: at most a sixty-fourth of all gaps is wasted on when none is short.
const spinRest = 64

// spinner decides whether to spin.
type spinner struct {
	limit time.Duration // of one wait; 0: never
	pause int           // length of the last rest, halved by each spin that was not in vain
	rest  int           // waits left that go straight to sleep
}

// due reports whether to spin before this wait.
func (s *spinner) due() bool {
	if s.limit == 0 {
		return false // of what use a spin were, a wait without one does not tell
	}
	if s.rest > 0 {
		s.rest--
		return false
	}
	return true
}

// ended takes note of what spinning brought.
func (s *spinner) ended(found bool) {
	if found {
		s.pause /= 2
		return
	}
	s.pause = min(max(2*s.pause, 1), spinRest)
	s.rest = s.pause
}

// Spin changes Options.Spin from the next wait on. On the loop's own thread only.
func (l *Loop) Spin(limit time.Duration) { l.spinner.limit = limit }

// spin submits and looks for completions, and for work from others, until there are any or the limit is reached. It reports whether there are.
// The loop is not parked meanwhile: nobody needs to ring.
func (l *Loop) spin() bool {
	if !l.spinner.due() {
		return false
	}
	found := false
	for begun := time.Now(); !found && time.Since(begun) < l.spinner.limit; {
		if err := l.ring.SubmitAndWait(0); err != nil {
			panic(fmt.Sprintf("uring: the kernel refuses the loop's ring: %v", err))
		}
		found = l.ring.Ready() > 0 || l.called.Load()
	}
	l.spinner.ended(found)
	return found
}
