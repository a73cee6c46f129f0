package control

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// OptimiserMetrics are the leader's figures about what hosts use and what is done about it. A nil *OptimiserMetrics counts nothing. Servers are not in
// it: there may be too many for labels, and the operator API has their accounts.
type OptimiserMetrics struct {
	watts    *prometheus.GaugeVec
	energy   *prometheus.CounterVec
	overload *prometheus.CounterVec
	asleep   *prometheus.GaugeVec
	plans    *prometheus.CounterVec
	caution  prometheus.Gauge
}

// NewOptimiserMetrics registers the figures.
func NewOptimiserMetrics(r prometheus.Registerer) *OptimiserMetrics {
	host := []string{"host"}
	m := &OptimiserMetrics{
		watts:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "godwit_host_power_watts", Help: "What the host draws, read from it or by its power model. 0 while it sleeps."}, host),
		energy:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_host_energy_joules_total", Help: "Energy, as far as this leader saw it."}, host),
		overload: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_host_overload_seconds_total", Help: "Time in which the host's CPU was short."}, host),
		asleep:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "godwit_host_asleep", Help: "1 while the host sleeps on purpose."}, host),
		plans:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_plans_total", Help: "Action plans that ended, by status."}, []string{"status"}),
		caution:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "godwit_optimize_caution", Help: "What the room that plans keep free is multiplied by, from 1 while overload_goal is kept."}),
	}
	r.MustRegister(m.watts, m.energy, m.overload, m.asleep, m.plans, m.caution)
	m.heed(1)
	return m
}

func (m *OptimiserMetrics) used(host cloud.HostName, watts, seconds float64) {
	if m != nil {
		m.watts.WithLabelValues(string(host)).Set(watts)
		m.energy.WithLabelValues(string(host)).Add(watts * seconds)
		m.asleep.WithLabelValues(string(host)).Set(0)
	}
}

func (m *OptimiserMetrics) short(host cloud.HostName, seconds float64) {
	if m != nil {
		m.overload.WithLabelValues(string(host)).Add(seconds)
	}
}

func (m *OptimiserMetrics) sleeps(host cloud.HostName) {
	if m != nil {
		m.watts.WithLabelValues(string(host)).Set(0)
		m.asleep.WithLabelValues(string(host)).Set(1)
	}
}

func (m *OptimiserMetrics) heed(caution float64) {
	if m != nil {
		m.caution.Set(caution)
	}
}

func (m *OptimiserMetrics) ended(status cloud.OptimizeStatus) {
	if m != nil {
		m.plans.WithLabelValues(string(status)).Inc()
	}
}
