package kvm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// startProcess runs a process that looks like the QEMU of the domain `name` until its standard input is closed, and writes its pid file.
func startProcess(t *testing.T, dir, name, guest string) (end func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read line", "guest="+guest+",debug-threads=on")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	end = func() {
		in.Close()
		cmd.Wait() // it ends with status 1, for there was no line
	}
	t.Cleanup(end)
	return end
}

func TestTheEndOfAProcessIsToldWhenItComesAndNotBefore(t *testing.T) {
	dir := t.TempDir()
	end := startProcess(t, dir, "instance-x", "instance-x")
	early, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := awaitExit(early, dir, "instance-x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while it ran: %v", err)
	}
	told := make(chan error, 1)
	go func() { told <- awaitExit(t.Context(), dir, "instance-x") }()
	end()
	if err := <-told; err != nil && !cloud.Is(err, cloud.KindNotFound) { // not found: it ended before it was looked for
		t.Errorf("after its end: %v", err)
	}
	if err := awaitExit(t.Context(), dir, "instance-x"); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("long after its end: %v", err)
	}
}

func TestAProcessThatIsNotTheDomainsIsNotAwaited(t *testing.T) {
	dir := t.TempDir()
	startProcess(t, dir, "instance-x", "instance-y")
	for _, name := range []string{"instance-x", "instance-without-pid-file"} {
		if err := awaitExit(t.Context(), dir, name); !cloud.Is(err, cloud.KindNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
