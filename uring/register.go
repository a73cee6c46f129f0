package uring

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RegisterBuffers tells the kernel memory that PrepReadFixed and PrepWriteFixed will use, by index, so that it need not pin the pages for
// every request. It replaces none: register once.
func (l *Loop) RegisterBuffers(buffers [][]byte) error {
	iovecs := make([]unix.Iovec, len(buffers))
	for i, b := range buffers {
		iovecs[i].Base = unsafe.SliceData(b)
		iovecs[i].SetLen(len(b))
	}
	return l.register(registerBuffers, unsafe.Pointer(unsafe.SliceData(iovecs)), len(iovecs), iovecs)
}

// RegisterFiles tells the kernel descriptors that entries name by index with FixedFile; -1 leaves a place for UpdateFiles. The kernel
// keeps the files open until they are replaced or the loop ends.
func (l *Loop) RegisterFiles(fds []int32) error {
	return l.register(registerFiles, unsafe.Pointer(unsafe.SliceData(fds)), len(fds), fds)
}

// UpdateFiles replaces registered files from index first on; -1 takes one away.
func (l *Loop) UpdateFiles(first int, fds []int32) error {
	u := &filesUpdate{Offset: uint32(first), FDs: address(unsafe.Pointer(unsafe.SliceData(fds)))}
	err := l.register(registerFilesUpdate, unsafe.Pointer(u), len(fds), u)
	runtime.KeepAlive(fds)
	return err
}

// SetFile replaces one registered file at once; -1 takes it away. Requests under way keep what they began with. On the loop's own thread
// only: in a Completer, in a Session, in a function given to Post.
func (l *Loop) SetFile(index int, fd int32) error {
	fds := &[1]int32{fd}
	u := &filesUpdate{Offset: uint32(index), FDs: address(unsafe.Pointer(fds))}
	_, err := l.ring.kernel.register(l.ring.fd, registerFilesUpdate, unsafe.Pointer(u), 1)
	runtime.KeepAlive(fds)
	if err != nil {
		return fmt.Errorf("loop: register file: %w", err)
	}
	return nil
}

// register runs on the loop's thread: a single issuer registers too.
func (l *Loop) register(op uint32, arg unsafe.Pointer, n int, keep any) error {
	result := make(chan error, 1)
	err := l.Post(func() {
		_, err := l.ring.kernel.register(l.ring.fd, op, arg, uint32(n))
		result <- err
	})
	if err != nil {
		return err
	}
	err = <-result
	runtime.KeepAlive(keep)
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("loop: register: no memory may be locked; raise RLIMIT_MEMLOCK: %w", err)
	}
	return err
}
