package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

type order struct {
	Item string `json:"item"`
	Key  string `json:"key"`
}

type orderRun = workflow.Run[order]

func newEngine(j workflow.Journal, o workflow.Options, ds ...workflow.AnyDefinition) *workflow.Engine {
	o.Logger = slog.New(slog.DiscardHandler)
	return workflow.NewEngine(j, ds, o)
}

func stopEngine(t *testing.T, e *workflow.Engine) {
	t.Helper()
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// run starts one run and returns its final record.
func run(t *testing.T, e *workflow.Engine, d *workflow.Definition[order], args order) workflow.Record {
	t.Helper()
	if err := d.Start(t.Context(), e, "r", args); err != nil {
		t.Fatal(err)
	}
	rec, err := e.Wait(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func nothing(context.Context, *orderRun) error { return nil }

func TestStepsPassStateForwardAndToUndos(t *testing.T) {
	var undone, finished string
	d := workflow.Define("f",
		workflow.Step("name", func(_ context.Context, r *orderRun) error { return r.Set("name", "thing of "+r.Args.Item) },
			func(_ context.Context, r *orderRun) error {
				_, err := r.Get("name", &undone)
				return err
			}),
		workflow.Step("refuse", func(_ context.Context, r *orderRun) error {
			return cloud.Errorf(cloud.KindNoValidHost, "no room for %s", r.Args.Item)
		}, nil, workflow.NoUndo("makes nothing")),
	).Finish(func(_ context.Context, r *orderRun, o workflow.Outcome) error {
		finished = fmt.Sprintf("%s at %s: %v (%v)", o.Phase, o.Step, o.Err, r.Cause())
		return nil
	})
	e := newEngine(&workflowtest.Journal{}, workflow.Options{}, d)
	defer stopEngine(t, e)
	rec := run(t, e, d, order{Item: "tea"})
	if rec.Phase != workflow.Failed || !cloud.Is(rec.Cause.Err(), cloud.KindNoValidHost) || undone != "thing of tea" {
		t.Errorf("phase %s, cause %+v, undone %q", rec.Phase, rec.Cause, undone)
	}
	if want := "failed at refuse: no room for tea (no room for tea)"; finished != want {
		t.Errorf("finished %q, want %q", finished, want)
	}
}

func TestPassingErrorsAreRetriedWithGrowingPausesThenUnwind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begun := time.Now()
		d := workflow.Define("f", workflow.Step("s", func(context.Context, *orderRun) error {
			at = append(at, time.Since(begun))
			return cloud.Errorf(cloud.KindUnavailable, "away")
		}, nothing, workflow.RetryMax(4)))
		e := newEngine(&workflowtest.Journal{}, workflow.Options{}, d)
		rec := run(t, e, d, order{})
		stopEngine(t, e)
		if rec.Phase != workflow.Failed || len(at) != 4 {
			t.Fatalf("%s after %d attempts", rec.Phase, len(at))
		}
		for i, whole := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
			if pause := at[i+1] - at[i]; pause < whole/2 || pause > whole {
				t.Errorf("pause %d is %s", i+1, pause)
			}
		}
	})
}

func TestStartIsIdempotentByIDAndRefusesOtherArguments(t *testing.T) {
	runs := 0
	d := workflow.Define("f", workflow.Step("s", func(context.Context, *orderRun) error { runs++; return nil }, nothing))
	e := newEngine(&workflowtest.Journal{}, workflow.Options{}, d)
	defer stopEngine(t, e)
	run(t, e, d, order{Item: "a"})
	run(t, e, d, order{Item: "a"})
	if runs != 1 {
		t.Errorf("step ran %d times", runs)
	}
	if err := d.Start(t.Context(), e, "r", order{Item: "b"}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("other arguments: %v", err)
	}
	if err := e.Start(t.Context(), "unknown", "x", order{}); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("unknown flow: %v", err)
	}
}

