package workflowtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Case is one fresh world with one run to be made in it.
type Case[A any] struct {
	// Definition is the flow, bound to this world.
	Definition *workflow.Definition[A]
	// Args are the run's arguments.
	Args A
	// Clean says what the world still holds of a run that was unwound: nil means nothing but what its finish hook is meant to leave.
	Clean func() error
	// Done says what is missing or doubled after a run that went through: nil means nothing.
	Done func() error
}

const (
	runID = workflow.RunID("run-1")
	// runTimeout bounds one generated run; only a hanging step reaches it.
	runTimeout = time.Minute
	// backoff is short because the failures are made up: there is nothing to wait for.
	backoff = time.Microsecond
)

// errInjected is the failure of generated tests.
var errInjected = errors.New("injected failure")

// Run makes, for each step of the definition that fresh returns, the sub-tests every flow must pass. fresh is called once per sub-test and
// must return a world untouched by earlier ones.
func Run[A any](t *testing.T, fresh func(t *testing.T) Case[A]) {
	t.Helper()
	steps := fresh(t).Definition.Steps()
	t.Run("each step done twice", func(t *testing.T) {
		c := fresh(t)
		expect(t, c, workflow.Done, play(t, c, &Journal{}, twice(false)))
	})
	passed := false // behind the point of no return
	for i, s := range steps {
		failures(t, fresh, s, passed)
		passed = passed || s.PointOfNoReturn
		t.Run("crash after doing "+s.Name, func(t *testing.T) {
			c := fresh(t)
			expect(t, c, workflow.Done, play(t, c, &Journal{CrashAt: completing(workflow.Doing, i+1)}, nil))
		})
	}
	last := lastReturning(steps)
	if last < 0 {
		return
	}
	t.Run("each undo done twice", func(t *testing.T) {
		c := fresh(t)
		expect(t, c, workflow.Failed, play(t, c, &Journal{}, both(failing(steps[last].Name, true), twice(true))))
	})
	for i := range last + 1 {
		t.Run("crash after undoing "+steps[i].Name, func(t *testing.T) {
			c := fresh(t)
			expect(t, c, workflow.Failed, play(t, c, &Journal{CrashAt: completing(workflow.Undoing, i)}, failing(steps[last].Name, true)))
		})
	}
	t.Run("crash after the finish hook", func(t *testing.T) {
		c := fresh(t)
		ending := func(_, next workflow.Record) bool { return next.Phase.Ended() }
		expect(t, c, workflow.Done, play(t, c, &Journal{CrashAt: ending}, nil))
	})
}

// failures makes the sub-tests in which one step fails. Before the point of no return the run must unwind and leave nothing behind; behind it,
// it must go on and through.
func failures[A any](t *testing.T, fresh func(t *testing.T) Case[A], s workflow.StepInfo, passed bool) {
	t.Helper()
	if passed {
		t.Run("failure at "+s.Name+" behind the point of no return", func(t *testing.T) {
			c := fresh(t)
			expect(t, c, workflow.Done, play(t, c, &Journal{}, failingTimes(s.Name, 3)))
		})
		return
	}
	t.Run("failure before "+s.Name, func(t *testing.T) {
		c := fresh(t)
		expect(t, c, workflow.Failed, play(t, c, &Journal{}, failing(s.Name, false)))
	})
	if s.PointOfNoReturn {
		t.Run("failure after "+s.Name+", the point of no return", func(t *testing.T) {
			c := fresh(t)
			expect(t, c, workflow.Done, play(t, c, &Journal{}, failingTimes(s.Name, 3)))
		})
		return
	}
	t.Run("failure after "+s.Name, func(t *testing.T) {
		c := fresh(t)
		expect(t, c, workflow.Failed, play(t, c, &Journal{}, failing(s.Name, true)))
	})
}

