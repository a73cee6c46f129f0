package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stdio connects a command run in a node. Nil fields mean /dev/null.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs a command within a node's namespaces and returns when it ends. Its exit status is in the *exec.ExitError. When ctx ends the
// command is killed.
func (l *Lab) Exec(ctx context.Context, node string, argv []string, stdio Stdio) error {
	cmd, err := l.Command(ctx, node, argv)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	if in, ok := stdio.In.(*os.File); ok && isTerminal(in) {
		// A terminal's interrupt key reaches the foreground process group only.
		cmd.SysProcAttr, cmd.Cancel = nil, nil
	}
	return cmd.Run()
}

// Output runs a command within a node and returns what it printed. On failure the error quotes its stderr.
func (l *Lab) Output(ctx context.Context, node string, argv ...string) (string, error) {
	var out, errOut bytes.Buffer
	if err := l.Exec(ctx, node, argv, Stdio{Out: &out, Err: &errOut}); err != nil {
		return out.String(), fmt.Errorf("node %s: %s: %w: %s", node, strings.Join(argv, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Command prepares a command within a node's namespaces; the caller connects and runs it.
func (l *Lab) Command(ctx context.Context, node string, argv []string) (*exec.Cmd, error) {
	if len(argv) == 0 {
		return nil, errors.New("lab exec: no command")
	}
	if err := l.checkAnyNode(node); err != nil {
		return nil, err
	}
	p, on := readPID(l.Name, node)
	if !on {
		return nil, fmt.Errorf("node %s: %w", node, ErrPoweredOff)
	}
	enter := []string{"--target", strconv.Itoa(p.PID), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"}
	cmd := exec.CommandContext(ctx, "/usr/bin/nsenter", append(enter, argv...)...)
	// The command is a child of nsenter, so both are ended as a group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second // grandchildren may hold the pipes
	return cmd, nil
}

// checkAnyNode accepts the switch and peers too.
func (l *Lab) checkAnyNode(node string) error {
	if node == Switch || peerName.MatchString(node) {
		return nil // whether it is there, its pid file tells
	}
	return l.checkNode(node)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
