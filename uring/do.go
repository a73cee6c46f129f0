package uring

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pending is a goroutine that waits for a completion. As a Completer it is only a name: the loop knows it and wakes it in batches.
type pending struct {
	res  int32
	done chan struct{} // capacity 1: who wakes it never waits for it
}

// Complete is never called; see Loop.complete.
func (p *pending) Complete(int32, CQEFlags) { panic("uring: a waiting goroutine is woken, not called") }

func (p *pending) wake() { p.done <- struct{}{} }

var pendings = sync.Pool{New: func() any { return &pending{done: make(chan struct{}, 1)} }}

// Do hands an entry to the kernel and waits for its one completion. It returns the result, or the error the kernel gave. keep is kept
// alive until then: everything the entry points to. Do not use it for multishot or zero-copy requests.
func (l *Loop) Do(e SQE, keep ...any) (int, error) {
	op := pendings.Get().(*pending)
	if err := l.hand(work{sqe: e, op: op}); err != nil {
		return 0, err
	}
	<-op.done
	res := op.res
	pendings.Put(op)
	runtime.KeepAlive(keep)
	if res < 0 {
		return 0, unix.Errno(-res)
	}
	return int(res), nil
}

// DoContext is Do that cancels the request in the kernel when ctx ends, and then returns ctx's error. It still waits for the completion,
// because until then the kernel may use the memory; a request that succeeded all the same is a success.
func (l *Loop) DoContext(ctx context.Context, e SQE, keep ...any) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := l.doUntil(ctx.Done(), &e, nil)
	runtime.KeepAlive(keep)
	if errors.Is(err, errStopped) {
		err = ctx.Err()
		if n > 0 {
			err = nil
		}
	}
	return n, err
}

// DoTimeout is Do that the kernel cuts off after d: the error is then os.ErrDeadlineExceeded. It costs no timer of Go's.
func (l *Loop) DoTimeout(d time.Duration, e SQE, keep ...any) (int, error) {
	op := pendings.Get().(*pending)
	limit := new(Timespec)
	limit.Set(d)
	err := l.Post(func() {
		l.Reserve(2)
		e.Flags |= IOLink
		l.startFor(op, &e)
		t := l.Begin(holder{limit})
		t.PrepLinkTimeout(limit)
	})
	if err != nil {
		return 0, err
	}
	<-op.done
	res := op.res
	pendings.Put(op)
	runtime.KeepAlive(keep)
	switch {
	case res >= 0:
		return int(res), nil
	case unix.Errno(-res) == unix.ECANCELED, unix.Errno(-res) == unix.EINTR:
		return 0, os.ErrDeadlineExceeded
	}
	return 0, unix.Errno(-res)
}

// holder keeps something alive until a request nobody waits for has completed.
type holder struct{ _ any }

func (holder) Complete(int32, CQEFlags) {}

// errStopped means that a request was cancelled because its stop channel was closed.
var errStopped = errors.New("stopped")

// doUntil is Do that cancels the request when stop is closed; what had been done by then is returned with errStopped. allowed, if not
// nil, is asked on the loop's thread just before: a request that is no longer allowed is cancelled before it begins.
func (l *Loop) doUntil(stop <-chan struct{}, e *SQE, allowed func() bool) (int, error) {
	op := pendings.Get().(*pending)
	var token uint64
	begin := func() {
		if allowed == nil || allowed() {
			token = l.startFor(op, e)
			return
		}
		token = ignoredToken
		op.res = -int32(unix.ECANCELED)
		l.wakeups.add(op)
	}
	if err := l.Post(begin); err != nil {
		return 0, err
	}
	stopped := false
	select {
	case <-op.done:
	case <-stop:
		stopped = true
		// Handed over after the request, so it runs after it. It finds nobody if the request completed meanwhile. A loop that is closing
		// refuses it; then the completion comes, or Close waits, as if there had been no stop.
		_ = l.Post(func() { l.Cancel(token) })
		<-op.done
	}
	res := op.res
	pendings.Put(op)
	switch {
	case res >= 0 && stopped:
		return int(res), errStopped
	case res >= 0:
		return int(res), nil
	case stopped && (unix.Errno(-res) == unix.ECANCELED || unix.Errno(-res) == unix.EINTR):
		return 0, errStopped
	}
	return 0, unix.Errno(-res)
}