// lastReturning returns the last step from which a run can still unwind after the step's effect, -1 when there is none.
func lastReturning(steps []workflow.StepInfo) int {
	for i, s := range steps {
		if s.PointOfNoReturn {
			return i - 1
		}
	}
	return len(steps) - 1
}

// wrap is workflow.Hooks.Wrap.
type wrap = func(ctx context.Context, e workflow.Event, next func(context.Context) error) error

// twice calls each step, in one direction, two times.
func twice(undo bool) wrap {
	return func(ctx context.Context, e workflow.Event, next func(context.Context) error) error {
		if err := next(ctx); err != nil || e.Undo != undo {
			return err
		}
		return next(ctx)
	}
}

// failing makes a step fail for good, before or after its effect.
func failing(step string, after bool) wrap {
	return func(ctx context.Context, e workflow.Event, next func(context.Context) error) error {
		if e.Step != step || e.Undo {
			return next(ctx)
		}
		if after {
			if err := next(ctx); err != nil {
				return err
			}
		}
		return workflow.Abort(cloud.E(cloud.KindInvalid, "", "", errInjected))
	}
}

// failingTimes makes the first attempts of a step fail after their effect.
func failingTimes(step string, times int) wrap {
	return func(ctx context.Context, e workflow.Event, next func(context.Context) error) error {
		err := next(ctx)
		if err == nil && e.Step == step && !e.Undo && e.Attempt <= times {
			return cloud.E(cloud.KindUnavailable, "", "", errInjected)
		}
		return err
	}
}

// both puts one wrap around the other.
func both(outer, inner wrap) wrap {
	return func(ctx context.Context, e workflow.Event, next func(context.Context) error) error {
		return outer(ctx, e, func(ctx context.Context) error { return inner(ctx, e, next) })
	}
}

// completing kills the engine when it is about to journal that it has come to this place: the effect has happened, the record has not.
func completing(phase workflow.Phase, step int) func(stored, next workflow.Record) bool {
	return func(stored, next workflow.Record) bool {
		return next.Phase == phase && next.Step == step && stored.Phase == phase && stored.Step != step
	}
}

// play carries one run to its end, with a second engine if the first one crashes, and returns its record.
func play[A any](t *testing.T, c Case[A], j *Journal, w wrap) workflow.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	mayCrash := j.CrashAt != nil
	first := engine(t, c, j, w)
	if err := c.Definition.Start(ctx, first, runID, c.Args); err != nil {
		t.Fatal(err)
	}
	rec, err := first.Wait(ctx, runID)
	stop(ctx, t, first)
	if !mayCrash {
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	select {
	case <-j.Crashed():
	default:
		t.Fatalf("the run ended as %s without coming to the place of the crash (%v)", rec.Phase, err)
	}
	j.Revive(nil)
	second := engine(t, c, j, w)
	defer stop(ctx, t, second)
	if n, err := second.Resume(ctx); err != nil || n != 1 {
		t.Fatalf("resumed %d runs: %v", n, err)
	}
	rec, err = second.Wait(ctx, runID)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func engine[A any](t *testing.T, c Case[A], j workflow.Journal, w wrap) *workflow.Engine {
	return workflow.NewEngine(j, []workflow.AnyDefinition{c.Definition}, workflow.Options{
		BackoffMin: backoff, BackoffMax: backoff,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Hooks:  workflow.Hooks{Wrap: w},
	})
}

func stop(ctx context.Context, t *testing.T, e *workflow.Engine) {
	t.Helper()
	if err := e.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// expect checks how the run ended and what it left.
func expect[A any](t *testing.T, c Case[A], phase workflow.Phase, rec workflow.Record) {
	t.Helper()
	if rec.Phase != phase {
		t.Fatalf("the run is %s, want %s; cause %+v, last error %+v", rec.Phase, phase, rec.Cause, rec.Last)
	}
	check := c.Done
	if phase == workflow.Failed {
		check = c.Clean
	}
	if err := check(); err != nil {
		t.Error(fmt.Errorf("the run is %s, but: %w", phase, err))
	}
}
