package telemetry

import (
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// StepsKept is how many steps a history has: a little more than the thirty that policies look at.
	StepsKept = 36
	// forgetAfter is how many steps of silence end a history.
	forgetAfter = 6
)

// Sample is what a host and its servers used over a span of time.
type Sample struct {
	At            time.Time // its end
	Span          time.Duration
	CPUUsed       float64 // CPUs
	CPUStolen     float64 // CPUs that the host is given and did not get, if it is itself a guest
	MemoryUsedMiB int64
	Pressure      Pressure
	Watts         float64 // read from the machine; 0: unknown
	Servers       []ServerSample
}

// Pressure is the share of time in which some task waited for a resource.
type Pressure struct {
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
	IO     float64 `json:"io"`
}

// ServerSample is what a server used. CPU is in CPUs; disk and network are totals since its process began.
type ServerSample struct {
	Server              cloud.ServerID
	CPUUsed             float64
	CPUWait             float64 // that it would have used, had it not waited
	MemoryUsedMiB       int64
	DiskBytes, NetBytes int64
	DirtyBytesPerSecond int64 // -1: unknown
}

// HostReading is what is known of a host's use.
type HostReading struct {
	At            time.Time `json:"at"`       // of the newest sample
	CPUUsed       float64   `json:"cpu_used"` // CPUs, mean of the newest step
	CPUOwn        float64   `json:"cpu_own"`  // what no server can have: the host's own use, and what is stolen from it
	MemoryUsedMiB int64     `json:"memory_used_mib"`
	Pressure      Pressure  `json:"pressure"`
	Watts         float64   `json:"watts,omitempty"`
	History       []float64 `json:"-"` // CPUs, oldest first, the newest step last
}

// ServerReading is what is known of a server's use.
type ServerReading struct {
	At                  time.Time `json:"at"`
	CPUUsed             float64   `json:"cpu_used"` // CPUs, mean of the newest step
	CPUWait             float64   `json:"cpu_wait"` // CPUs it would have used beside, had it not waited
	MemoryUsedMiB       int64     `json:"memory_used_mib"`
	DiskBytesPerSecond  float64   `json:"disk_bytes_per_second"`
	NetBytesPerSecond   float64   `json:"net_bytes_per_second"`
	DirtyBytesPerSecond int64     `json:"dirty_bytes_per_second"` // -1: unknown
	History             []float64 `json:"-"`                      // CPUs asked for, oldest first, the newest step last
}

// Asked returns what the server asks for, in CPUs: what it got and what it would have used in the time in which it waited.
func (r ServerReading) Asked() float64 { return r.CPUUsed + r.CPUWait }

// Readings are a moment of the book.
type Readings struct {
	Step    time.Duration
	Hosts   map[cloud.HostName]HostReading
	Servers map[cloud.ServerID]ServerReading
}

// Book is the memory. Make it with NewBook.
type Book struct {
	step time.Duration

	mu      sync.Mutex // guards what follows
	hosts   map[cloud.HostName]*hostEntry
	servers map[cloud.ServerID]*serverEntry
	swept   time.Time
}

type hostEntry struct {
	reading HostReading
	series  series
	own     series
}

type serverEntry struct {
	reading   ServerReading
	used      series
	wait      series
	disk, net int64 // totals, of the newest sample
}

// NewBook returns an empty book whose histories have that step.
func NewBook(step time.Duration) *Book {
	return &Book{step: step, hosts: map[cloud.HostName]*hostEntry{}, servers: map[cloud.ServerID]*serverEntry{}}
}

// Step returns the time between two entries of a history.
func (b *Book) Step() time.Duration { return b.step }

// Add notes a host's sample. now is the receiver's clock, by which all hosts are told apart: theirs need not agree.
func (b *Book) Add(host cloud.HostName, s Sample, now time.Time) {
	if s.Span <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.hosts[host]
	if h == nil {
		h = &hostEntry{}
		b.hosts[host] = h
	}
	servers := 0.0
	for _, one := range s.Servers {
		servers += one.CPUUsed
		b.addServer(one, s.Span, now)
	}
	h.series.add(b.step, now, s.Span, s.CPUUsed)
	h.own.add(b.step, now, s.Span, max(0, s.CPUUsed-servers)+s.CPUStolen)
	h.reading = HostReading{At: now, MemoryUsedMiB: s.MemoryUsedMiB, Pressure: s.Pressure, Watts: s.Watts}
	b.sweep(now)
}

