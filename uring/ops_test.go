package uring

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPipeMovesFromFileToFileAndSocket(t *testing.T) {
	l := newLoop(t, Options{})
	p, err := l.NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	from, to := scratch(t, l, 0), scratch(t, l, 0)
	want := bytes.Repeat([]byte("eleven thousand kilometres "), 100_000)
	if _, err := from.WriteAt(want, 5); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Move(from.FD(), 5, to.FD(), 7, int64(len(want))); n != int64(len(want)) || err != nil {
		t.Fatalf("moved %d bytes, %v", n, err)
	}
	got := make([]byte, len(want))
	if _, err := to.ReadAt(got, 7); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("other bytes arrived: %v", err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far")
	heard := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(far)
		heard <- all
	}()
	n, err := p.Move(from.FD(), 5, fds[0], -1, int64(len(want))+10)
	if n != int64(len(want)) || !errors.Is(err, io.EOF) {
		t.Errorf("moved %d bytes beyond the end, %v", n, err)
	}
	unix.Close(fds[0])
	if !bytes.Equal(<-heard, want) {
		t.Error("other bytes arrived at the socket")
	}
	far.Close()
}

func TestDoTimeoutEndsWhatTakesTooLongAndNothingElse(t *testing.T) {
	l := newLoop(t, Options{})
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	buf := make([]byte, 1)
	var e SQE
	e.PrepRead(p[0], buf, 0)
	if _, err := l.DoTimeout(time.Millisecond, e, buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing to read: %v", err)
	}
	if _, err := unix.Write(p[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := l.DoTimeout(time.Minute, e, buf); n != 1 || err != nil {
		t.Errorf("something to read: %d, %v", n, err)
	}
}

func TestTimersPassInOrderAndCancelledOnesDoNot(t *testing.T) {
	l := newLoop(t, Options{})
	passed := make(chan int, 3)
	if err := l.Post(func() {
		l.After(20*time.Millisecond, func() { passed <- 2 })
		l.After(time.Millisecond, func() { passed <- 1 })
		l.Cancel(l.After(5*time.Millisecond, func() { passed <- 0 }))
		l.After(time.Hour, func() { passed <- 3 }) // Close does not wait for it
	}); err != nil {
		t.Fatal(err)
	}
	if a, b := <-passed, <-passed; a != 1 || b != 2 {
		t.Errorf("passed %d, %d", a, b)
	}
}

func TestRegisteredFilesCanBeReplaced(t *testing.T) {
	l := newLoop(t, Options{})
	if err := l.RegisterFiles([]int32{-1, -1}); err != nil {
		t.Fatal(err)
	}
	f := scratch(t, l, 0)
	write := func() (int, error) {
		var e SQE
		p := []byte("abc")
		e.PrepWrite(1, p, 0)
		e.Flags |= FixedFile
		return l.Do(e, p)
	}
	if _, err := write(); !errors.Is(err, unix.EBADF) {
		t.Errorf("an empty place: %v", err)
	}
	if err := l.UpdateFiles(1, []int32{int32(f.FD())}); err != nil {
		t.Fatal(err)
	}
	if n, err := write(); n != 3 || err != nil {
		t.Errorf("a filled place: %d, %v", n, err)
	}
	taken := make(chan error, 1)
	if err := l.Post(func() { taken <- l.SetFile(1, -1) }); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	if _, err := write(); !errors.Is(err, unix.EBADF) {
		t.Errorf("a place emptied on the loop's thread: %v", err)
	}
}

func TestWorkForTheRoundEndRunsOnceAfterTheRoundsCompletions(t *testing.T) {
	l := newLoop(t, Options{})
	said := make(chan string, 1)
	if err := l.Post(func() {
		order := ""
		done := 0
		for range 3 {
			l.Begin(Handler(func(int32, CQEFlags) {
				order += "c"
				if done++; done == 1 {
					l.AtRoundEnd(func() { said <- order })
				}
			})).PrepNop()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got := <-said; got != "ccc" {
		t.Errorf("at the end of the round %q had happened", got)
	}
}

func TestWorkersAreLimited(t *testing.T) {
	l := newLoop(t, Options{WorkersBounded: 1, WorkersUnbounded: 1})
	f := scratch(t, l, 0)
	if err := f.WriteSync([]byte("abc"), 0); err != nil { // the sync is a worker's
		t.Error(err)
	}
	if _, err := NewLoop(Options{WorkersBounded: 1 << 31}); err == nil {
		t.Error("two thousand million workers were granted")
	}
}

func TestClosedFileRefuses(t *testing.T) {
	l := newLoop(t, Options{})
	f := scratch(t, l, 0)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, rerr := f.ReadAt(make([]byte, 1), 0)
	_, werr := f.WriteAt(make([]byte, 1), 0)
	for _, err := range []error{rerr, werr, f.Sync(), f.WriteSync([]byte("x"), 0), f.Discard(0, 1)} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAcceptRestsWithoutDescriptorsAndGoesOn(t *testing.T) {
	f := newFake(1)
	var accepts int
	f.begin = func(e SQE) (int32, bool) {
		switch e.Opcode {
		case OpAccept:
			if accepts++; accepts == 1 {
				return -int32(unix.EMFILE), false
			}
		case OpTimeout, OpNop:
		default:
			return 0, false
		}
		return 0, true
	}
	l := fakeLoop(t, f, Options{})
	a := &acceptor{loop: l, fd: 77, welcome: func() bool { return true }, got: func(int) { t.Error("a connection came from nowhere") }}
	if err := l.Post(a.arm); err != nil {
		t.Fatal(err)
	}
	stages := func() (timers, pending int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range f.pending {
			switch e.Opcode {
			case OpTimeout:
				timers++
			case OpAccept:
				pending++
			default:
			}
		}
		return timers, pending
	}
	for timers, pending := stages(); timers != 1; timers, pending = stages() {
		runtime.Gosched()
		if pending > 0 {
			t.Fatal("asked again at once")
		}
	}
	f.finishTimers()
	for _, pending := stages(); pending != 1; _, pending = stages() {
		runtime.Gosched()
	}
	if err := l.Post(func() { a.close(func() {}) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	f.verdict(t)
}
