// Package proc reads what a process has used, from outside and without its help. The figures are those of one moment: whoever compares two
// of them owns the question of what the process did in between.
package proc

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime is the processor time, user and system, of all threads a process has had, those that have ended and the kernel's io_uring workers
// included. It is the process's CPU clock: what /proc/PID/stat shows in hundredths of a second, in nanoseconds.
func CPUTime(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h, for a whole process
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
