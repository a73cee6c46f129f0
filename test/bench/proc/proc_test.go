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

func TestResidentMemoryIsThatOfTheProcess(t *testing.T) {
	before, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const more = 64 << 20
	memory := make([]byte, more)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	after, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := (after - before) * 1e6; grown < more*3/4 {
		t.Errorf("%d bytes more, and the figure grew by %.0f", more, grown)
	}
	runtime.KeepAlive(memory)
	if peak, err := PeakRSS(os.Getpid()); err != nil || peak < after {
		t.Errorf("the most was %v MB (%v), and it is %v now", peak, err, after)
	}
}

func TestAStatusWithoutResidentMemoryIsAnError(t *testing.T) {
	if v, err := ParseRSS("Name:\tkworker\nVmRSS:\t12 MB of them\n"); err == nil {
		t.Errorf("got %v", v)
	}
	if v, err := ParseRSS("Name:\tkworker\n"); err == nil {
		t.Errorf("got %v", v)
	}
	if v, err := ParseRSS("VmHWM:\t   99 kB\nVmRSS:\t   1000 kB\n"); err != nil || v != 1.024 {
		t.Errorf("got %v, %v", v, err)
	}
}
