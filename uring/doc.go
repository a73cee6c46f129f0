// Package uring is io_uring for Go: asynchronous file and socket I/O through a pair of queues shared with the kernel.
//
// # Layers
//
//	Ring          the two queues: fill entries, submit, wait, take completions. One goroutine; no allocation, no lock.
//	Loop          a ring that many goroutines share; owned by one goroutine, locked to its thread
//	File, Pipe    reads, writes, syncs, holes, splices through a loop
//	Stack         a loop with sockets and receive buffers
//	Server, Link  connections whose sessions run on the loop's own thread
//	Listener,Conn connections of goroutines, which satisfy package net's interfaces
//
// # Why the shapes are as they are
//
// A ring made with SetupSingleIssuer and SetupDeferTaskrun runs completions only when its one thread asks for them: no interrupts, no
// locks, the best batching. Such a ring belongs to one goroutine that is locked to its thread. The loop's round is: carry out what others
// handed over, call everyone whose request completed, let links send what they have queued, wake goroutines, and then submit and wait in one call.
//
// A goroutine that waits for a completion costs a wake-up; code that runs on the ring's thread costs none (decision 10, docs/uring.md).
//
// # Ownership
//
// Slots, links, sessions, timers and the order of buffers belong to the loop's thread; methods that say so may be called there only: in a
// Completer, in a Session, in a function given to Post. All else is for any goroutine.
//
// A request's token carries how often its slot has been used, so a cancel that comes late finds nobody rather than the next user. A
// descriptor is closed when nothing that could still name its number is left: files wait for their requests, connections for their writer
// and for the kernel.
//
// # Memory
//
// The kernel reads and writes buffers until the completion arrives, whatever the caller does. Memory of Go's heap does not move; that of a
// goroutine's stack does, so the Prep methods make the compiler put what they point to on the heap. A reference must stay alive until the
// completion: Do takes what to keep, a Completer holds it itself.
//
// # Where io_uring is refused
//
// New and everything made of it return an error that wraps ErrUnavailable and says which door is closed: kernel too old, seccomp,
// kernel.io_uring_disabled, or locked memory. Falling back is the caller's choice, to be made in the open.
//
// It is the only package of the module that imports unsafe, it depends on nothing but golang.org/x/sys, and it may be used by others.
package uring
