package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

// What one attempt of a step does. The schedule draws one per attempt; fine is likelier than all others together.
const (
	fine = iota
	failBefore
	failAfter
	abortBefore
	abortAfter
	panics
	cancels // asks for cancellation, then does its work
	behaviours
)

// schedule is a random history: what attempts do, and which writes of the journal kill the engine.
type schedule struct {
	steps    int
	noReturn int // index of the marked step, -1 for none
	attempts []int
	crashes  []bool // by write
	failures []bool // by write
}

func drawSchedule(t *rapid.T) schedule {
	s := schedule{steps: rapid.IntRange(1, 5).Draw(t, "steps")}
	s.noReturn = rapid.IntRange(-1, s.steps-1).Draw(t, "point of no return")
	behaviour := rapid.Custom(func(t *rapid.T) int { return max(fine, rapid.IntRange(-behaviours, behaviours-1).Draw(t, "b")) })
	s.attempts = rapid.SliceOfN(behaviour, 0, 40).Draw(t, "attempts")
	s.crashes = rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 5), func(n int) bool { return n == 5 }), 0, 40).Draw(t, "crashes")
	s.failures = rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 5), func(n int) bool { return n == 5 }), 0, 40).Draw(t, "journal failures")
	return s
}

// next takes the head of a list, the zero value when it is used up: every schedule ends in calm.
func next[T any](list *[]T) (head T) {
	if len(*list) > 0 {
		head, *list = (*list)[0], (*list)[1:]
	}
	return head
}

// world is what the toy flow changes: which steps' effects exist. It notices calls that no engine may make.
type world struct {
	schedule
	effects    []bool
	engine     *workflow.Engine
	finished   []workflow.Phase
	violations []string
}

func (w *world) violate(format string, args ...any) {
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

// behave surrounds one attempt's effect with what the schedule says.
func (w *world) behave(effect func()) (err error) {
	passing := cloud.Errorf(cloud.KindUnavailable, "drawn")
	b := next(&w.attempts)
	switch b {
	case failBefore:
		return passing
	case abortBefore:
		return workflow.Abort(passing)
	case cancels:
		if err := w.engine.Cancel("r", "drawn"); err != nil && !cloud.Is(err, cloud.KindConflict) {
			w.violate("cancel from within the run: %v", err)
		}
	}
	effect()
	switch b {
	case failAfter:
		return passing
	case abortAfter:
		return workflow.Abort(passing)
	case panics:
		panic("drawn")
	}
	return nil
}

func (w *world) do(i int) workflow.Func[order] {
	return func(context.Context, *orderRun) error {
		for j := range i {
			if !w.effects[j] {
				w.violate("step %d done before step %d", i, j)
			}
		}
		if i == w.noReturn {
			// The marked step may only abort when the point was not passed: it aborts before its effect, never after.
			switch b := next(&w.attempts); b {
			case abortAfter, panics:
				w.attempts = append([]int{failAfter}, w.attempts...)
			default:
				w.attempts = append([]int{b}, w.attempts...)
			}
			if w.effects[i] {
				return nil
			}
		}
		return w.behave(func() { w.effects[i] = true })
	}
}

func (w *world) undo(i int) workflow.Func[order] {
	return func(context.Context, *orderRun) error {
		for j := i + 1; j < w.steps; j++ {
			if w.effects[j] {
				w.violate("step %d undone before step %d", i, j)
			}
		}
		if w.noReturn >= 0 && w.effects[w.noReturn] {
			w.violate("step %d undone behind the point of no return", i)
		}
		return w.behave(func() { w.effects[i] = false })
	}
}

func (w *world) definition() *workflow.Definition[order] {
	var steps []workflow.StepOf[order]
	for i := range w.steps {
		name, options := fmt.Sprint("s", i), []workflow.StepOption{}
		if i == w.noReturn {
			options = append(options, workflow.PointOfNoReturn())
		}
		steps = append(steps, workflow.Step(name, w.do(i), w.undo(i), options...))
	}
	return workflow.Define("toy", steps...).Finish(func(_ context.Context, _ *orderRun, o workflow.Outcome) error {
		return w.behave(func() { w.finished = append(w.finished, o.Phase) })
	})
}

func (w *world) crashAt(_, _ workflow.Record) bool { return next(&w.crashes) }

func (w *world) failAt(workflow.Record) error {
	if next(&w.failures) {
		return cloud.Errorf(cloud.KindUnavailable, "drawn")
	}
	return nil
}

// play runs engines one after another until the run has ended. The calm at the end of every schedule bounds the number of engines.
func (w *world) play(ctx context.Context) (workflow.Record, error) {
	j := &workflowtest.Journal{CrashAt: w.crashAt, FailAt: w.failAt}
	d := w.definition()
	for range 1 + len(w.crashes) {
		w.engine = workflow.NewEngine(j, []workflow.AnyDefinition{d}, workflow.Options{Logger: slog.New(slog.DiscardHandler)})
		taken, err := w.engine.Resume(ctx)
		if err == nil && taken == 0 {
			err = d.Start(ctx, w.engine, "r", order{})
		}
		if err != nil {
			return workflow.Record{}, err
		}
		rec, err := w.engine.Wait(ctx, "r")
		if stopErr := w.engine.Stop(ctx); stopErr != nil {
			return rec, stopErr
		}
		if err == nil {
			return rec, nil
		}
		j.Revive(w.crashAt)
	}
	return workflow.Record{}, errors.New("the run has not ended")
}

func (w *world) check(rec workflow.Record) error {
	all, none := !slices.Contains(w.effects, false), !slices.Contains(w.effects, true)
	switch {
	case len(w.violations) > 0:
		return fmt.Errorf("violations: %q", w.violations)
	case rec.Phase == workflow.Done && !all, rec.Phase == workflow.Failed && !none, rec.Phase != workflow.Done && rec.Phase != workflow.Failed:
		return fmt.Errorf("phase %s with effects %v", rec.Phase, w.effects)
	case len(w.finished) == 0 || slices.ContainsFunc(w.finished, func(p workflow.Phase) bool { return p != rec.Phase }):
		return fmt.Errorf("phase %s, finish hook saw %v", rec.Phase, w.finished)
	case rec.Phase == workflow.Failed && rec.Cause == nil, rec.Phase == workflow.Done && rec.Cause != nil:
		return fmt.Errorf("phase %s with cause %+v", rec.Phase, rec.Cause)
	}
	return nil
}

func TestAnyScheduleOfFailuresAndCrashesEndsWholeOrClean(t *testing.T) {
	phases := map[workflow.Phase]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{schedule: drawSchedule(rt)}
		w.effects = make([]bool, w.steps)
		var err error
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour) // virtual
			defer cancel()
			var rec workflow.Record
			if rec, err = w.play(ctx); err == nil {
				err = w.check(rec)
				phases[rec.Phase]++
			}
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
	if phases[workflow.Done] == 0 || phases[workflow.Failed] == 0 {
		t.Errorf("the schedules never ended both ways: %v", phases)
	}
}
