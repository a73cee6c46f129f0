package recovery

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// The simulation: hosts, servers of the three kinds of disk, a leader that judges by silence alone (liveness has its own properties; here it may be as wrong
// as it likes), BMCs that answer or not, agents that fence themselves, and storage that refuses old writers. Seeded faults cut hosts off in all ways. Whatever
// happens, no two copies of a server may run that can both write its disk.
const (
	simSeeds = 10_000
	simTicks = 120 // seconds
	simHosts = 4
)

type simHost struct {
	on        bool
	mgmt      bool // reaches the leader
	storage   bool // reaches the shared directory
	bmc       bool // has one that answers
	agent     bool // its agent runs
	heard     int  // tick of the last heartbeat the leader got
	contact   int  // tick when the agent last heard the leader
	renewed   int  // tick of the last lease renewal
	leaseSeen int  // tick at which the leader's witnesses last saw it change
}

type simServer struct {
	kind  int // 0: volumes, 1: shared directory, 2: the host's own disk, may be made anew
	owner int
	epoch int         // of the storage: writers of lesser ones are refused
	runs  map[int]int // host -> epoch of the copy that runs there
}

type sim struct {
	rng     *rand.Rand
	policy  Policy
	now     int
	hosts   []simHost
	servers []simServer
	records map[int]cloud.Recovery // by host, open ones
	orders  int
	hasty   bool // the leader waits for a quarter of what the agents need
}

func newSim(seed uint64) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 7)), policy: Default(), records: map[int]cloud.Recovery{}}
	s.policy.SelfFenceAfter, s.policy.Margin = 20*time.Second, 10*time.Second
	for range simHosts {
		s.hosts = append(s.hosts, simHost{on: true, mgmt: true, storage: true, agent: true, bmc: s.rng.IntN(2) == 0})
	}
	for i := range 6 {
		h := i % simHosts
		s.servers = append(s.servers, simServer{kind: i % 3, owner: h, epoch: 1, runs: map[int]int{h: 1}})
	}
	return s
}

func (s *sim) name(h int) cloud.HostName    { return cloud.HostName(fmt.Sprint("h", h)) }
func (s *sim) id(i int) cloud.ServerID      { return cloud.ServerID(fmt.Sprint("s", i)) }
func (s *sim) at(tick int) time.Time        { return time.Unix(int64(tick), 0) }
func (s *sim) since(tick int) time.Duration { return time.Duration(s.now-tick) * time.Second }

// fault changes one thing for the worse or the better.
func (s *sim) fault() {
	h := &s.hosts[s.rng.IntN(simHosts)]
	switch s.rng.IntN(7) {
	case 0:
		if h.on = s.rng.IntN(2) == 0; !h.on {
			s.stopAll(h)
		}
	case 1:
		h.mgmt = !h.mgmt
	case 2:
		h.storage = !h.storage
	case 3:
		h.mgmt, h.storage = false, false // cut off
	case 4:
		h.mgmt, h.storage = true, true
	case 5:
		h.bmc = !h.bmc
	case 6: // the leader changes: what it heard is forgotten
		for i := range s.hosts {
			s.hosts[i].heard, s.hosts[i].leaseSeen = s.now, s.now
		}
	}
}

func (s *sim) index(h *simHost) int {
	for i := range s.hosts {
		if &s.hosts[i] == h {
			return i
		}
	}
	return -1
}

func (s *sim) stopAll(h *simHost) {
	for i := range s.servers {
		delete(s.servers[i].runs, s.index(h))
	}
}

// agents beat, renew, and fence themselves, as internal/hostagent does.
func (s *sim) agents() {
	for i := range s.hosts {
		h := &s.hosts[i]
		if !h.on {
			continue
		}
		if h.mgmt {
			h.heard, h.contact = s.now, s.now
		}
		if h.storage {
			h.renewed, h.leaseSeen = s.now, s.now
		}
		after := s.policy.SelfFenceAfter
		for k := range s.servers {
			v := &s.servers[k]
			lost := h.storage && v.kind == 1 && v.runs[i] != 0 && v.runs[i] < v.epoch
			cut := v.kind == 1 && s.since(h.contact) >= after && s.since(h.renewed) >= after
			evacuated := h.mgmt && v.owner != i // the reconciler removes what a host that is heard no longer owns
			if lost || cut || evacuated {
				delete(v.runs, i)
			}
		}
	}
}

