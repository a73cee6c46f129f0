package nodeinit

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nodeEnv is the environment every unit starts with; the maker's own environment does not leak into a node.
var nodeEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"LANG=C.UTF-8",
}

// listenShim sets LISTEN_PID, which must be the pid of the process that uses the sockets and so cannot be known before the fork.
const listenShim = `LISTEN_PID=$$ exec "$@"`

// start makes the unit's process. Only the supervisor's goroutine calls it.
func (u *unit) start(listeners []*os.File) error {
	argv := u.Argv
	cmd := &exec.Cmd{Env: append(append([]string{}, nodeEnv...), u.Env...), Dir: "/", Stdout: u.logFile, Stderr: u.logFile}
	if u.Sockets && len(listeners) > 0 {
		names := make([]string, len(listeners))
		for i, f := range listeners {
			names[i] = f.Name()
		}
		cmd.ExtraFiles = listeners
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(listeners)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
		argv = append([]string{"/bin/sh", "-c", listenShim, "sh"}, argv...)
	}
	cmd.Path, cmd.Args = argv[0], argv
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	u.pid = cmd.Process.Pid
	u.starts++
	u.since = time.Now()
	// The supervisor reaps by pid; only the handle is given up here.
	return cmd.Process.Release()
}

// exited records that the unit's process has been reaped.
func (u *unit) exited(ws unix.WaitStatus, now time.Time) {
	if now.Sub(u.since) >= settled {
		u.backoff = 0
	}
	deliberate := u.stopping
	u.pid, u.stopping, u.since = 0, false, now
	u.lastExit = describe(ws)
	if deliberate {
		u.due, u.backoff = now, 0
	} else {
		u.retryLater(now)
	}
	for _, f := range u.onExit {
		f()
	}
	u.onExit = nil
}

func (u *unit) retryLater(now time.Time) {
	u.backoff = min(max(2*u.backoff, backoffMin), backoffMax)
	u.due = now.Add(u.backoff)
}

func (u *unit) awaitsFile() bool {
	if u.WaitFor == "" {
		return false
	}
	_, err := os.Stat(u.WaitFor)
	return err != nil
}

func (u *unit) state() UnitState {
	switch {
	case u.pid != 0 && u.stopping:
		return UnitStopping
	case u.pid != 0:
		return UnitRunning
	case !u.wanted:
		return UnitStopped
	case u.awaitsFile():
		return UnitWaiting
	default:
		return UnitBackoff
	}
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + ws.Signal().String()
	}
	return "exit status " + strconv.Itoa(ws.ExitStatus())
}
