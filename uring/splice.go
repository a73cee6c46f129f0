package uring

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Pipe moves data between descriptors inside the kernel: file to socket, socket to file, file to file. It is a pipe of which both ends are
// the program's own. One goroutine uses it at a time.
type Pipe struct {
	loop        *Loop
	read, write int
	room        int // bytes it holds
}

// pipeBytes is asked of the kernel for a pipe; it is the most an unprivileged program gets.
const pipeBytes = 1 << 20

// NewPipe makes a pipe.
func (l *Loop) NewPipe() (*Pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	room, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeBytes)
	if err != nil {
		// The limit of all pipes of the user is reached; a smaller one works as well.
		room, err = unix.FcntlInt(uintptr(fds[1]), unix.F_GETPIPE_SZ, 0)
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return &Pipe{loop: l, read: fds[0], write: fds[1], room: room}, nil
}

// Move moves n bytes from one descriptor to another without copying them through the program's memory. Offsets are -1 for descriptors that
// have none, such as sockets. It returns how many bytes arrived; fewer than n only with an error, io.EOF if the source ended. After another
// error the pipe may hold bytes on their way, and is good for nothing but Close.
func (p *Pipe) Move(from int, fromOff int64, to int, toOff int64, n int64) (moved int64, err error) {
	for moved < n {
		taken, err := p.splice(from, advance(fromOff, moved), p.write, -1, min(n-moved, int64(p.room)))
		if err != nil {
			return moved, fmt.Errorf("splice from: %w", err)
		}
		if taken == 0 {
			return moved, io.EOF
		}
		for given := int64(0); given < taken; {
			k, err := p.splice(p.read, -1, to, advance(toOff, moved), taken-given)
			if err != nil {
				return moved, fmt.Errorf("splice to: %w", err)
			}
			given += k
			moved += k
		}
	}
	return moved, nil
}

func advance(off, by int64) int64 {
	if off < 0 {
		return off
	}
	return off + by
}

func (p *Pipe) splice(in int, inOff int64, out int, outOff, n int64) (int64, error) {
	var e SQE
	e.PrepSplice(in, inOff, out, outOff, uint32(n), 0)
	k, err := p.loop.Do(e)
	return int64(k), err
}

// Close closes both ends.
func (p *Pipe) Close() error { return errors.Join(unix.Close(p.read), unix.Close(p.write)) }
