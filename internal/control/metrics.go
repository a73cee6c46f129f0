package control

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/liveness"
)

// Metrics are the leader's figures about hosts. A nil *Metrics counts nothing.
type Metrics struct {
	verdicts   *prometheus.GaugeVec
	brakeOn    prometheus.Gauge
	recoveries *prometheus.CounterVec
	homeless   prometheus.Gauge
	healing    healMetrics
}

// NewMetrics registers the figures.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		verdicts: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "godwit_host_verdict",
			Help: "What the leader believes of a host: 0 alive, 1 suspect, 2 dead. Absent where this instance does not lead."}, []string{"host"}),
		brakeOn:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "godwit_recovery_brake", Help: "1 while so many hosts are silent that nobody is called dead without a person."}),
		recoveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_recovery_steps_total", Help: "Steps of recoveries of dead hosts, by the status they led to."}, []string{"status"}),
		homeless: prometheus.NewGauge(prometheus.GaugeOpts{Name: "godwit_spare_servers_without_room",
			Help: "Servers that would find no room elsewhere if the recovery.spare_hosts largest hosts died now."}),
	}
	m.healing = newHealMetrics(r)
	r.MustRegister(m.verdicts, m.brakeOn, m.recoveries, m.homeless)
	return m
}

func (m *Metrics) verdict(j liveness.Judgement) {
	if m != nil {
		m.verdicts.WithLabelValues(string(j.Host)).Set(map[liveness.Verdict]float64{liveness.Suspect: 1, liveness.Dead: 2}[j.Verdict])
	}
}

func (m *Metrics) brake(on bool) {
	if m == nil {
		return
	}
	m.brakeOn.Set(map[bool]float64{true: 1}[on])
}

func (m *Metrics) recovery(r *cloud.Recovery) {
	if m != nil {
		m.recoveries.WithLabelValues(string(r.Status)).Inc()
	}
}
