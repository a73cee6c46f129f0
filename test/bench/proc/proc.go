// Package proc reads what a process has used, from outside and without its help. The figures are those of one moment: whoever compares two
// of them owns the question of what the process did in between.
package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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

// RSS is the resident memory of a process in MB of 10^6 bytes.
func RSS(pid int) (float64, error) { return status(pid, "VmRSS") }

// PeakRSS is the most resident memory a process has had since it began to run its program, in MB of 10^6 bytes. What the kernel tells of a process that
// has ended (ru_maxrss) is of no use: it counts what the process was that started it.
func PeakRSS(pid int) (float64, error) { return status(pid, "VmHWM") }

func status(pid int, key string) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parse(string(raw), key)
}

// ParseRSS reads VmRSS of a /proc/PID/status, in MB of 10^6 bytes.
func ParseRSS(status string) (float64, error) { return parse(status, "VmRSS") }

func parse(status, key string) (float64, error) {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("no %s in %q", key, status)
}
