package control

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// figures are the registered figures of guests, as name{label}=value.
func figures(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "godwit_guest") {
			continue
		}
		for _, m := range f.GetMetric() {
			out = append(out, fmt.Sprintf("%s{%s}=%v", f.GetName(), m.GetLabel()[0].GetValue(), m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	return strings.Join(out, "\n")
}

func TestFailuresAndStepsOfHealingAreCountedOnceEach(t *testing.T) {
	w := newWorld(t, "h1")
	r := prometheus.NewRegistry()
	m := NewMetrics(r)
	first := cloud.Healing{Server: "s", Failure: cloud.FailureCrashed, Status: cloud.HealRestarting, Notification: "n1"}
	done := first
	done.Status = cloud.HealDone
	again := cloud.Healing{Server: "s", Failure: cloud.FailurePanicked, Status: cloud.HealWaiting, Notification: "n2"}
	later := again
	later.Reason = "somebody works on it"
	m.healed(nil, &first)
	m.healed(&first, &done)
	m.healed(&done, &again)
	m.healed(&again, &later) // the same step, in other words
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Healings, "s", later) })
	m.healings(w.store.View())
	got := figures(t, r)
	for _, want := range []string{"godwit_guest_failures_total{crashed}=1", "godwit_guest_failures_total{panicked}=1", "godwit_guest_healing_steps_total{restarting}=1",
		"godwit_guest_healing_steps_total{healed}=1", "godwit_guest_healing_steps_total{waiting}=1", "godwit_guests_failed{waiting}=1", "godwit_guests_failed{gave-up}=0"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	m.forgetHealings()
	if got := figures(t, r); strings.Contains(got, "godwit_guests_failed") {
		t.Errorf("an instance that leads no more says\n%s", got)
	}
}
