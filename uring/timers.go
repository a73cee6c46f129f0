package uring

import (
	"time"

	"golang.org/x/sys/unix"
)

// After calls f on the loop's thread when d has passed; see Cancel for the token. f is not called if the timer is cancelled or the loop
// is closed before. On the loop's own thread only.
func (l *Loop) After(d time.Duration, f func()) (token uint64) {
	if l.closing.Load() {
		return ignoredToken
	}
	t := &timer{f: f}
	t.spec.Set(d)
	e := l.Begin(t)
	e.PrepTimeout(&t.spec, 0)
	return e.UserData
}

type timer struct {
	spec Timespec
	f    func()
}

// Complete takes the end of the time (ETIME) or the cancel.
func (t *timer) Complete(res int32, _ CQEFlags) {
	if unix.Errno(-res) == unix.ETIME {
		t.f()
	}
}

// cancelTimers ends all timers; the loop is closing.
func (l *Loop) cancelTimers() {
	for i := range l.slots.all {
		if _, ok := l.slots.all[i].owner.(*timer); ok {
			l.Cancel(l.slots.token(uint32(i)))
		}
	}
}
