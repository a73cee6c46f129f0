package uring

import (
	"os"
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
	f := &File{loop: l, os: os.NewFile(uintptr(p[0]), "pipe"), fd: p[0]}
	defer f.os.Close()
	got := make(chan byte)
	before := l.Stats().Submitted
	go func() {
		deep(4000)
		buf := make([]byte, 4) // nothing here makes it escape
		if _, err := f.ReadAt(buf, 0); err != nil {
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
