package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/godwit-cloud/godwit/test/bench/proc"
)

// server is a contender's process. It ends when its input does.
type server struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	address string // "IP:port/pid"
}

// startServers starts a server of each kind, the Java ones compiled first.
func (b *bench) startServers() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	classes, err := os.MkdirTemp("", "godwit-echo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(classes) // Java has loaded them when it says its address
	b.servers = map[string]*server{}
	compiled := false
	for _, kind := range b.kinds {
		command := []string{self, "-serve", kind, "-single=" + strconv.FormatBool(b.single)}
		if _, isJava := javaMains[kind]; isJava {
			if !compiled {
				if err := compileJava(classes); err != nil {
					return err
				}
				compiled = true
			}
			command = javaCommand(kind, classes)
		}
		if b.servers[kind], err = startServer(b.serverCPU, command); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

func startServer(cpu int, command []string) (*server, error) {
	cmd := exec.Command("taskset", append([]string{"-c", strconv.Itoa(cpu)}, command...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, stdin: stdin}
	if _, err := fmt.Fscanln(stdout, &s.address); err != nil {
		return nil, errors.Join(fmt.Errorf("no address: %w", err), s.stop())
	}
	return s, nil
}

func (s *server) stop() error { return errors.Join(s.stdin.Close(), s.cmd.Wait()) }

func (b *bench) stopServers() error {
	var errs []error
	for kind, s := range b.servers {
		if s == nil {
			continue
		}
		if err := s.stop(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kind, err))
		}
	}
	return errors.Join(errs...)
}

// turn lets a client loose on a server, and reads what it says.
func (b *bench) turn(kind string, conns, size int, span time.Duration) (Run, error) {
	self, err := os.Executable()
	if err != nil {
		return Run{}, err
	}
	client := exec.Command("taskset", "-c", strconv.Itoa(b.clientCPU), self, "-client", b.servers[kind].address, "-conns", strconv.Itoa(conns),
		"-sizes", strconv.Itoa(size), "-span", span.String())
	client.Stderr = os.Stderr
	client.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := client.Output()
	if err != nil {
		return Run{}, err
	}
	var trips, cpuMicros, spanMicros, medianMicros, p99Micros float64
	if _, err := fmt.Sscan(string(out), &trips, &spanMicros, &cpuMicros, &medianMicros, &p99Micros); err != nil {
		return Run{}, fmt.Errorf("client said %q: %w", out, err)
	}
	rss, err := proc.RSS(b.servers[kind].cmd.Process.Pid) // taskset executes in place
	return Run{PerSecond: trips / spanMicros * 1e6, CPUMicros: cpuMicros / trips, MedianMicros: medianMicros, P99Micros: p99Micros, RSSMB: rss}, err
}