func TestCancelInterruptsTheStepAndUnwinds(t *testing.T) {
	begun := make(chan struct{})
	var trace []string
	note := func(s string) workflow.Func[order] {
		return func(context.Context, *orderRun) error { trace = append(trace, s); return nil }
	}
	d := workflow.Define("f",
		workflow.Step("a", note("do a"), note("undo a")),
		workflow.Step("b", func(ctx context.Context, _ *orderRun) error {
			close(begun)
			<-ctx.Done()
			trace = append(trace, fmt.Sprint("b: ", context.Cause(ctx), workflow.Stopping(ctx)))
			return ctx.Err()
		}, note("undo b")),
		workflow.Step("c", note("do c"), note("undo c")))
	e := newEngine(&workflowtest.Journal{}, workflow.Options{}, d)
	defer stopEngine(t, e)
	if err := d.Start(t.Context(), e, "r", order{}); err != nil {
		t.Fatal(err)
	}
	<-begun
	if err := errors.Join(e.Cancel("r", "enough"), e.Cancel("r", "again")); err != nil {
		t.Fatal(err)
	}
	rec, err := e.Wait(t.Context(), "r")
	if err != nil || rec.Phase != workflow.Failed || !cloud.Is(rec.Cause.Err(), cloud.KindCancelled) {
		t.Errorf("%v, phase %s, cause %+v", err, rec.Phase, rec.Cause)
	}
	if got, want := strings.Join(trace, "; "), "do a; b: cancelled: enough false; undo b; undo a"; got != want {
		t.Errorf("trace %q, want %q", got, want)
	}
	if err := e.Cancel("r", "late"); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("cancel of an ended run: %v", err)
	}
}

func TestNoCancelPastThePointOfNoReturn(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	var during error
	d := workflow.Define("f",
		workflow.Step("a", nothing, nothing),
		workflow.Step("switch", func(ctx context.Context, _ *orderRun) error {
			close(begun)
			<-goOn
			during = ctx.Err()
			return nil
		}, nil, workflow.NoUndo("only forward"), workflow.PointOfNoReturn()))
	e := newEngine(&workflowtest.Journal{}, workflow.Options{}, d)
	defer stopEngine(t, e)
	if err := d.Start(t.Context(), e, "r", order{}); err != nil {
		t.Fatal(err)
	}
	<-begun
	if err := e.Cancel("r", "too late"); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("cancel: %v", err)
	}
	close(goOn)
	if rec, err := e.Wait(t.Context(), "r"); err != nil || rec.Phase != workflow.Done || during != nil {
		t.Errorf("%v, phase %s, the step's context: %v", err, rec.Phase, during)
	}
}

func TestNoCancelAfterACrashWithinThePointOfNoReturn(t *testing.T) {
	j := &workflowtest.Journal{}
	crashing := true
	gate := make(chan struct{})
	d := workflow.Define("f",
		workflow.Step("a", nothing, nothing),
		workflow.Step("switch", func(ctx context.Context, r *orderRun) error {
			if crashing {
				<-ctx.Done()
				return ctx.Err()
			}
			<-gate
			return nil
		}, nil, workflow.NoUndo("only forward"), workflow.PointOfNoReturn()))
	begun := make(chan struct{}, 8)
	o := workflow.Options{Concurrency: 2, Hooks: workflow.Hooks{StepBegun: func(e workflow.Event) {
		if e.Step == "switch" {
			begun <- struct{}{}
		}
	}}}
	e := newEngine(j, o, d)
	for _, id := range []workflow.RunID{"r1", "r2"} {
		if err := d.Start(t.Context(), e, id, order{}); err != nil {
			t.Fatal(err)
		}
		<-begun
	}
	stopEngine(t, e)
	// With room for one run, the other waits: its switch has begun, but not in this engine.
	crashing, o.Concurrency = false, 1
	e = newEngine(j, o, d)
	defer stopEngine(t, e)
	if _, err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-begun
	for _, id := range []workflow.RunID{"r1", "r2"} {
		if err := e.Cancel(id, "late"); !cloud.Is(err, cloud.KindConflict) {
			t.Errorf("cancel of %s: %v", id, err)
		}
	}
	close(gate)
	for _, id := range []workflow.RunID{"r1", "r2"} {
		if rec, err := e.Wait(t.Context(), id); err != nil || rec.Phase != workflow.Done {
			t.Errorf("%s: %v %s", id, err, rec.Phase)
		}
	}
}

