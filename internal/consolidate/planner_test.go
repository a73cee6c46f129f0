package consolidate

import (
	"fmt"
	"math"
	"math/rand"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var policies = []string{"godwit", "neat", "dvfs", "thr-mmt-0.8", "mad-mc", "iqr-rs", "lr-mmt", "lrr-mu", "neat/thr-mmtmc-0.8", "neat/otftm-mmt", "otft-mmt", "mhod-mmtmc"}

func parse(t interface {
	Helper()
	Fatal(...any)
}, name string) Planner {
	t.Helper()
	p, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// anyFleet draws a fleet that is in order: guests fit their hosts' memory.
func anyFleet(t *rapid.T) *Fleet {
	f := &Fleet{StepSeconds: 300}
	limitRAM := rapid.Bool().Draw(t, "limit memory")
	for h := range rapid.IntRange(1, 12).Draw(t, "hosts") {
		host := Host{CPU: 3720, CPUCore: 1860, MigrationMiBps: 62.5, Power: &ProLiantG4, Memory: &Memory{}}
		if h%2 == 1 {
			host.CPU, host.CPUCore, host.Power = 5320, 2660, &ProLiantG5
		}
		if limitRAM {
			host.RAMMiB = 4096
		}
		used := 0.0
		for range rapid.IntRange(0, 4).Draw(t, "guests") {
			history := rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 35).Draw(t, "history")
			g := Guest{
				Host: HostIndex(h), CPU: rapid.SampledFrom([]float64{500, 1000, 2000, 2500}).Draw(t, "cpu"), RAMMiB: rapid.SampledFrom([]float64{613, 870}).Draw(t, "ram"),
				History: history, Pinned: rapid.IntRange(0, 9).Draw(t, "pin") == 0,
			}
			g.Demand = history[len(history)-1] * g.CPU
			used += g.Demand
			host.Guests = append(host.Guests, GuestIndex(len(f.Guests)))
			f.Guests = append(f.Guests, g)
		}
		host.Utilisation, host.Asleep = min(used/host.CPU, 1), len(host.Guests) == 0
		f.Hosts = append(f.Hosts, host)
	}
	return f
}

func TestPlansAreInOrder(t *testing.T) {
	for _, name := range policies {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			f := anyFleet(t)
			p := parse(t, name)
			p.Observe(f)
			before := fmt.Sprintf("%+v", f)
			moves := p.Plan(f, rand.New(rand.NewSource(1)))
			if after := fmt.Sprintf("%+v", f); after != before {
				t.Fatalf("Plan changed the fleet:\n%s\n%s", before, after)
			}
			if again := p.Plan(f, rand.New(rand.NewSource(1))); !reflect.DeepEqual(moves, again) {
				t.Fatalf("equal fleets, different plans: %v, %v", moves, again)
			}
			checkMoves(t, f, Collapse(moves))
		}))
	}
}

// checkMoves fails when a plan moves a guest twice, a pinned one, to where it is, or over a host's memory while all are under way.
func checkMoves(t *rapid.T, f *Fleet, moves []Move) {
	held := make([]float64, len(f.Hosts))
	for i := range f.Guests {
		held[f.Guests[i].Host] += f.Guests[i].RAMMiB
	}
	moved := map[GuestIndex]bool{}
	for _, m := range moves {
		g := f.Guests[m.Guest]
		switch {
		case moved[m.Guest]:
			t.Fatalf("guest %d moves twice", m.Guest)
		case g.Pinned:
			t.Fatalf("guest %d is pinned", m.Guest)
		case m.From != g.Host || m.To == g.Host || m.To < 0 || int(m.To) >= len(f.Hosts):
			t.Fatalf("guest %d is on host %d: %+v", m.Guest, g.Host, m)
		}
		moved[m.Guest] = true
		held[m.To] += g.RAMMiB
	}
	for h, mib := range held {
		if limit := f.Hosts[h].RAMMiB; limit > 0 && mib > limit {
			t.Fatalf("host %d holds %v of %v MiB", h, mib, limit)
		}
	}
}

func TestHostsAreShortAfterAGodwitRoundOnlyForWantOfHosts(t *testing.T) {
	p := DefaultGodwit()
	rapid.Check(t, func(t *rapid.T) {
		f := anyFleet(t)
		for i := range f.Guests {
			f.Guests[i].Pinned = false
		}
		asked := make([]float64, len(f.Hosts))
		for i := range f.Guests {
			asked[f.Guests[i].Host] += f.Guests[i].Demand
		}
		for _, m := range p.Plan(f, nil) {
			asked[m.From] -= f.Guests[m.Guest].Demand
			asked[m.To] += f.Guests[m.Guest].Demand
			if m.Reason == ReasonOverload && asked[m.To] > f.Hosts[m.To].CPU && len(f.Hosts[m.To].Guests) > 0 {
				t.Fatalf("%+v overloads its target: %v of %v", m, asked[m.To], f.Hosts[m.To].CPU)
			}
		}
	})
}

