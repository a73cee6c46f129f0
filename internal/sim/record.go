package sim

import "github.com/godwit-cloud/godwit/internal/consolidate"

// tally is what is counted for the whole fleet while a day passes.
type tally struct {
	joules     float64
	migrations int
	reasons    [consolidate.ReasonCount]int
	series     []Point
}

// Point is the fleet right after a round of decisions.
type Point struct {
	Seconds    float64 `json:"seconds"`
	Awake      int     `json:"awake"`      // hosts
	AskedMIPS  float64 `json:"asked_mips"` // by servers that are there
	Watts      float64 `json:"watts"`
	Migrations int     `json:"migrations"` // started now
}

// point notes the fleet.
func (w *world) point(started int) {
	p := Point{Seconds: w.now, Migrations: started}
	for i := range w.hosts {
		if h := &w.hosts[i]; h.awake {
			p.Awake++
			p.Watts += h.kind.Power.At(h.utilisation(h.used))
		}
	}
	for i := range w.servers {
		if !w.servers[i].gone {
			p.AskedMIPS += w.servers[i].asked
		}
	}
	w.tally.series = append(w.tally.series, p)
}

// account adds the energy since the load was last taken: each host's power between the two loads, as a line. A host that slept at the
// first drew nothing.
func (w *world) account() {
	seconds := w.now - w.updated
	for i := range w.hosts {
		h := &w.hosts[i]
		if !h.before.awake {
			continue
		}
		from, to := h.kind.Power.At(h.utilisation(h.before.used)), h.kind.Power.At(h.utilisation(h.used))
		w.tally.joules += (from + (to-from)/2) * seconds
	}
}

// The shares from which a host counts as busy and as full. What is granted on a full host is rounded down to whole MIPS, so full is a
// little less than 1.
const (
	busyShare = 0.8
	fullShare = 0.995
)

// hostRecord sums up a host's day in seconds. What is noted holds until the next note; a note at the same moment replaces the last.
type hostRecord struct {
	capacity float64

	noted, awake, wasAwake bool
	at, used, asked        float64

	active, asleep float64
	short          float64 // active, with less than was asked for
	busy, full     float64
	sleeps         int // times it fell asleep
}

func (r *hostRecord) note(now, used, asked float64, awake bool) {
	if r.noted && now > r.at {
		r.hold(now - r.at)
		r.wasAwake = r.awake
	}
	r.noted, r.at, r.used, r.asked, r.awake = true, now, used, asked, awake
}

func (r *hostRecord) hold(seconds float64) {
	if !r.awake {
		r.asleep += seconds
		if r.wasAwake {
			r.sleeps++
		}
		return
	}
	r.active += seconds
	if r.used < r.asked {
		r.short += seconds
	}
	if r.used >= busyShare*r.capacity {
		r.busy += seconds
	}
	if r.used >= fullShare*r.capacity {
		r.full += seconds
	}
}

// serverRecord sums up a server's day in MIPS seconds.
type serverRecord struct {
	noted, moving  bool
	at, got, asked float64

	gotTotal, askedTotal float64
	lostMoving           float64 // not got while moving
}

func (r *serverRecord) note(now, got, asked float64, moving bool) {
	if r.noted && now > r.at {
		seconds := now - r.at
		r.gotTotal += r.got * seconds
		r.askedTotal += r.asked * seconds
		if r.moving && r.got < r.asked {
			r.lostMoving += (r.asked - r.got) * seconds
		}
	}
	r.noted, r.at, r.got, r.asked, r.moving = true, now, got, asked, moving
}