func TestStopLeavesTheRunForTheNextEngine(t *testing.T) {
	j := &workflowtest.Journal{}
	begun := make(chan struct{}, 2)
	first := true
	undone := false
	d := workflow.Define("f",
		workflow.Step("a", func(_ context.Context, r *orderRun) error { return r.Set("from a", 7) }, func(context.Context, *orderRun) error {
			undone = true
			return nil
		}),
		workflow.Step("b", func(ctx context.Context, r *orderRun) error {
			begun <- struct{}{}
			if first {
				<-ctx.Done()
				if !workflow.Stopping(ctx) {
					t.Error("the step was not told that the engine stops")
				}
				return ctx.Err()
			}
			var n int
			if ok, err := r.Get("from a", &n); !ok || n != 7 || err != nil {
				t.Errorf("state after resume: %v %d %v", ok, n, err)
			}
			return nil
		}, nothing))
	e := newEngine(j, workflow.Options{}, d)
	if err := d.Start(t.Context(), e, "r", order{}); err != nil {
		t.Fatal(err)
	}
	<-begun
	stopEngine(t, e)
	if _, err := e.Wait(t.Context(), "r"); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("wait at a stopped engine: %v", err)
	}
	if err := d.Start(t.Context(), e, "r2", order{}); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("start at a stopped engine: %v", err)
	}
	first = false
	e = newEngine(j, workflow.Options{}, d)
	defer stopEngine(t, e)
	if n, err := e.Resume(t.Context()); n != 1 || err != nil {
		t.Fatalf("resumed %d: %v", n, err)
	}
	if rec, err := e.Wait(t.Context(), "r"); err != nil || rec.Phase != workflow.Done || undone {
		t.Errorf("%v, phase %s, undone %v", err, rec.Phase, undone)
	}
}

func TestRunsOfOneKeyGoOneAfterAnotherInOrderOthersTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var trace []string
		note := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			trace = append(trace, s)
		}
		d := workflow.Define("f", workflow.Step("s", func(_ context.Context, r *orderRun) error {
			note("begin " + r.Args.Item)
			time.Sleep(time.Second) // virtual
			note("end " + r.Args.Item)
			return nil
		}, nothing)).Keyed(func(o order) string { return o.Key })
		e := newEngine(&workflowtest.Journal{}, workflow.Options{Concurrency: 2}, d)
		for i, o := range []order{{"1", "k"}, {"2", "k"}, {"3", ""}, {"4", ""}} {
			if err := d.Start(t.Context(), e, workflow.RunID(fmt.Sprint("r", i)), o); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for i := range 4 {
			if rec, err := e.Wait(t.Context(), workflow.RunID(fmt.Sprint("r", i))); err != nil || rec.Phase != workflow.Done {
				t.Errorf("%d: %v %s", i, err, rec.Phase)
			}
		}
		stopEngine(t, e)
		if len(trace) != 8 || trace[0] != "begin 1" || trace[1] != "begin 3" {
			t.Fatalf("trace %q", trace)
		}
		if slices.Index(trace, "begin 2") < slices.Index(trace, "end 1") {
			t.Errorf("two runs of one key at once: %q", trace)
		}
		if running, most := 0, 0; true {
			for _, s := range trace {
				if strings.HasPrefix(s, "begin") {
					running++
				} else {
					running--
				}
				most = max(most, running)
			}
			if most != 2 {
				t.Errorf("%d runs at once, want 2", most)
			}
		}
	})
}

func TestUndoThatKeepsFailingEndsStuckAndAnOperatorCanRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken, ended := true, []workflow.Phase{}
		var finishes []workflow.Phase
		d := workflow.Define("f",
			workflow.Step("a", nothing, func(context.Context, *orderRun) error {
				if broken {
					return cloud.Errorf(cloud.KindUnavailable, "host is gone")
				}
				return nil
			}),
			workflow.Step("b", func(context.Context, *orderRun) error { return workflow.Abort(errors.New("no")) }, nothing),
		).Finish(func(_ context.Context, _ *orderRun, o workflow.Outcome) error {
			finishes = append(finishes, o.Phase)
			return nil
		})
		hooks := workflow.Hooks{RunEnded: func(r workflow.Record) { ended = append(ended, r.Phase) }}
		e := newEngine(&workflowtest.Journal{}, workflow.Options{Hooks: hooks}, d)
		rec := run(t, e, d, order{})
		if rec.Phase != workflow.Stuck || rec.StuckIn != workflow.Undoing || rec.Last.Text != "host is gone" {
			t.Fatalf("%+v", rec)
		}
		broken = false
		if err := e.Retry(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		rec, err := e.Wait(t.Context(), "r")
		stopEngine(t, e)
		want := []workflow.Phase{workflow.Stuck, workflow.Failed}
		if err != nil || rec.Phase != workflow.Failed || !slices.Equal(ended, want) || !slices.Equal(finishes, want) {
			t.Errorf("%v, phase %s, hooks saw %v, finishes %v", err, rec.Phase, ended, finishes)
		}
	})
}

