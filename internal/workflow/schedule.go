package workflow

import (
	"slices"
	"sync"
	"sync/atomic"

	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// active is a run this engine has taken. Its record belongs to the goroutine that executes it; everybody else looks at shown.
type active struct {
	flow  *flow
	rec   Record
	shown atomic.Pointer[Record]
	over  chan struct{} // closed when the run has ended or been abandoned

	mu sync.Mutex // guards what follows
	// begun counts the steps that have begun while Doing, so that a cancellation and the begin of the next step are ordered.
	begun     int
	ending    bool                    // the run is about to be Done: too late to cancel
	unwinding bool                    // the run unwinds already
	cancel    error                   // why the run is to unwind; nil while nobody asked
	wake      context.CancelCauseFunc // ends what the run does now, a step or a pause; nil in between
}

func newActive(f *flow, rec Record) *active {
	a := &active{flow: f, rec: rec, over: make(chan struct{})}
	a.begun = min(rec.Step+1, len(f.steps)) // an earlier engine may have begun the next step
	a.unwinding = rec.Phase == Undoing
	a.show()
	return a
}

func (a *active) show() {
	c := a.rec.Clone()
	a.shown.Store(&c)
}

// requestCancel accepts or refuses a cancellation. An accepted one always unwinds the run: the next step cannot begin behind it.
func (a *active) requestCancel(cause error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.unwinding, a.cancel != nil:
		return nil
	case a.ending:
		return cloud.E(cloud.KindConflict, "cancel run", string(a.rec.ID), errAtEnd)
	case a.flow.passed(a.begun):
		return cloud.E(cloud.KindConflict, "cancel run", string(a.rec.ID), errNoReturn)
	}
	a.cancel = cause
	if a.wake != nil {
		a.wake(cause)
	}
	return nil
}

// beginDoing marks step i as begun, unless the run is cancelled: then it returns why.
func (a *active) beginDoing(i int) (cancelled error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cancel == nil {
		a.begun = max(a.begun, i+1)
	}
	return a.cancel
}

// beginEnding refuses cancellations from now on, unless one was accepted before: then it returns why.
func (a *active) beginEnding() (cancelled error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ending = a.cancel == nil
	return a.cancel
}

// beginUnwinding notes that the run unwinds and returns how many steps may have begun.
func (a *active) beginUnwinding() (begun int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unwinding = true
	return a.begun
}

// cancelCause returns why the run was cancelled, nil when it was not.
func (a *active) cancelCause() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cancel
}

// interruptible derives a context that an accepted cancellation ends. The caller must call done.
func (a *active) interruptible(ctx context.Context) (_ context.Context, done func()) {
	ctx, wake := context.WithCancelCause(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wake = wake
	if a.cancel != nil && !a.unwinding {
		wake(a.cancel)
	}
	return ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.wake = nil
		wake(nil)
	}
}

// enqueue takes a run unless the engine has it already, and starts what may start.
func (e *Engine) enqueue(f *flow, rec Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runs[rec.ID] != nil || e.stopped {
		return
	}
	a := newActive(f, rec)
	e.runs[rec.ID] = a
	if rec.Key != "" {
		e.queues[rec.Key] = append(e.queues[rec.Key], a)
	}
	if rec.Key == "" || e.queues[rec.Key][0] == a {
		e.ready = append(e.ready, a)
	}
	e.dispatchLocked()
}

// dispatchLocked starts ready runs while there is room.
func (e *Engine) dispatchLocked() {
	for len(e.ready) > 0 && e.busy < e.options.Concurrency && !e.stopped {
		a := e.ready[0]
		e.ready = slices.Delete(e.ready, 0, 1)
		e.busy++
		e.wg.Go(func() {
			e.execute(a)
			e.retire(a)
		})
	}
}

// retire removes a run that has ended or been abandoned, and lets the next of its key go.
func (e *Engine) retire(a *active) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy--
	delete(e.runs, a.rec.ID)
	close(a.over)
	if key := a.rec.Key; key != "" {
		queue := e.queues[key][1:]
		if len(queue) == 0 {
			delete(e.queues, key)
		} else {
			e.queues[key] = queue
			e.ready = append(e.ready, queue[0])
		}
	}
	e.dispatchLocked()
}

// abandonWaiting releases those who wait for runs that never began here.
func (e *Engine) abandonWaiting() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, a := range e.runs {
		delete(e.runs, id)
		close(a.over)
	}
	e.ready, e.queues = nil, map[string][]*active{}
}