func (b *Book) addServer(s ServerSample, span time.Duration, now time.Time) {
	e := b.servers[s.Server]
	if e == nil {
		e = &serverEntry{reading: ServerReading{DirtyBytesPerSecond: -1}, disk: s.DiskBytes, net: s.NetBytes}
		b.servers[s.Server] = e
	}
	e.used.add(b.step, now, span, s.CPUUsed)
	e.wait.add(b.step, now, span, s.CPUWait)
	r := ServerReading{At: now, MemoryUsedMiB: s.MemoryUsedMiB, DirtyBytesPerSecond: e.reading.DirtyBytesPerSecond}
	if s.DirtyBytesPerSecond >= 0 { // a measurement holds until the next one
		r.DirtyBytesPerSecond = s.DirtyBytesPerSecond
	}
	r.DiskBytesPerSecond = float64(max(0, s.DiskBytes-e.disk)) / span.Seconds()
	r.NetBytesPerSecond = float64(max(0, s.NetBytes-e.net)) / span.Seconds()
	e.reading, e.disk, e.net = r, s.DiskBytes, s.NetBytes
}

// sweep forgets what has been silent for long, once a step.
func (b *Book) sweep(now time.Time) {
	if now.Sub(b.swept) < b.step {
		return
	}
	b.swept = now
	for id, e := range b.servers {
		if now.Sub(e.reading.At) > forgetAfter*b.step {
			delete(b.servers, id)
		}
	}
	for name, e := range b.hosts {
		if now.Sub(e.reading.At) > forgetAfter*b.step {
			delete(b.hosts, name)
		}
	}
}

// Readings returns what is known.
func (b *Book) Readings() Readings {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := Readings{Step: b.step, Hosts: make(map[cloud.HostName]HostReading, len(b.hosts)), Servers: make(map[cloud.ServerID]ServerReading, len(b.servers))}
	for name, e := range b.hosts {
		r := e.reading
		r.CPUUsed, r.CPUOwn, r.History = e.series.newest(), e.own.newest(), e.series.values()
		out.Hosts[name] = r
	}
	for id, e := range b.servers {
		r := e.reading
		r.CPUUsed, r.CPUWait, r.History = e.used.newest(), e.wait.newest(), e.used.values()
		for i, w := range e.wait.values() {
			r.History[i] += w
		}
		out.Servers[id] = r
	}
	return out
}

// series is a ring of steps, each the mean of the samples in it, weighed by their spans.
type series struct {
	steps [StepsKept]cell
	last  int64 // number of the newest step, counted from the epoch; 0: none
}

type cell struct {
	sum    float64 // of value times seconds
	weight float64 // seconds
}

func (s *series) add(step time.Duration, now time.Time, span time.Duration, value float64) {
	n := now.UnixNano() / int64(step)
	if n < s.last {
		return // the clock went back: the past is written
	}
	if s.last != 0 {
		for k := s.last + 1; k <= n && k-s.last <= StepsKept; k++ {
			s.steps[k%StepsKept] = cell{}
		}
	}
	s.last = n
	c := &s.steps[n%StepsKept]
	c.sum += value * span.Seconds()
	c.weight += span.Seconds()
}

// newest returns the mean of the newest step.
func (s *series) newest() float64 {
	c := s.steps[s.last%StepsKept]
	if c.weight == 0 {
		return 0
	}
	return c.sum / c.weight
}

// values returns the means of the steps since the first, oldest first. A step without a sample repeats the one before it.
func (s *series) values() []float64 {
	if s.last == 0 {
		return nil
	}
	out := make([]float64, 0, StepsKept)
	for k := s.last - StepsKept + 1; k <= s.last; k++ {
		c := s.steps[((k%StepsKept)+StepsKept)%StepsKept]
		switch {
		case c.weight > 0:
			out = append(out, c.sum/c.weight)
		case len(out) > 0:
			out = append(out, out[len(out)-1])
		}
	}
	return out
}
