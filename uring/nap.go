package uring

import (
	"fmt"
	"time"
)

// Napping (Loop.Nap).
//
// A loop that waits for the next completion is woken by it. Where many small requests are under way, each of them then wakes the loop, costs a
// switch of threads here and an interrupt of another processor there, and is answered alone; the peer, who has many more to wait for, gains
// nothing by it. A loop that naps instead lets what comes gather for a while: the requests are received together, and their answers leave
// together. It is what network cards do when they hold back interrupts.

// napCompletions is how many completions end a nap early. A stream socket's arrivals are one completion, however many they are, so it is the time
// that ends a nap as a rule.
const napCompletions = 64

// Nap has the loop let completions gather for d before each wait, from the next one on; 0: it wakes for the first. Posted functions, too, wait so long. It is for
// moments when more is about to come than what is waited for: a nap that brings nothing is the last one until Nap is called again. On the loop's own thread only.
func (l *Loop) Nap(d time.Duration) { l.nap = d }

// doze naps if the loop is asked to, and reports whether it has.
func (l *Loop) doze() bool {
	if l.nap == 0 || l.ring.features&FeatExtArg == 0 || l.ring.Ready() > 0 {
		return false
	}
	if err := l.ring.SubmitAndWaitTimeout(napCompletions, l.nap); err != nil {
		panic(fmt.Sprintf("uring: the kernel refuses the loop's ring: %v", err))
	}
	if l.ring.Ready() == 0 {
		l.nap = 0
	}
	return true
}