func TestPanicOfAStepUnwindsItsRun(t *testing.T) {
	d := workflow.Define("f", workflow.Step("s", func(context.Context, *orderRun) error { panic("bug") }, nothing))
	e := newEngine(&workflowtest.Journal{}, workflow.Options{}, d)
	defer stopEngine(t, e)
	if rec := run(t, e, d, order{}); rec.Phase != workflow.Failed || rec.Cause.Text != "panic: bug" {
		t.Errorf("phase %s, cause %+v", rec.Phase, rec.Cause)
	}
}

func TestTimeLimitEndsAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := workflow.Define("f", workflow.Step("s", func(ctx context.Context, r *orderRun) error {
			if r.Attempt == 2 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, nothing, workflow.TimeLimit(time.Minute)))
		e := newEngine(&workflowtest.Journal{}, workflow.Options{}, d)
		rec := run(t, e, d, order{})
		stopEngine(t, e)
		if rec.Phase != workflow.Done || rec.Timings[0].Attempts != 2 || rec.Ended.Sub(rec.Started) < time.Minute {
			t.Errorf("%+v", rec)
		}
	})
}

func TestResumeFindsItsPlaceInALongerDefinition(t *testing.T) {
	j := &workflowtest.Journal{}
	begun := make(chan struct{}, 1)
	old := workflow.Define("f", workflow.Step("a", nothing, nothing), workflow.Step("c", func(ctx context.Context, _ *orderRun) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}, nothing))
	e := newEngine(j, workflow.Options{}, old)
	if err := old.Start(t.Context(), e, "r", order{}); err != nil {
		t.Fatal(err)
	}
	<-begun
	stopEngine(t, e)
	var trace []string
	note := func(s string) workflow.Func[order] {
		return func(context.Context, *orderRun) error { trace = append(trace, s); return nil }
	}
	renamed := newEngine(j, workflow.Options{}, workflow.Define("f", workflow.Step("x", note("x"), nothing)))
	if n, err := renamed.Resume(t.Context()); n != 0 || !cloud.Is(err, cloud.KindUnsupported) {
		t.Errorf("a definition without the step: %d, %v", n, err)
	}
	stopEngine(t, renamed)
	longer := newEngine(j, workflow.Options{}, workflow.Define("f", workflow.Step("a", note("a"), nothing),
		workflow.Step("b", note("b"), nothing), workflow.Step("c", note("c"), nothing), workflow.Step("d", note("d"), nothing)))
	defer stopEngine(t, longer)
	if _, err := longer.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rec, err := longer.Wait(t.Context(), "r"); err != nil || rec.Phase != workflow.Done || strings.Join(trace, "") != "cd" {
		t.Errorf("%v, %s, ran %q", err, rec.Phase, trace)
	}
}

func TestJournalThatFailsForAWhileLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := 3
		j := &workflowtest.Journal{FailAt: func(workflow.Record) error {
			if left > 0 {
				left--
				return cloud.Errorf(cloud.KindUnavailable, "no quorum")
			}
			return nil
		}}
		did := 0
		d := workflow.Define("f", workflow.Step("s", func(context.Context, *orderRun) error { did++; return nil }, nothing))
		e := newEngine(j, workflow.Options{}, d)
		rec := run(t, e, d, order{})
		stopEngine(t, e)
		if rec.Phase != workflow.Done || did != 1 || left != 0 {
			t.Errorf("phase %s, step ran %d times, %d failures left", rec.Phase, did, left)
		}
	})
}

func TestEventsTellEveryAttemptWithItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		hooks := workflow.Hooks{
			StepBegun: func(e workflow.Event) { seen = append(seen, "begin "+e.Step) },
			StepEnded: func(e workflow.Event) {
				seen = append(seen, fmt.Sprintf("end %s undo=%v #%d %s ok=%v", e.Step, e.Undo, e.Attempt, e.Ended.Sub(e.Begun), e.Err == nil))
			},
		}
		d := workflow.Define("f", workflow.Step("s", func(context.Context, *orderRun) error {
			time.Sleep(time.Second) // virtual
			return workflow.Abort(errors.New("no"))
		}, nothing))
		e := newEngine(&workflowtest.Journal{}, workflow.Options{Hooks: hooks}, d)
		run(t, e, d, order{})
		stopEngine(t, e)
		want := []string{"begin s", "end s undo=false #1 1s ok=false", "begin s", "end s undo=true #1 0s ok=true", "begin finish",
			"end finish undo=false #1 0s ok=true"}
		if !slices.Equal(seen, want) {
			t.Errorf("saw %q", seen)
		}
	})
}
