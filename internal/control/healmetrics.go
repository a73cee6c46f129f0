package control

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// healMetrics are the leader's figures about guests that fail. Servers are not in them: they come and go, and events and `godwit why` name them.
type healMetrics struct {
	failures *prometheus.CounterVec
	steps    *prometheus.CounterVec
	standing *prometheus.GaugeVec
}

func newHealMetrics(r prometheus.Registerer) healMetrics {
	m := healMetrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_guest_failures_total", Help: "Failures of guests, by what went wrong."}, []string{"failure"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_guest_healing_steps_total",
			Help: "Steps of healing guests that failed, by the status they led to: waiting, restarting, moving, healed, left, gave-up."}, []string{"status"}),
		standing: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "godwit_guests_failed",
			Help: "Servers by where their guest's last failure stands; those that gave up need a person. Absent where this instance does not lead."}, []string{"status"}),
	}
	r.MustRegister(m.failures, m.steps, m.standing)
	return m
}

// healed counts a step that was written; was is the record before it, nil for none.
func (m *Metrics) healed(was, is *cloud.Healing) {
	if m == nil {
		return
	}
	if was == nil || was.Notification != is.Notification {
		m.healing.failures.WithLabelValues(string(is.Failure)).Inc()
	}
	if was == nil || was.Notification != is.Notification || was.Status != is.Status {
		m.healing.steps.WithLabelValues(string(is.Status)).Inc()
	}
}

// healings says how many servers are where.
func (m *Metrics) healings(v store.View) {
	if m == nil {
		return
	}
	n := map[cloud.HealStatus]int{}
	for _, h := range store.All(v, tables.Healings) {
		n[h.Status]++
	}
	for _, status := range cloud.HealStatuses() {
		m.healing.standing.WithLabelValues(string(status)).Set(float64(n[status]))
	}
}

// forgetHealings says nothing any more: another instance leads.
func (m *Metrics) forgetHealings() {
	if m != nil {
		m.healing.standing.Reset()
	}
}
