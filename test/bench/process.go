package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godwit-cloud/godwit/test/bench/proc"
)

// Servers have a core to themselves and so has the client: what one costs is not mixed with what the other does.
const (
	serverCore = 0
	clientCore = 1
)

// program finds what a Debian package installs; the error names the package.
func program(name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is missing: apt-get install %s (scripts/install-bench-deps.sh does)", name, pkg)
	}
	return path, nil
}

// pinned is a command that will run on one core. The kernel ends it when this program dies, however that happens.
func pinned(ctx context.Context, core int, command ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", strconv.Itoa(core)}, command...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// process is a server that is measured from outside. One goroutine waits for its end; stop waits for that goroutine.
type process struct {
	cmd   *exec.Cmd
	said  tail
	ended chan struct{}
	err   error // valid once ended is closed
}

// launch starts a server on the servers' core. It stays in the foreground, so its process id is the command's own (taskset executes in
// place).
func launch(ctx context.Context, command ...string) (*process, error) {
	p := &process{cmd: pinned(ctx, serverCore, command...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startTimeout bounds how long a server may take until it listens; stopTimeout how long it may take to end when asked to.
const (
	startTimeout = 20 * time.Second
	stopTimeout  = 5 * time.Second
	startPoll    = 20 * time.Millisecond
)

// await polls until ready says yes; a server that ends before is an error with its last words.
func (p *process) await(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for !ready() {
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended at once (%w): %s", p, p.err, p.said.String())
		case <-ctx.Done():
			return fmt.Errorf("%s does not get ready: %w: %s", p, ctx.Err(), p.said.String())
		case <-tick.C:
		}
	}
	return nil
}

func (p *process) String() string { return strings.Join(p.cmd.Args[3:], " ") }

// cpu is the processor time of the process since its start.
func (p *process) cpu() (time.Duration, error) { return proc.CPUTime(p.cmd.Process.Pid) }

// rss is the resident memory in MB of 10^6 bytes.
func (p *process) rss() (float64, error) { return proc.RSS(p.cmd.Process.Pid) }

// stop ends the server and waits for it.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	return nil
}

// tail keeps the last words of a process.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = t.text[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}

// loadAverage is the kernel's one-minute figure.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}

// run runs a program to its end; an error has its output.
func run(ctx context.Context, command ...string) (string, error) {
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}
