package proc

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCPUTimeCountsThreadsThatHaveEnded(t *testing.T) {
	before, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const burnt = 50 * time.Millisecond
	done := make(chan error)
	go func() {
		runtime.LockOSThread()      // and never unlocked: the thread ends with the goroutine
		var start, ts unix.Timespec // the thread may be an old one, which had used some before
		err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &start)
		for err == nil && ts.Nano()-start.Nano() <= int64(burnt) {
			err = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	after, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got := after - before; got < burnt {
		t.Errorf("%v counted of %v", got, burnt)
	}
}

func TestCPUTimeOfNobodyIsAnError(t *testing.T) {
	const nobody = 1 << 22 // above the largest process id the kernel gives
	if _, err := CPUTime(nobody + 1); err == nil {
		t.Error("a process that cannot exist has a CPU clock")
	}
}
