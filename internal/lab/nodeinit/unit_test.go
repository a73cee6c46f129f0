package nodeinit

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// status builds a wait status: an exit code, or a signal.
func exitStatus(code int) unix.WaitStatus          { return unix.WaitStatus(code << 8) }
func signalStatus(sig unix.Signal) unix.WaitStatus { return unix.WaitStatus(sig) }

func TestBackoffDoublesUpToItsBoundAndEndsWithALongLife(t *testing.T) {
	now := time.Unix(1000, 0)
	u := &unit{wanted: true, since: now}
	for _, want := range []int{1, 2, 4, 8, 16, 20, 20} {
		u.pid, u.since = 1, now
		u.exited(exitStatus(1), now)
		if got := u.due.Sub(now) / backoffMin; int(got) != want {
			t.Errorf("back-off of %d times the least, want %d", got, want)
		}
	}
	u.pid, u.since = 1, now
	now = now.Add(settled)
	u.exited(signalStatus(unix.SIGKILL), now)
	if got := u.due.Sub(now); got != backoffMin {
		t.Errorf("back-off after a long life %v, want %v", got, backoffMin)
	}
	if u.lastExit != "signal killed" {
		t.Errorf("last exit %q", u.lastExit)
	}
}

func TestUnitStoppedOnPurposeMayStartAgainAtOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	u := &unit{wanted: true, pid: 1, stopping: true, since: now, backoff: backoffMax}
	answered := 0
	u.onExit = append(u.onExit, func() { answered++ })
	u.exited(exitStatus(0), now)
	u.exited(exitStatus(0), now)
	if answered != 1 {
		t.Errorf("the request was answered %d times", answered)
	}
	u = &unit{wanted: true, pid: 1, stopping: true, since: now, backoff: backoffMax}
	u.exited(exitStatus(0), now)
	if u.due.After(now) {
		t.Errorf("waits until %v", u.due)
	}
}

func TestUnitWaitsForItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cert.pem")
	u := &unit{Unit: Unit{WaitFor: file}, wanted: true}
	if u.state() != UnitWaiting {
		t.Errorf("state %s without the file", u.state())
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if u.state() != UnitBackoff {
		t.Errorf("state %s with the file", u.state())
	}
}

func TestListenersReachTheUnitBySocketActivation(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fd, err := unix.Dup(int(raw.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	api := os.NewFile(uintptr(fd), "api")
	defer api.Close()
	log := filepath.Join(t.TempDir(), "log")
	s, err := newSupervisor(Spec{Units: []Unit{{
		Name: "server", Log: log, Sockets: true,
		Argv: []string{"/bin/sh", "-c", `[ "$LISTEN_PID" = $$ ] && [ -S /proc/self/fd/3 ] && echo "$LISTEN_FDS $LISTEN_FDNAMES"`},
	}}}, []*os.File{api}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	u := s.find("server")
	if err := u.start(s.listeners); err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(u.pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(log); err != nil || string(got) != "1 api\n" {
		t.Errorf("the unit saw %q, %v; ended with %s", got, err, describe(ws))
	}
}