func TestCollapseJoinsMovesOfOneGuest(t *testing.T) {
	got := Collapse([]Move{{Guest: 1, From: 0, To: 1}, {Guest: 2, From: 0, To: 3}, {Guest: 1, From: 1, To: 2}, {Guest: 2, From: 3, To: 0}})
	if want := []Move{{Guest: 1, From: 0, To: 2}}; !slices.Equal(got, want) {
		t.Errorf("collapsed to %+v, want %+v", got, want)
	}
}

func TestPaperEmptiesTheLeastUsedHost(t *testing.T) {
	f := small([]float64{0.5, 0.5}, []float64{0.1}, []float64{0.4}, nil)
	moves := parse(t, "thr-mmt-0.8").Plan(f, nil)
	if len(moves) == 0 || moves[0].From != 1 || moves[0].Reason != ReasonUnderload {
		t.Errorf("moves %+v, want host 1 emptied first", moves)
	}
	for _, m := range moves {
		if m.To == 3 {
			t.Errorf("a sleeping host was woken to empty another: %+v", m)
		}
	}
}

func TestPaperRelievesUntilTheDetectorIsContent(t *testing.T) {
	f := small([]float64{0.9, 0.5, 0.5}, nil, nil)
	f.Guests[2].RAMMiB = 256 // MMT takes it first, and it is enough
	moves := parse(t, "thr-mmt-0.8").Plan(f, nil)
	if len(moves) != 1 || moves[0].Guest != 2 || moves[0].Reason != ReasonOverload {
		t.Errorf("moves %+v, want guest 2 alone", moves)
	}
}

func TestNeatMovesOneGuestPerOverloadedHost(t *testing.T) {
	f := small([]float64{0.9, 0.9, 0.9}, []float64{0.7, 0.5})
	moves := parse(t, "neat/thr-mmt-0.8").Plan(f, nil)
	if len(moves) != 0 {
		t.Errorf("moves %+v: host 1 has no room at 80 %%, and none sleeps", moves)
	}
	f = small([]float64{0.9, 0.9, 0.9}, []float64{0.7, 0.5}, nil)
	if moves = parse(t, "neat/thr-mmt-0.8").Plan(f, nil); len(moves) != 1 || moves[0].To != 2 {
		t.Errorf("moves %+v, want one, to the host that slept", moves)
	}
}

func TestGodwitFillsHostsOfSteadyGuestsFurther(t *testing.T) {
	plan := func(spread float64) int {
		f := small([]float64{0.4, 0.4, 0.4, 0.3}, []float64{0.2, 0.2})
		for i := range f.Guests {
			mean := f.Guests[i].History[0]
			for k := range f.Guests[i].History {
				f.Guests[i].History[k] = mean + spread*float64(1-2*(k%2))*mean
			}
		}
		return len(DefaultGodwit().Plan(f, nil))
	}
	if n := plan(0); n != 2 {
		t.Errorf("steady guests: %d moves, want host 1 emptied with 2", n)
	}
	if n := plan(0.9); n != 0 {
		t.Errorf("jumpy guests: %d moves, want none", n)
	}
}

func TestGodwitDisturbsNothingThatIsInOrder(t *testing.T) {
	f := small([]float64{0.5, 0.5, 0.5, 0.2}, []float64{0.5, 0.5, 0.4, 0.2}, nil)
	if moves := DefaultGodwit().Plan(f, nil); len(moves) != 0 {
		t.Errorf("moves %+v: two well-filled hosts need none", moves)
	}
}

func TestGodwitPrefersTheHostsThatTheScarceResourceWants(t *testing.T) {
	f := &Fleet{StepSeconds: 300, Hosts: []Host{
		{CPU: 3720, CPUCore: 1860, MigrationMiBps: 60, Power: &ProLiantG4, Asleep: true}, {CPU: 5320, CPUCore: 2660, MigrationMiBps: 60, Power: &ProLiantG5, Asleep: true},
	}}
	f.Guests = []Guest{{Host: Nowhere, CPU: 1000, Demand: 1000, RAMMiB: 1000}}
	if got := DefaultGodwit().Place(f, 0); got != 1 {
		t.Errorf("where CPU is scarce the guest boots on host %d, want the more efficient one", got)
	}
}

