package uring

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel is the part of Linux a Ring uses, so that tests can put a scripted one in its place.
type kernel interface {
	// setup makes a ring and fills in p.
	setup(entries uint32, p *params) (fd int, err error)
	// mmap maps one of the ring's three areas.
	mmap(fd int, offset int64, length int) ([]byte, error)
	// pages returns whole pages of memory of our own, for munmap to give back.
	pages(length int) ([]byte, error)
	munmap(mem []byte) error
	// enter submits and waits. It returns how many entries were consumed. A quiet wait is not told to Go's scheduler.
	enter(fd int, submit, wait, flags uint32, arg unsafe.Pointer, argSize uintptr, quiet bool) (consumed int, err error)
	register(fd int, op uint32, arg unsafe.Pointer, n uint32) (int, error)
	close(fd int) error
	// bell makes an eventfd; ring adds one to it, which completes a read of it.
	bell() (int, error)
	ring(fd int) error
}

// linux is the real kernel.
type linux struct{}

func (linux) setup(entries uint32, p *params) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func (linux) mmap(fd int, offset int64, length int) ([]byte, error) {
	return unix.Mmap(fd, offset, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
}

func (linux) pages(length int) ([]byte, error) {
	return unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func (linux) munmap(mem []byte) error { return unix.Munmap(mem) }

func (linux) enter(fd int, submit, wait, flags uint32, arg unsafe.Pointer, argSize uintptr, quiet bool) (int, error) {
	var n uintptr
	var errno syscall.Errno
	if wait > 0 && !quiet {
		n, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(wait), uintptr(flags), uintptr(arg), argSize)
	} else {
		// Submitting without waiting does not block, so the scheduler need not be told.
		n, _, errno = unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(wait), uintptr(flags), uintptr(arg), argSize)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (linux) register(fd int, op uint32, arg unsafe.Pointer, n uint32) (int, error) {
	res, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), uintptr(op), uintptr(arg), uintptr(n), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(res), nil
}

func (linux) close(fd int) error { return unix.Close(fd) }

func (linux) bell() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }

func (linux) ring(fd int) error {
	one := [8]byte{1}
	for {
		// A write to an eventfd whose counter is small does not block, so the scheduler need not be told.
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), uintptr(len(one)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
