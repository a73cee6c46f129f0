package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

func newRecord(id workflow.RunID) workflow.Record {
	return workflow.Record{ID: id, Flow: "f", Key: "k", Args: []byte(`{"a":"<1>"}`), Phase: workflow.Doing, StepName: "s",
		Started: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Version: 1}
}

func TestRunJournalKeepsRecordsAndRefusesToGoBack(t *testing.T) {
	t.Parallel()
	s := openAt(t, t.TempDir(), Runs)
	ctx := testContext(t)
	j := NewRunJournal(s, nil)
	rec := newRecord("r")
	rec.Args = []byte(`{"a":1}`)
	for range 2 {
		if stored, err := j.Create(ctx, rec); err != nil || !stored.Same(rec) {
			t.Fatalf("create: %+v, %v", stored, err)
		}
	}
	rec.Version, rec.Step = 2, 1
	for range 2 { // the second is a repetition after a lost answer
		if err := j.Save(ctx, rec); err != nil {
			t.Fatal(err)
		}
	}
	older, skipping := rec.Clone(), rec.Clone()
	older.Version, skipping.Version = 1, 5
	for _, r := range []workflow.Record{older, skipping} {
		if err := j.Save(ctx, r); !cloud.Is(err, cloud.KindStale) {
			t.Errorf("save of version %d over 2: %v", r.Version, err)
		}
	}
	got, err := j.Load(ctx, "r")
	if diff := cmp.Diff(rec, got); diff != "" || err != nil {
		t.Errorf("load: %v %s", err, diff)
	}
	if _, err := j.Load(ctx, "none"); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("load of nothing: %v", err)
	}
}

func TestRunJournalOfADeposedLeaderWritesNothing(t *testing.T) {
	t.Parallel()
	s := openAt(t, t.TempDir(), Runs)
	ctx := testContext(t)
	l, err := s.Campaign(ctx, "control", "one")
	if err != nil {
		t.Fatal(err)
	}
	j := NewRunJournal(s, l)
	rec := newRecord("r")
	if _, err := j.Create(ctx, rec); err != nil || j.Owner() != l.Revision() {
		t.Fatalf("%v, owner %d", err, j.Owner())
	}
	if err := l.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	rec.Version++
	_, createErr := j.Create(ctx, newRecord("r2"))
	for _, err := range []error{j.Save(ctx, rec), createErr} {
		if !cloud.Is(err, cloud.KindStale) || !errors.Is(err, ErrDeposed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestPruneRemovesOldEndedRunsButNotStuckOnes(t *testing.T) {
	t.Parallel()
	s := openAt(t, t.TempDir(), Runs)
	ctx := testContext(t)
	j := NewRunJournal(s, nil)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	put := func(id string, phase workflow.Phase, age time.Duration) {
		r := newRecord(workflow.RunID(id))
		r.Phase = phase
		if phase.Ended() {
			r.Ended = now.Add(-age)
		}
		if _, err := j.Create(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	for i := range pruneBatch + 3 {
		put(fmt.Sprintf("old-%d", i), workflow.Done, 2*time.Hour)
	}
	put("young", workflow.Failed, time.Minute)
	put("stuck", workflow.Stuck, 2*time.Hour)
	put("running", workflow.Undoing, 0)
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := j.Prune(ctx, now.Add(-time.Hour)); err != nil || n != pruneBatch+3 {
		t.Errorf("pruned %d: %v", n, err)
	}
	var left string
	for _, r := range All(s, Runs) {
		left += string(r.ID) + " "
	}
	if left != "running stuck young " {
		t.Errorf("left: %s", left)
	}
}

func TestRunGoesOnUnderTheNextLeader(t *testing.T) {
	t.Parallel()
	s := openAt(t, t.TempDir(), Runs)
	ctx := testContext(t)
	begun := make(chan int64, 2)
	waiting := true
	d := workflow.Define("f",
		workflow.Step("a", func(_ context.Context, r *workflow.Run[string]) error { return r.Set("seen", r.Args) }, nil, workflow.NoUndo("test")),
		workflow.Step("b", func(ctx context.Context, r *workflow.Run[string]) error {
			begun <- r.Owner()
			if waiting {
				<-ctx.Done()
				return ctx.Err()
			}
			var seen string
			if ok, err := r.Get("seen", &seen); !ok || seen != "args" || err != nil {
				t.Errorf("state: %v %q %v", ok, seen, err)
			}
			return nil
		}, nil, workflow.NoUndo("test")))
	lead := func() (*workflow.Engine, *Leadership) {
		l, err := s.Campaign(ctx, "control", "me")
		if err != nil {
			t.Fatal(err)
		}
		j := NewRunJournal(s, l)
		return workflow.NewEngine(j, []workflow.AnyDefinition{d}, workflow.Options{Owner: j.Owner(), Logger: quiet()}), l
	}
	first, l := lead()
	if err := d.Start(ctx, first, "r", "args"); err != nil {
		t.Fatal(err)
	}
	receive(t, begun)
	// The leadership is lost before the engine hears of it.
	if err := errors.Join(l.Resign(ctx), first.Stop(ctx)); err != nil {
		t.Fatal(err)
	}
	waiting = false
	second, l2 := lead()
	if n, err := second.Resume(ctx); n != 1 || err != nil {
		t.Fatalf("resumed %d: %v", n, err)
	}
	rec, err := second.Wait(ctx, "r")
	if err != nil || rec.Phase != workflow.Done || rec.Owner != l2.Revision() || len(rec.Timings) != 2 {
		t.Errorf("%v: %+v", err, rec)
	}
	if err := errors.Join(second.Stop(ctx), l2.Resign(ctx)); err != nil {
		t.Error(err)
	}
}
