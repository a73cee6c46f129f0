package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// saveTimeout bounds one write of the journal. etcd answers in milliseconds or has a problem.
const saveTimeout = 5 * time.Second

var (
	errAtEnd     = errors.New("run is ending")
	errNoReturn  = errors.New("run is past its point of no return")
	errAbandoned = errors.New("run abandoned by this engine")
)

// finishStep is the name events give the finish hook.
const finishStep = "finish"

// execute carries a run to its end, or abandons it when the engine stops or may no longer write.
func (e *Engine) execute(a *active) {
	for !a.rec.Phase.Ended() {
		if err := e.advance(a); err != nil {
			a.logger(e).Debug("run left to the next engine", "reason", err)
			return
		}
	}
	a.logger(e).Info("run ended", "phase", a.rec.Phase, "took", a.rec.Ended.Sub(a.rec.Started))
	if hook := e.options.Hooks.RunEnded; hook != nil {
		hook(a.rec.Clone())
	}
}

func (a *active) logger(e *Engine) *slog.Logger {
	return e.options.Logger.With("run", a.rec.ID, "flow", a.rec.Flow)
}

// advance makes one attempt at whatever comes next and journals what came of it. An error means: leave the run.
func (e *Engine) advance(a *active) error {
	if e.ctx.Err() != nil {
		return ErrStopping
	}
	rec := &a.rec
	switch {
	case rec.Phase == Doing && rec.Step == len(a.flow.steps):
		if cause := a.beginEnding(); cause != nil {
			return e.turn(a, "", cause)
		}
		return e.finish(a, Outcome{Phase: Done})
	case rec.Phase == Doing:
		if cause := a.beginDoing(rec.Step); cause != nil {
			return e.turn(a, a.flow.steps[rec.Step].name, cause)
		}
		return e.attempt(a, a.flow.steps[rec.Step], a.flow.steps[rec.Step].do)
	case rec.Step == 0:
		return e.finish(a, rec.outcome(Failed))
	default:
		s := a.flow.steps[rec.Step-1]
		if s.undo == nil {
			return e.completed(a, s.name, time.Time{})
		}
		return e.attempt(a, s, s.undo)
	}
}

func (r *Record) outcome(p Phase) Outcome {
	o := Outcome{Phase: p}
	failure := r.Cause
	if failure == nil && p != Done {
		failure = r.Last
	}
	if failure != nil {
		o.Err, o.Step = failure.Err(), failure.Step
	}
	return o
}

// attempt runs one direction of a step once and journals its end, its failure, or the turn.
func (e *Engine) attempt(a *active, s erasedStep, fn func(context.Context, *run) error) error {
	rec := &a.rec
	begun := time.Now().UTC()
	ctx, done := a.contextFor(e.ctx, s)
	err := e.call(ctx, a, s.name, s.timeLimit, fn)
	done()
	switch {
	case err == nil:
		return e.completed(a, s.name, begun)
	case errors.Is(err, errAbandoned):
		return err
	case e.ctx.Err() != nil:
		return ErrStopping // whatever the step says now, it says because we stop
	}
	rec.Attempts++
	cancelled := a.cancelCause()
	sit := situation{phase: rec.Phase, err: err, attempts: rec.Attempts, limit: s.attempts, cancelled: cancelled != nil}
	if rec.Phase == Doing {
		sit.passed, sit.marked = a.flow.passed(rec.Step), s.noReturn
	}
	a.logger(e).Warn("step failed", "step", s.name, "phase", rec.Phase, "attempt", rec.Attempts, "error", err)
	switch judge(sit) {
	case turn:
		if cancelled != nil {
			err = cancelled
		}
		return e.turn(a, s.name, err)
	case giveUp:
		return e.giveUp(a, s.name, err)
	default:
		return e.again(a, s.name, err)
	}
}

// contextFor gives a step the context that cancellation ends, unless it must not be interrupted: an undo, or a point of no return.
func (a *active) contextFor(ctx context.Context, s erasedStep) (context.Context, func()) {
	if a.rec.Phase != Doing || s.noReturn || a.flow.passed(a.rec.Step) {
		return ctx, func() {}
	}
	return a.interruptible(ctx)
}

// call is the one wrapper through which every attempt of every step goes: it times, limits, reports, and turns a panic into an error.
func (e *Engine) call(ctx context.Context, a *active, name string, limit time.Duration, fn func(context.Context, *run) error) (err error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	r := &run{ID: a.rec.ID, Attempt: a.rec.Attempts + 1, Logger: a.logger(e).With("step", name), rec: &a.rec}
	r.save = func(context.Context) error { return e.persist(a) }
	event := Event{Run: a.rec.Clone(), Step: name, Undo: a.rec.Phase == Undoing && name != finishStep, Attempt: r.Attempt, Begun: time.Now().UTC()}
	hooks := e.options.Hooks
	if hooks.StepBegun != nil {
		hooks.StepBegun(event)
	}
	wrap := hooks.Wrap
	if wrap == nil {
		wrap = func(ctx context.Context, _ Event, next func(context.Context) error) error { return next(ctx) }
	}
	err = protect(r, func() error { return wrap(ctx, event, func(ctx context.Context) error { return fn(ctx, r) }) })
	event.Ended, event.Err = time.Now().UTC(), err
	if hooks.StepEnded != nil {
		hooks.StepEnded(event)
	}
	return err
}

