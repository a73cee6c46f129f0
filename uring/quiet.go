package uring

import (
	"os"
	"strings"
)

// Quiet waits (Options.QuietWaits).
//
// A wait that is told to Go's scheduler costs more than its system call: after 20 us the scheduler's watchdog takes the processor away and
// starts a thread for it, the loop has to find another when it comes back, and the watchdog, having had something to do, looks again 20 us
// later. With some 20,000 waits a second that was an eighth of all the time a server used.
//
// A quiet wait keeps the processor: for the scheduler, the loop's goroutine is running. Nothing else runs on that processor, so the program wants
// one more of them for each such loop. Who stops the world must still get through: the scheduler asks a running goroutine to yield by a
// signal, the signal ends the wait with EINTR, and on the way to the next wait the goroutine yields. The watchdog sends the same signal
// to goroutines that have run for 10 ms; so a wait that ends with EINTR is taken for a long one, and what is left of it is told to
// the scheduler. An idle loop thus holds no processor and is woken by nobody.

// preemptible reports whether running goroutines are asked to yield by a signal: without it a quiet wait could hold up the whole program.
func preemptible() bool { return !strings.Contains(os.Getenv("GODEBUG"), "asyncpreemptoff=1") }
