package uring

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// deep makes the goroutine's stack large, so that the next garbage collection has something to shrink.
func deep(n int) int {
	var pad [256]byte
	if n == 0 {
		return int(pad[0])
	}
	return deep(n-1) + int(pad[n%256])
}

func TestABufferThatWouldLiveOnTheStackDoesNotMoveUnderTheKernel(t *testing.T) {
	l := newLoop(t, Options{})
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[1])
	defer unix.Close(p[0])
	got := make(chan byte)
	before := l.Stats().Submitted
	go func() {
		deep(4000)
		buf := make([]byte, 4) // nothing here makes it escape
		var e SQE
		e.PrepRead(p[0], buf, 0)
		if _, err := l.Do(e, buf); err != nil {
			t.Error(err)
		}
		got <- buf[3]
	}()
	for l.Stats().Submitted == before { // until the kernel has the address
		runtime.Gosched()
	}
	for range 5 {
		runtime.GC() // shrinks, and so moves, the stack of a goroutine that waits
	}
	if _, err := unix.Write(p[1], []byte("abcd")); err != nil {
		t.Fatal(err)
	}
	if b := <-got; b != 'd' {
		t.Errorf("the kernel wrote elsewhere: got %q", b)
	}
}
