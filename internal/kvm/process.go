package kvm

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

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// pidDir is where the system's libvirtd writes the pid of each domain's QEMU.
const pidDir = "/run/libvirt/qemu"

// AwaitExit returns nil when the process that runs the domain at the moment of the call has ended, for whatever reason; until then it waits for ctx's end.
// KindNotFound: no such process was found. The kernel tells at once. libvirt does not: it waits for the end of a process in steps of 200 ms, and
// answers nothing about the domain meanwhile.
func (c *Conn) AwaitExit(ctx context.Context, id cloud.ServerID) error {
	err := awaitExit(ctx, pidDir, DomainName(id))
	if err != nil && ctx.Err() == nil {
		return wrap("await exit", id, err)
	}
	return err
}

func awaitExit(ctx context.Context, dir, name string) error {
	process, err := openProcess(dir, name)
	if err != nil {
		return err
	}
	defer process.Close()
	raw, err := process.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { process.SetReadDeadline(time.Unix(1, 0)) }) // an error would mean that it is closed: then nobody waits
	defer stop()
	var failed error
	err = raw.Read(func(fd uintptr) bool { // called when the process may have ended
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			failed = err
		}
		return n > 0 || failed != nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(failed, err)
}

// openProcess opens a pidfd of the domain's QEMU. The descriptor is opened first and the process looked at after, so that a pid which was given to
// another process is found out.
func openProcess(dir, name string) (*os.File, error) {
	text, err := os.ReadFile(filepath.Join(dir, name+".pid"))
	if err != nil {
		return nil, noProcess(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, noProcess(err)
	}
	process := os.NewFile(uintptr(fd), name)
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && !bytes.Contains(command, []byte("guest="+name)) {
		err = fmt.Errorf("process %d is another one", pid)
	}
	if err != nil {
		process.Close()
		return nil, noProcess(err)
	}
	return process, nil
}

func noProcess(err error) error { return cloud.E(cloud.KindNotFound, "", "process", err) }
