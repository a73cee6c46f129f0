// Package uring is io_uring for Go: asynchronous file and socket I/O through a pair of queues shared with the kernel.
//
// # Layers
//
//	Ring          the two queues: fill entries, submit, wait, take completions. One goroutine; no allocation, no lock.
//	Loop          a ring that many goroutines share; owned by one goroutine, locked to its thread
//	File          ReadAt, WriteAt, Sync, Discard through a loop
//	Stack         a loop with sockets: Listener and Conn, which satisfy package net's interfaces
//
// # Why the shapes are as they are
//
// A ring made with SetupSingleIssuer and SetupDeferTaskrun runs completions only when its one thread asks for them: no interrupts, no
// locks, the best batching. Such a ring belongs to one goroutine that is locked to its thread. A goroutine that waits for a completion
// costs a wake-up; code that runs on the ring's thread costs none.
//
// # Memory
//
// The kernel reads and writes buffers until the completion arrives, whatever the caller does. Memory of Go's heap does not move, so it
// is enough that a reference stays alive until then.
//
// # Where io_uring is refused
//
// New returns an error that wraps ErrUnavailable and says which door is closed: kernel too old, seccomp, kernel.io_uring_disabled, or
// locked memory.
//
// It is the only package of the module that imports unsafe, it depends on nothing but golang.org/x/sys, and it may be used by others.
package uring
