package sim

import (
	"fmt"
	"math"
	"math/rand"
	"slices"

	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// What a migration costs, after the paper: the moving server loses a tenth of its CPU, and its target spends another tenth of it.
const (
	sourceShare = 0.9
	targetShare = 0.1
)

// world is a fleet at a moment of virtual time.
type world struct {
	spec    Spec
	rules   Rules
	planner consolidate.Planner
	rng     *rand.Rand

	now     float64 // seconds
	updated float64 // when the load was last taken
	hosts   []host
	servers []server
	tally   tally
}

type host struct {
	kind    *HostType
	memory  consolidate.Memory
	servers []int // those that run here and those moving in, in the order they came
	used    float64
	awake   bool
	before  struct { // at the moment the load was taken before
		used  float64
		awake bool
	}
	record hostRecord
}

type server struct {
	kind    *ServerType
	trace   Trace
	host    int // where it runs
	gone    bool
	moving  bool
	asked   float64 // MIPS now
	history []float64
	record  serverRecord
}

func newWorld(d *Day) *world {
	w := &world{spec: d.Spec, rules: d.Rules, planner: d.Planner, rng: rand.New(rand.NewSource(d.Seed))}
	w.hosts = make([]host, d.Spec.Hosts)
	for i := range w.hosts {
		w.hosts[i].kind = d.Spec.hostType(i)
		w.hosts[i].record.capacity = w.hosts[i].kind.CPU()
	}
	w.servers = make([]server, len(d.Load.Traces))
	for i, t := range d.Load.Traces {
		w.servers[i] = server{kind: d.Spec.serverType(i, len(d.Load.Traces)), trace: t, host: -1}
	}
	return w
}

// takeLoad moves the clock: servers ask for what their traces say, hosts share their CPU out, and the time since is accounted.
func (w *world) takeLoad(now float64, sample bool) {
	w.now = now
	for i := range w.servers {
		s := &w.servers[i]
		if s.gone {
			continue
		}
		share := s.trace.at(now, w.spec.StepSeconds)
		s.asked = share * s.kind.MIPS
		if sample {
			s.history = append(s.history, share)
		}
	}
	for i := range w.hosts {
		w.shareOut(i)
	}
	w.account()
	w.dropIdle()
	w.updated = now
}

// shareOut gives the servers on a host what they ask for, or less in proportion when it is too much, and notes what they got.
func (w *world) shareOut(index int) {
	h := &w.hosts[index]
	h.before.used, h.before.awake = h.used, h.awake
	scale := w.scarcity(index)
	used, asked := 0.0, 0.0
	for _, i := range h.servers {
		s := &w.servers[i]
		incoming := s.host != index
		got := w.grant(s, h, incoming, scale)
		if !incoming {
			s.record.note(w.now, got, s.asked, s.moving)
			if s.moving {
				got /= sourceShare // the tenth that the server loses is spent on moving it
			}
		}
		used += got
		asked += s.asked
	}
	h.used = used
	h.awake = len(h.servers) > 0
	if w.rules.AsCloudSim {
		h.awake = used > 0
	}
	h.record.note(w.now, used, asked, h.awake)
}

// scarcity returns the factor by which everyone on a host gets less, 1 when there is enough.
func (w *world) scarcity(index int) float64 {
	h := &w.hosts[index]
	capacity := h.kind.CPU()
	free, total, short := capacity, 0.0, false
	for _, i := range h.servers {
		s := &w.servers[i]
		want := min(s.asked, h.kind.MIPS)
		if s.host != index {
			want *= targetShare
		}
		total += want
		short = short || free < want
		free -= want
	}
	if !short {
		return 1
	}
	return capacity / total
}

// grant returns what a server gets on a host. When there is too little it is whole MIPS, as the paper's build has it.
func (w *world) grant(s *server, h *host, incoming bool, scale float64) float64 {
	got := min(s.asked, h.kind.MIPS)
	switch {
	case incoming:
		got *= targetShare
	case s.moving:
		got *= sourceShare
	}
	if scale == 1 {
		return got
	}
	return math.Floor(got * scale)
}

// dropIdle removes the servers that ask for nothing and are not moving, where the rules have it so.
func (w *world) dropIdle() {
	if !w.rules.AsCloudSim {
		return
	}
	for i := range w.hosts {
		h := &w.hosts[i]
		h.servers = slices.DeleteFunc(h.servers, func(i int) bool {
			s := &w.servers[i]
			if s.moving || s.asked != 0 {
				return false
			}
			s.gone = true
			return true
		})
	}
}

// utilisation is the share of a host's CPU that some MIPS are, at most 1.
func (h *host) utilisation(mips float64) float64 { return min(mips/h.kind.CPU(), 1) }

// fleet is what the planner sees of the world.
func (w *world) fleet() *consolidate.Fleet {
	f := &consolidate.Fleet{
		StepSeconds: w.spec.StepSeconds,
		Hosts:       make([]consolidate.Host, len(w.hosts)),
		Guests:      make([]consolidate.Guest, len(w.servers)),
	}
	for i := range w.hosts {
		h := &w.hosts[i]
		view := consolidate.Host{
			CPU: h.kind.CPU(), CPUCore: h.kind.MIPS, MigrationMiBps: w.spec.MigrationMiBps, Power: &h.kind.Power,
			Utilisation: h.utilisation(h.used), Asleep: !h.awake, Memory: &h.memory,
			Guests: make([]consolidate.GuestIndex, len(h.servers)),
		}
		if w.rules.LimitRAM {
			view.RAMMiB = h.kind.RAMMiB
		}
		for k, s := range h.servers {
			view.Guests[k] = consolidate.GuestIndex(s)
		}
		f.Hosts[i] = view
	}
	for i := range w.servers {
		s := &w.servers[i]
		f.Guests[i] = consolidate.Guest{
			Host: consolidate.HostIndex(s.host), CPU: s.kind.MIPS, Demand: s.asked, RAMMiB: s.kind.RAMMiB,
			History: s.history[max(0, len(s.history)-consolidate.HistoryLength):],
		}
	}
	return f
}

// boot places all servers one by one, each as if it would use all it may; memory counts under all rules.
func (w *world) boot() error {
	f := w.fleet()
	for i := range w.hosts {
		f.Hosts[i].RAMMiB = w.hosts[i].kind.RAMMiB
	}
	for i := range w.servers {
		f.Guests[i].Demand = f.Guests[i].CPU
		to := w.planner.Place(f, consolidate.GuestIndex(i))
		if to == consolidate.Nowhere {
			return fmt.Errorf("server %d fits on none of %d hosts", i, len(w.hosts))
		}
		f.Guests[i].Host = to
		f.Hosts[to].Guests = append(f.Hosts[to].Guests, consolidate.GuestIndex(i))
		w.servers[i].host = int(to)
		w.hosts[to].servers = append(w.hosts[to].servers, i)
	}
	return nil
}

// start begins the moves of a plan. A plan that breaks the rules is the planner's fault and ends the day.
func (w *world) start(moves []consolidate.Move) error {
	touched := make([]bool, len(w.hosts))
	for _, m := range moves {
		s, to := &w.servers[m.Guest], &w.hosts[m.To]
		if s.gone || s.host == int(m.To) {
			return fmt.Errorf("planner: server %d may not move to host %d", m.Guest, m.To)
		}
		s.moving = true
		if !slices.Contains(to.servers, int(m.Guest)) {
			to.servers = append(to.servers, int(m.Guest))
		}
		touched[m.To], touched[s.host] = true, true
		w.tally.migrations++
		w.tally.reasons[m.Reason]++
	}
	for i := range w.hosts {
		if !touched[i] {
			continue
		}
		if w.rules.LimitRAM && w.heldMiB(i) > w.hosts[i].kind.RAMMiB {
			return fmt.Errorf("planner: host %d would hold %.0f of %.0f MiB", i, w.heldMiB(i), w.hosts[i].kind.RAMMiB)
		}
		w.shareOut(i)
	}
	return nil
}

// heldMiB is the memory of the servers on a host and of those moving in.
func (w *world) heldMiB(index int) float64 {
	sum := 0.0
	for _, i := range w.hosts[index].servers {
		sum += w.servers[i].kind.RAMMiB
	}
	return sum
}

// finish ends moves: their servers run on the target.
func (w *world) finish(moves []consolidate.Move) {
	for _, m := range moves {
		i := int(m.Guest)
		s := &w.servers[i]
		w.hosts[s.host].drop(i)
		w.hosts[m.To].drop(i)
		w.hosts[m.To].servers = append(w.hosts[m.To].servers, i)
		s.host, s.moving = int(m.To), false
	}
	for i := range w.hosts {
		w.shareOut(i)
	}
	w.dropIdle()
}

func (h *host) drop(i int) {
	h.servers = slices.DeleteFunc(h.servers, func(on int) bool { return on == i })
}

// seconds returns how long a move takes.
func (w *world) seconds(m consolidate.Move) float64 {
	return w.servers[m.Guest].kind.RAMMiB / w.spec.MigrationMiBps
}