func TestShadowPricesAreALowerBound(t *testing.T) {
	classes := []HostClass{{Count: 400, CPU: 3720, RAMMiB: 4096, Power: &ProLiantG4}, {Count: 400, CPU: 5320, RAMMiB: 4096, Power: &ProLiantG5}}
	near(t, "CPU alone", ShadowPrices([]HostClass{{Count: 400, CPU: 5320, Power: &ProLiantG5}}, 53200, 0).Watts, 1350, 1e-6)
	near(t, "memory alone", ShadowPrices(classes, 0, 40960).Watts, 860, 1e-6)
	both := ShadowPrices(classes, 200000, 1.3e6).Watts
	if cpu, ram := ShadowPrices(classes, 200000, 0).Watts, ShadowPrices(classes, 0, 1.3e6).Watts; both < cpu || both < ram {
		t.Errorf("both resources need %v watts, less than one alone (%v, %v)", both, cpu, ram)
	}
	rapid.Check(t, func(t *rapid.T) {
		// Any real placement on some hosts draws at least the bound.
		var cpu, ram, watts float64
		for range rapid.IntRange(1, 50).Draw(t, "hosts") {
			c := classes[rapid.IntRange(0, 1).Draw(t, "class")]
			u := rapid.Float64Range(0, 1).Draw(t, "load")
			cpu += u * c.CPU
			ram += rapid.Float64Range(0, 1).Draw(t, "memory") * c.RAMMiB
			watts += c.Power.At(u)
		}
		if bound := ShadowPrices(classes, cpu, ram).Watts; bound > watts*(1+1e-9) || math.IsNaN(bound) {
			t.Fatalf("bound %v above a placement of %v", bound, watts)
		}
	})
}

func TestForecastLearnsHowMuchLasts(t *testing.T) {
	rng := rand.New(rand.NewSource(3))
	for _, lasting := range []float64{0, 0.5, 0.95} {
		f := &Fleet{StepSeconds: 300, Hosts: []Host{{CPU: 1e6, Power: &ProLiantG5}}}
		for g := range 400 {
			x, history := 0.0, make([]float64, HistoryLength)
			for k := -50; k < HistoryLength; k++ {
				x = lasting*x + math.Sqrt(1-lasting*lasting)*rng.NormFloat64()
				if k >= 0 {
					history[k] = 0.5 + 0.1*x
				}
			}
			f.Guests = append(f.Guests, Guest{CPU: 1000, Demand: 1000 * history[HistoryLength-1], History: history})
			f.Hosts[0].Guests = append(f.Hosts[0].Guests, GuestIndex(g))
		}
		near(t, fmt.Sprintf("what lasts of %v", lasting), newPacking(f).lasting, lasting, 0.12)
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, bad := range []string{"", "lr", "lr-xyz", "xyz-mmt", "lr-mmt-x", "lr-mmt--1", "lr-mmt-NaN", "neat/godwit"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q was taken for a policy", bad)
		}
	}
	p := parse(t, "LR-MMT-1.3").(Paper)
	if d := p.Overload.(Regression); d.Safety != 1.3 || d.Weighted {
		t.Errorf("LR-MMT-1.3 became %+v", p)
	}
}

// The size that the project aims at: a round for 1,000 hosts and 20,000 servers.
func BenchmarkGodwitPlan(b *testing.B) {
	for _, hosts := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			f := benchmarkFleet(hosts, 20*hosts)
			b.ResetTimer()
			for range b.N {
				DefaultGodwit().Plan(f, nil)
			}
		})
	}
}

func benchmarkFleet(hosts, guests int) *Fleet {
	rng := rand.New(rand.NewSource(1))
	f := &Fleet{StepSeconds: 300, Hosts: make([]Host, hosts), Guests: make([]Guest, guests)}
	for h := range f.Hosts {
		f.Hosts[h] = Host{CPU: 5320, CPUCore: 2660, MigrationMiBps: 62.5, Power: &ProLiantG5, RAMMiB: 65536}
	}
	for g := range f.Guests {
		h := HostIndex(g % hosts * 3 / 4) // a quarter of the hosts sleeps
		history := make([]float64, HistoryLength)
		mean := 0.3 * rng.Float64()
		for k := range history {
			history[k] = max(0, mean+0.1*rng.NormFloat64())
		}
		f.Guests[g] = Guest{Host: h, CPU: 1250, Demand: 1250 * history[HistoryLength-1], RAMMiB: 1000, History: history}
		f.Hosts[h].Guests = append(f.Hosts[h].Guests, GuestIndex(g))
		f.Hosts[h].Utilisation = min(1, f.Hosts[h].Utilisation+f.Guests[g].Demand/5320)
	}
	for h := range f.Hosts {
		f.Hosts[h].Asleep = len(f.Hosts[h].Guests) == 0
	}
	return f
}

