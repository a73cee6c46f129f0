package blockserve

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-cloud/godwit/nbd"
)

const (
	// commands is how many the protocol knows.
	commands = int(nbd.CmdBlockStatus) + 1
	// Latencies are counted by powers of two: from 2^spanMin nanoseconds (4 us) to 2^(spanMin+spans-1) (34 s), and beyond.
	spanMin = 12
	spans   = 24
)

// meter counts what a lane, or the threads engine, has done. Anybody may read it; on a lane only the loop writes, so that no two processors
// quarrel over its memory.
type meter struct {
	attached atomic.Int64  // connections that use an export
	delayed  atomic.Uint64 // requests that the limits held back
	held     atomic.Uint64 // mutations that waited for a change of the writer, or for a copy
	by       [commands]commandMeter
}

type commandMeter struct {
	requests, errors, bytes, nanoseconds atomic.Uint64
	spans                                [spans + 1]atomic.Uint64
}

// ended counts a request.
func (m *meter) ended(r *nbd.Request, took time.Duration, err error) {
	if int(r.Command) >= commands {
		return
	}
	c := &m.by[r.Command]
	c.requests.Add(1)
	c.nanoseconds.Add(uint64(took))
	c.spans[min(max(bits.Len64(uint64(took))-spanMin, 0), spans)].Add(1)
	if err != nil {
		c.errors.Add(1)
		return
	}
	if n := len(r.Data); n > 0 {
		c.bytes.Add(uint64(n))
	} else {
		c.bytes.Add(uint64(r.Length))
	}
}

var (
	descEngine   = prometheus.NewDesc("godwit_blockserve_engine", "1 for the engine that carries requests out, with the reason why it and no other.", []string{"engine", "why"}, nil)
	descConns    = prometheus.NewDesc("godwit_blockserve_connections", "Open connections, those that negotiate included.", nil, nil)
	descAttached = prometheus.NewDesc("godwit_blockserve_attached_connections", "Connections that use an export.", nil, nil)
	descDelayed  = prometheus.NewDesc("godwit_blockserve_delayed_requests_total", "Requests held back by the limits of their volume.", nil, nil)
	descHeld     = prometheus.NewDesc("godwit_blockserve_held_requests_total", "Mutations held while the volume's writer changed or a copy was made.", nil, nil)
	descErrors   = prometheus.NewDesc("godwit_blockserve_errors_total", "Requests answered with an error.", []string{"command"}, nil)
	descBytes    = prometheus.NewDesc("godwit_blockserve_bytes_total", "Bytes read, written, trimmed, zeroed.", []string{"command"}, nil)
	descSeconds  = prometheus.NewDesc("godwit_blockserve_request_seconds", "Time from a request's arrival to its answer.", []string{"command"}, nil)
	descEnters   = prometheus.NewDesc("godwit_blockserve_ring_enters_total", "Calls of io_uring_enter.", nil, nil)
	descEntries  = prometheus.NewDesc("godwit_blockserve_ring_entries_total", "Entries handed to the kernel by those calls.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descEngine, descConns, descAttached, descDelayed, descHeld, descErrors, descBytes, descSeconds, descEnters, descEntries} {
		ch <- d
	}
}

// meters returns those of all lanes, or of the threads engine.
func (s *Server) meters() (out []*meter) {
	for _, l := range s.lanes {
		out = append(out, l.meter)
	}
	if s.threads != nil {
		out = append(out, s.threads.meter)
	}
	return out
}

// Collect implements prometheus.Collector. It disturbs no loop.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descEngine, 1, string(s.engine), s.why)
	gauge(descConns, float64(s.conns.Load()))
	meters := s.meters()
	var attached int64
	var delayed, held uint64
	for _, m := range meters {
		attached += m.attached.Load()
		delayed += m.delayed.Load()
		held += m.held.Load()
	}
	gauge(descAttached, float64(attached))
	count(descDelayed, delayed)
	count(descHeld, held)
	for c := range nbd.Command(commands) {
		if c != nbd.CmdDisc {
			collectCommand(ch, c, meters)
		}
	}
	var enters, entries uint64
	for _, l := range s.lanes {
		stats := l.loop.Stats()
		enters += stats.Enters
		entries += stats.Submitted
	}
	count(descEnters, enters)
	count(descEntries, entries)
}

// collectCommand adds up what was counted of a command.
func collectCommand(ch chan<- prometheus.Metric, c nbd.Command, meters []*meter) {
	var errs, bytes, requests, nanoseconds uint64
	buckets := make(map[float64]uint64, spans)
	for _, m := range meters {
		b := &m.by[c]
		errs += b.errors.Load()
		bytes += b.bytes.Load()
		nanoseconds += b.nanoseconds.Load()
		below := uint64(0)
		for i := range b.spans {
			below += b.spans[i].Load()
			if i < spans {
				buckets[time.Duration(1<<(spanMin+i)).Seconds()] += below
			}
		}
		requests += below
	}
	name := c.String()
	ch <- prometheus.MustNewConstMetric(descErrors, prometheus.CounterValue, float64(errs), name)
	ch <- prometheus.MustNewConstMetric(descBytes, prometheus.CounterValue, float64(bytes), name)
	ch <- prometheus.MustNewConstHistogram(descSeconds, requests, float64(nanoseconds)/1e9, buckets, name)
}