// leader judges and recovers.
func (s *sim) leader() {
	for i := range s.hosts {
		h := &s.hosts[i]
		verdict := alive
		if s.since(h.heard) >= 3*time.Second {
			verdict = dead
		}
		rec, open := s.records[i]
		if !open {
			if verdict == alive {
				continue
			}
			rec = cloud.Recovery{ID: cloud.RecoveryID(fmt.Sprint(i, "-", s.now)), Host: s.name(i), Status: cloud.RecoveryFencing}
		}
		c := Case{Recovery: rec, Host: cloud.Host{Name: s.name(i)}, Told: true, Now: s.at(s.now), Servers: map[cloud.ServerID]Server{},
			Life:  Life{Verdict: verdict, Silence: s.since(h.heard), HasLease: true, LeaseAge: s.since(h.leaseSeen), Fencing: true},
			Fence: Fence{Known: h.bmc},
		}
		if h.bmc && open && verdict == dead && s.rng.IntN(3) == 0 { // it was asked and has done it
			h.on = false
			s.stopAll(h)
			c.Fence.Off, c.Fence.Proof = true, "off"
		}
		for k := range s.servers {
			v := &s.servers[k]
			if v.owner != i && !listed(&rec, s.id(k)) {
				continue
			}
			record := &cloud.Server{ID: s.id(k), Host: s.name(v.owner), VMState: cloud.VMActive, Image: "img", Metadata: map[string]string{cloud.MetaRecoveryRebuild: "on"}}
			if v.kind == 0 {
				record.Devices = []cloud.BlockDevice{{BootIndex: 0, Volume: "v"}}
			}
			c.Servers[s.id(k)] = Server{Record: record, Guarded: v.kind == 0, Shared: v.kind == 1}
		}
		policy := s.policy
		if s.hasty {
			policy.SelfFenceAfter, policy.Margin = policy.SelfFenceAfter/4, 0
		}
		step := Next(policy, c)
		for _, o := range step.Orders {
			s.evacuate(o.Server, i)
		}
		if step.Recovery.Status.Final() {
			delete(s.records, i)
		} else {
			s.records[i] = step.Recovery
		}
	}
}

func listed(r *cloud.Recovery, id cloud.ServerID) bool {
	for i := range r.Servers {
		if r.Servers[i].Server == id {
			return true
		}
	}
	return false
}

// evacuate starts the server on a host that the leader hears.
func (s *sim) evacuate(id cloud.ServerID, from int) {
	for k := range s.servers {
		if s.id(k) != id {
			continue
		}
		for t := range s.hosts {
			if h := &s.hosts[t]; t != from && h.on && h.mgmt && h.storage {
				v := &s.servers[k]
				v.epoch++
				v.owner = t
				v.runs[t] = v.epoch
				s.orders++
				return
			}
		}
	}
}

// writers counts the copies of a server that can write its disk: of a volume's only the newest epoch can.
func (s *sim) writers(v *simServer) int {
	n := 0
	for _, epoch := range v.runs {
		if v.kind != 0 || epoch == v.epoch {
			n++
		}
	}
	return n
}

// run returns what went wrong, and how many servers were started elsewhere.
func (s *sim) run() (broken string, orders int) {
	for s.now = 1; s.now <= simTicks; s.now++ {
		if s.rng.IntN(8) == 0 {
			s.fault()
		}
		s.agents()
		s.leader()
		for k := range s.servers {
			if v := &s.servers[k]; s.writers(v) > 1 {
				return fmt.Sprintf("second %d: server %d (kind %d) runs on %v, owner %d; hosts %+v", s.now, k, v.kind, v.runs, v.owner, s.hosts), s.orders
			}
		}
	}
	return "", s.orders
}

func TestNeverTwoCopiesThatCanWriteWhateverFails(t *testing.T) {
	orders := 0
	for seed := range uint64(simSeeds) {
		broken, n := newSim(seed).run()
		if broken != "" {
			t.Fatalf("seed %d, %s", seed, broken)
		}
		orders += n
	}
	if orders < simSeeds { // a simulation in which nothing is recovered proves nothing
		t.Errorf("only %d servers were started elsewhere in %d runs", orders, simSeeds)
	}
}

// A checker that never complains is worth nothing either.
func TestTheSimulationFindsALeaderThatDoesNotWaitForHostsToStopTheirServers(t *testing.T) {
	for seed := range uint64(simSeeds) {
		s := newSim(seed)
		s.hasty = true
		if broken, _ := s.run(); broken != "" {
			t.Logf("seed %d, %s", seed, broken)
			return
		}
	}
	t.Error("it found nothing")
}