func TestBalanceEvensLoadsOutAndThenRests(t *testing.T) {
	power := ProLiantG4
	f := &Fleet{StepSeconds: 300}
	for range 3 {
		f.Hosts = append(f.Hosts, Host{CPU: 4, RAMMiB: 4096, MigrationMiBps: 100, Power: &power})
	}
	for i, demand := range []float64{1, 0.8, 0.6, 0.5, 0.4} { // all on the first host
		f.Guests = append(f.Guests, Guest{Host: 0, CPU: 2, Demand: demand, RAMMiB: 256})
		f.Hosts[0].Guests = append(f.Hosts[0].Guests, GuestIndex(i))
	}
	f.Guests[0].Pinned = true
	f.Allows = func(_ GuestIndex, h HostIndex) bool { return h != 2 }
	moves := DefaultBalance().Plan(f, nil)
	if len(moves) == 0 {
		t.Fatal("nothing moves off the only loaded host")
	}
	for _, m := range moves {
		if m.Guest == 0 || m.To == 2 || m.Reason != ReasonBalance {
			t.Errorf("move %+v: the first guest is pinned, the third host is not allowed", m)
		}
		g := &f.Guests[m.Guest]
		f.Hosts[m.From].Guests = slices.DeleteFunc(f.Hosts[m.From].Guests, func(on GuestIndex) bool { return on == m.Guest })
		f.Hosts[m.To].Guests = append(f.Hosts[m.To].Guests, m.Guest)
		g.Host = m.To
	}
	l := newLoads(f)
	if gap := l.cpu(0) - l.cpu(1); gap > 0.2 || gap < -0.2 {
		t.Errorf("loads are %v and %v after %d moves", l.cpu(0), l.cpu(1), len(moves))
	}
	if again := DefaultBalance().Plan(f, nil); len(again) != 0 {
		t.Errorf("a balanced fleet is stirred again: %v", again)
	}
}

func TestNoPlannerMovesWhatIsPinnedOrToWhereItIsNotAllowed(t *testing.T) {
	for _, name := range []string{"godwit", "neat", "neat/thr-mmt-0.8", "lr-mmt-1.2", "thr-mmt-0.8", "mad-mu-2.5", "balance"} {
		moved := 0
		rapid.Check(t, func(t *rapid.T) {
			planner, err := Parse(name)
			if err != nil {
				t.Fatal(err)
			}
			f := &Fleet{StepSeconds: 300, CPUUnit: 1e-3}
			hosts := rapid.IntRange(2, 6).Draw(t, "hosts")
			for range hosts {
				f.Hosts = append(f.Hosts, Host{CPU: 4, RAMMiB: 8192, MigrationMiBps: 100, Power: &ProLiantG5, Memory: &Memory{}})
			}
			for i := range rapid.IntRange(1, 20).Draw(t, "guests") {
				h := HostIndex(rapid.IntRange(0, hosts-1).Draw(t, "host"))
				demand := rapid.Float64Range(0, 1).Draw(t, "demand")
				g := Guest{Host: h, CPU: 1, Demand: demand, RAMMiB: 256, Pinned: rapid.IntRange(0, 4).Draw(t, "pinned") == 0}
				for range HistoryLength {
					g.History = append(g.History, demand)
				}
				f.Guests = append(f.Guests, g)
				f.Hosts[h].Guests = append(f.Hosts[h].Guests, GuestIndex(i))
				f.Hosts[h].Utilisation = min(1, f.Hosts[h].Utilisation+demand/4)
			}
			forbidden := HostIndex(rapid.IntRange(0, hosts-1).Draw(t, "forbidden"))
			f.Allows = func(g GuestIndex, h HostIndex) bool { return h != forbidden || g%2 == 0 }
			planner.Observe(f)
			for _, m := range Collapse(planner.Plan(f, rand.New(rand.NewSource(1)))) {
				moved++
				if f.Guests[m.Guest].Pinned || m.To == forbidden && m.Guest%2 == 1 {
					t.Fatalf("%s: move %+v, pinned %t, host %d forbidden to odd guests", name, m, f.Guests[m.Guest].Pinned, forbidden)
				}
			}
		})
		if moved == 0 {
			t.Errorf("%s moved nothing in all fleets", name)
		}
	}
}

func TestNeatsUnderloadIsChosenByName(t *testing.T) {
	for name, want := range map[string]Underload{
		"neat": LastNAverage{Share: 0.5, N: 2}, "neat/thr-mmt": LastNAverage{Share: 0.5, N: 2}, "neat/threshold-0.4/thr-mmtmc-0.8": LastBelow{Share: 0.4},
		"neat/last_n_average_threshold-0.3/mhod-mmtmc": LastNAverage{Share: 0.3, N: 2}, "neat/always_underloaded/lrr-rs": AlwaysUnderloaded{},
	} {
		p, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.(Neat).Underload; got != want {
			t.Errorf("%s: %#v, want %#v", name, got, want)
		}
	}
	for _, name := range []string{"neat/never/thr-mmt", "neat/threshold-2/thr-mmt", "threshold/thr-mmt", "neat/threshold-0.4"} {
		if _, err := Parse(name); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
