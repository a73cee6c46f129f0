package planbook

import (
	"context"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func in(t *testing.T, s *store.Store, fn func(tx *store.Tx) error) error {
	t.Helper()
	_, err := s.UpdateVisible(context.WithoutCancel(t.Context()), fn)
	return err
}

func TestAPlanIsStartedOnceAndEndsInOneWay(t *testing.T) {
	s, now := open(t), time.Now().UTC()
	put := func(id cloud.PlanID, status cloud.OptimizeStatus) {
		t.Helper()
		p := cloud.ActionPlan{ID: id, Status: status, Actions: []cloud.PlanAction{{ID: "a", Status: cloud.StatusPending}}}
		if err := in(t, s, func(tx *store.Tx) error { return store.Put(tx, tables.ActionPlans, id, p) }); err != nil {
			t.Fatal(err)
		}
	}
	act := func(id cloud.PlanID, change func(*store.Tx, cloud.PlanID, time.Time) (cloud.ActionPlan, error)) (p cloud.ActionPlan, err error) {
		err = in(t, s, func(tx *store.Tx) (err error) {
			p, err = change(tx, id, now)
			return err
		})
		return p, err
	}
	put("p", cloud.StatusRecommended)
	for range 2 { // again is no error
		if p, err := act("p", Start); err != nil || p.Status != cloud.StatusPending {
			t.Errorf("started: %s, %v", p.Status, err)
		}
	}
	put("p", cloud.StatusOngoing)
	if p, err := act("p", Cancel); err != nil || p.Status != cloud.StatusCancelling || p.Actions[0].Status != cloud.StatusPending {
		t.Errorf("one that is carried out must be called off by the leader: %+v, %v", p, err)
	}
	put("q", cloud.StatusRecommended)
	if p, err := act("q", Cancel); err != nil || p.Status != cloud.StatusCancelled || p.Actions[0].Status != cloud.StatusCancelled {
		t.Errorf("cancelled: %+v, %v", p, err)
	}
	for _, status := range []cloud.OptimizeStatus{cloud.StatusSuperseded, cloud.StatusCancelled, cloud.StatusFailed} {
		put("r", status)
		if _, err := act("r", Start); !cloud.Is(err, cloud.KindConflict) {
			t.Errorf("starting a plan that is %s: %v", status, err)
		}
	}
}

func TestAuditsAreBoundedAndKnowTheirGoals(t *testing.T) {
	s, now := open(t), time.Now().UTC()
	ask := func(a cloud.Audit) error { return in(t, s, func(tx *store.Tx) error { return Ask(tx, &a, now) }) }
	for _, bad := range []cloud.Audit{{Goal: "peace"}, {Goal: cloud.GoalConsolidate, Strategy: "magic"}} {
		if err := ask(bad); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("audit %+v: %v", bad, err)
		}
	}
	for i := range AuditsMax {
		if err := ask(cloud.Audit{Goal: cloud.GoalConsolidate, Strategy: "lr-mmt-1.2"}); err != nil {
			t.Fatalf("audit %d: %v", i, err)
		}
	}
	if err := ask(cloud.Audit{Goal: cloud.GoalBalance}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("one audit too many: %v", err)
	}
}
