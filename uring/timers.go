package uring

import (
	"time"

	"golang.org/x/sys/unix"
)

// After calls f on the loop's thread when d has passed; see Cancel for the token. A cancelled timer's f is not called. On the loop's own
// thread only.
func (l *Loop) After(d time.Duration, f func()) (token uint64) {
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
