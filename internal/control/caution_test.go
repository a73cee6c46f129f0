package control

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/optimize"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// gauge reads a figure as whoever scrapes it.
func gauge(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no single %s", name)
	return 0
}

// TestAnOverloadGoalKeepsMoreFreeWhileItIsMissedAndLessAgainAfter: two servers whose load jumps would share a host, as each of them asks for half of it at the
// most times. While another host is short for longer than the goal allows, that is too much of a risk; when the goal is kept again, it is not.
func TestAnOverloadGoalKeepsMoreFreeWhileItIsMissedAndLessAgainAfter(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	const goal = 0.05
	registry := prometheus.NewRegistry()
	w.metrics = NewOptimiserMetrics(registry)
	caution := func() float64 { return gauge(t, registry, "godwit_optimize_caution") }
	w.arrange(cloud.AutomationManual, func(s *optimize.Settings) { s.OverloadGoal = goal })
	w.prove("h1", "h2", "h3")
	off := map[string]string{cloud.MetaAutomation: "off"}
	w.on("h1", "hog1", off)
	w.on("h1", "hog2", off)
	w.on("h2", "jumpy1", nil)
	w.on("h3", "jumpy2", nil)
	w.mu.Lock()
	w.jumpy["jumpy1"], w.jumpy["jumpy2"] = true, true
	w.loads["jumpy1"], w.loads["jumpy2"] = 7.5, 7.5
	w.mu.Unlock()
	id := w.audit(cloud.Audit{Kind: cloud.AuditContinuous, Interval: fleetStep})
	newest := func(v store.View) *cloud.ActionPlan {
		a, _ := store.Lookup(v, tables.Audits, id)
		p, _ := store.Lookup(v, tables.ActionPlans, a.Plan)
		return p
	}
	together := func(v store.View) bool {
		p := newest(v)
		return p != nil && slices.ContainsFunc(movers(p), func(s cloud.ServerID) bool { return s == "jumpy1" || s == "jumpy2" })
	}
	w.until("a plan has the jumpy servers share a host", together)
	if c := caution(); c != 1 {
		t.Errorf("caution is %g although nobody was short", c)
	}
	hogs := func(cpus float64) { w.use("hog1", cpus); w.use("hog2", cpus) }
	hogs(8) // all that their host has
	most := 0.0
	w.until("plans leave the jumpy servers apart", func(v store.View) bool {
		most = caution()
		return most > 3 && newest(v) != nil && !together(v)
	})
	short := w.account(cloud.AccountHost, "h1")
	hogs(0.2)
	w.until("caution fades, and the jumpy servers may share a host again", func(v store.View) bool {
		return caution() < most && together(v)
	})
	w.until("the account tells of the time in which a host was short", func(store.View) bool {
		a := w.account(cloud.AccountHost, "h1")
		return a.Overload > 0 && a.Seen > a.Overload && a.Seen > short.Seen
	})
	w.sound()
}