// protect turns a panic of a step into a final error: one run's bug must not take down the runs of others.
func protect(r *run, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.Logger.Error("step panicked", "panic", p, "stack", string(debug.Stack()))
			err = Abort(cloud.Errorf(cloud.KindInternal, "panic: %v", p))
		}
	}()
	return fn()
}

// completed journals that the current step is done or undone. A zero begun means that there was nothing to undo.
func (e *Engine) completed(a *active, name string, begun time.Time) error {
	rec := &a.rec
	if !begun.IsZero() {
		rec.Timings = append(rec.Timings, Timing{Step: name, Undo: rec.Phase == Undoing, Begun: begun, Ended: time.Now().UTC(), Attempts: rec.Attempts + 1})
	}
	if rec.Phase == Doing {
		rec.Step++
	} else {
		rec.Step--
	}
	a.arrive()
	return e.persist(a)
}

// arrive resets what belongs to the step just left and names the next one.
func (a *active) arrive() {
	rec := &a.rec
	rec.Attempts, rec.Last, rec.StepName = 0, nil, ""
	switch {
	case rec.Phase == Doing && rec.Step < len(a.flow.steps):
		rec.StepName = a.flow.steps[rec.Step].name
	case rec.Phase == Undoing && rec.Step > 0:
		rec.StepName = a.flow.steps[rec.Step-1].name
	}
}

// turn journals that the run unwinds, beginning with the last step that may have begun: it may have run in part.
func (e *Engine) turn(a *active, step string, cause error) error {
	rec := &a.rec
	rec.Cause = failureOf(step, cause)
	rec.Phase = Undoing
	rec.Step = a.beginUnwinding()
	a.arrive()
	a.logger(e).Info("run unwinds", "step", step, "cause", cause)
	return e.persist(a)
}

// again journals a failed attempt and pauses before the next one.
func (e *Engine) again(a *active, step string, err error) error {
	a.rec.Last = failureOf(step, err)
	if err := e.persist(a); err != nil {
		return err
	}
	ctx, done := a.interruptible(e.ctx)
	defer done()
	e.pause(ctx, a.rec.Attempts)
	return nil
}

// giveUp ends a run that can go neither forward nor back. The finish hook is told, so that the state shown to users says so.
func (e *Engine) giveUp(a *active, step string, err error) error {
	rec := &a.rec
	rec.Last = failureOf(step, err)
	if step != finishStep {
		hook := func(ctx context.Context, r *run) error { return a.flow.finish(ctx, r, rec.outcome(Stuck)) }
		if hookErr := e.call(e.ctx, a, finishStep, 0, hook); hookErr != nil {
			a.logger(e).Error("finish hook of a stuck run failed", "error", hookErr)
		}
	}
	a.logger(e).Error("run is stuck", "step", step, "phase", rec.Phase, "attempts", rec.Attempts, "error", err)
	rec.StuckIn, rec.Phase, rec.Ended = rec.Phase, Stuck, time.Now().UTC()
	return e.persist(a)
}

// finish runs the finish hook and journals the run's end.
func (e *Engine) finish(a *active, o Outcome) error {
	rec := &a.rec
	err := e.call(e.ctx, a, finishStep, 0, func(ctx context.Context, r *run) error { return a.flow.finish(ctx, r, o) })
	switch {
	case err == nil:
		rec.Phase, rec.Attempts, rec.Last, rec.Ended = o.Phase, 0, nil, time.Now().UTC()
		return e.persist(a)
	case errors.Is(err, errAbandoned):
		return err
	case e.ctx.Err() != nil:
		return ErrStopping
	}
	rec.Attempts++
	a.logger(e).Warn("finish hook failed", "attempt", rec.Attempts, "error", err)
	if rec.Attempts >= forwardAttemptsMax {
		return e.giveUp(a, finishStep, err)
	}
	return e.again(a, finishStep, err)
}

// persist writes the record to the journal until that succeeds, the journal says that this engine is stale, or the engine stops. The effect the
// record speaks of has happened, so nothing may go on before it is known; and the write is tried once even while stopping, since it saves the
// next engine a step.
func (e *Engine) persist(a *active) error {
	a.rec.Version++
	a.rec.Owner = e.options.Owner
	snapshot := a.rec.Clone()
	for tries := 1; ; tries++ {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), saveTimeout)
		err := e.journal.Save(ctx, snapshot)
		cancel()
		switch {
		case err == nil:
			a.shown.Store(&snapshot)
			return nil
		case cloud.Is(err, cloud.KindStale), e.ctx.Err() != nil:
			return fmt.Errorf("%w: %w", errAbandoned, err)
		}
		a.logger(e).Warn("journal does not answer", "tries", tries, "error", err)
		e.pause(e.ctx, tries)
	}
}

// pause waits before attempt n+1, or until ctx ends.
func (e *Engine) pause(ctx context.Context, n int) {
	e.mu.Lock()
	d := backoff(n, e.options.BackoffMin, e.options.BackoffMax, e.options.Rand)
	e.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// backoff doubles from shortest to longest and takes a random half off, so that runs which failed together do not come back together.
func backoff(failures int, shortest, longest time.Duration, rnd *rand.Rand) time.Duration {
	d := longest
	if shift := failures - 1; shift < 32 && shortest<<shift < longest {
		d = shortest << shift
	}
	return d/2 + time.Duration(rnd.Int64N(int64(d/2)+1))
}
