package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process names one process for good: its id may be used again, not together with its start time (clock ticks since boot).
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// identify looks up a live process. A zombie is not alive.
func identify(pid int) (process, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	// The command name, in parentheses, may hold anything; the fields after it do not.
	_, rest, ok := strings.Cut(string(raw[bytes.LastIndexByte(raw, ')'):]), ") ")
	fields := strings.Fields(rest)
	const stateField, startField = 0, 19 // fields 3 and 22 of proc(5)
	if !ok || len(fields) <= startField || fields[stateField] == "Z" {
		return process{}, false
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	return process{PID: pid, Start: start}, err == nil
}

func (p process) alive() bool {
	now, ok := identify(p.PID)
	return ok && now == p
}

// killWait bounds how long a killed node may take to die: the kernel has to end all its processes, QEMU's memory included.
const killWait = 30 * time.Second

// kill ends the process with SIGKILL and waits until it is dead. For process 1 of a node that means all of the node is.
func (p process) kill(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.alive() { // the handle is ours now, so this check cannot be overtaken
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: kill: %w", p.PID, err)
	}
	deadline := time.Now().Add(killWait)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		const slice = 200 // milliseconds between looks at ctx
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, slice)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("process %d: wait: %w", p.PID, err)
		}
		if n == 1 {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("process %d: still there %v after SIGKILL", p.PID, killWait)
}

// readPID returns the recorded process 1 of a node if it is alive.
func readPID(name, node string) (process, bool) {
	raw, err := os.ReadFile(pidFile(name, node))
	if err != nil {
		return process{}, false
	}
	var p process
	if _, err := fmt.Sscanf(string(raw), "%d %d", &p.PID, &p.Start); err != nil {
		return process{}, false
	}
	return p, p.alive()
}

func writePID(name, node string, p process) error {
	return os.WriteFile(pidFile(name, node), fmt.Appendf(nil, "%d %d\n", p.PID, p.Start), 0o600)
}

// inits finds every process 1 of the lab's nodes by its command line, recorded or not.
func inits(name string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	mark := []byte("\x00lab\x00init\x00" + runDir(name) + "/")
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(cmdline, mark) {
			continue
		}
		if p, ok := identify(pid); ok {
			found = append(found, p)
		}
	}
	return found, nil
}
