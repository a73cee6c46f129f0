package uring

import (
	"testing"
	"time"
)

func TestANappingLoopOverlooksNothing(t *testing.T) {
	play(t, Options{}, func(l *Loop) { l.Nap(50 * time.Microsecond) })
}

func TestALoopThatNapsInVainStopsNapping(t *testing.T) {
	const rounds = 1000 // of which a late ring of the bell may spoil one or two
	l := newLoop(t, Options{})
	first := true
	for range rounds {
		left := make(chan time.Duration)
		if err := l.Post(func() {
			if first {
				first = false
				l.Nap(time.Microsecond)
			}
			left <- l.nap
		}); err != nil {
			t.Fatal(err)
		}
		if <-left == 0 {
			return
		}
	}
	t.Error("it naps on and on, and nothing comes")
}
