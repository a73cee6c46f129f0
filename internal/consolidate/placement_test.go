package consolidate

import (
	"math/rand"
	"slices"
	"testing"
)

// small makes a fleet of equal hosts from what the guests on each ask for, in shares of a core of 1000.
func small(demands ...[]float64) *Fleet {
	f := &Fleet{StepSeconds: 300}
	for h, guests := range demands {
		host := Host{CPU: 2000, CPUCore: 1000, MigrationMiBps: 50, Power: &ProLiantG5, Memory: &Memory{}, Asleep: len(guests) == 0}
		sum := 0.0
		for _, d := range guests {
			g := GuestIndex(len(f.Guests))
			f.Guests = append(f.Guests, Guest{Host: HostIndex(h), CPU: 1000, Demand: d * 1000, RAMMiB: 512, History: repeat(d, 12)})
			host.Guests = append(host.Guests, g)
			sum += d * 1000
		}
		host.Utilisation = min(sum/host.CPU, 1)
		f.Hosts = append(f.Hosts, host)
	}
	return f
}

func TestPowerIsInterpolated(t *testing.T) {
	for _, c := range []struct{ at, want float64 }{{0, 93.7}, {0.05, 95.35}, {0.1, 97}, {0.85, 131}, {1, 135}, {1.2, 135}, {-1, 93.7}} {
		near(t, "watts", ProLiantG5.At(c.at), c.want, 1e-9)
	}
}

func TestUnderload(t *testing.T) {
	for _, c := range []struct {
		name string
		d    Underload
		load Load
		want bool
	}{
		{"mean of the last two at the limit", LastNAverage{0.5, 2}, loadOf(0.9, 0.4, 0.6), true},
		{"mean of the last two above", LastNAverage{0.5, 2}, loadOf(0.1, 0.5, 0.6), false},
		{"short series are padded with zeros", LastNAverage{0.5, 2}, loadOf(0.9), true},
		{"last below", LastBelow{0.5}, loadOf(0.9, 0.5), true},
		{"last above", LastBelow{0.5}, loadOf(0.1, 0.6), false},
		{"always", AlwaysUnderloaded{}, loadOf(1), true},
	} {
		if got := c.d.Underloaded(c.load); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestSelectionsPickAsTheirNamesSay(t *testing.T) {
	f := &Fleet{Guests: []Guest{
		{RAMMiB: 870, CPU: 1000, Demand: 100, History: []float64{0.1, 0.5, 0.1}},
		{RAMMiB: 613, CPU: 1000, Demand: 300, History: []float64{0.9, 0.1, 0.3}},
		{RAMMiB: 613, CPU: 1000, Demand: 200, History: []float64{0.0, 0.6, 0.2}},
		{RAMMiB: 1740, CPU: 1000, Demand: 50, History: []float64{0.0, 0.0, 0.05}},
	}}
	all := []GuestIndex{0, 1, 2, 3}
	for _, c := range []struct {
		name string
		s    Selector
		want GuestIndex
	}{{"MMT", MinimumMigrationTime{}, 1}, {"MU", MinimumUtilisation{}, 3}, {"MMT, max CPU of the last 2", MMTMaxCPU{2}, 2}, {"MMT, max CPU of the last 3", MMTMaxCPU{3}, 1}} {
		if got, ok := c.s.Select(f, all, nil); !ok || got != c.want {
			t.Errorf("%s picked %d (%v), want %d", c.name, got, ok, c.want)
		}
		if _, ok := c.s.Select(f, nil, nil); ok {
			t.Errorf("%s picked from nobody", c.name)
		}
	}
	f.Guests[1].History, f.Guests[2].History = repeat(0, 3), repeat(0, 3)
	if _, ok := (MMTMaxCPU{2}).Select(f, all, nil); ok {
		t.Error("MMT with maximal CPU wants no guest that used nothing")
	}
}

func TestRandomSelectionPicksEverybodyAlike(t *testing.T) {
	rng, picked := rand.New(rand.NewSource(1)), map[GuestIndex]int{}
	for range 3000 {
		g, _ := RandomSelection{}.Select(nil, []GuestIndex{4, 5, 6}, rng)
		picked[g]++
	}
	for g, n := range picked {
		if n < 900 || n > 1100 {
			t.Errorf("guest %d picked %d times of 3000", g, n)
		}
	}
}

func TestMaximumCorrelationPicksTheGuestThatFollowsOthers(t *testing.T) {
	rng := rand.New(rand.NewSource(7))
	f := &Fleet{Guests: make([]Guest, 4)}
	for i := range f.Guests {
		f.Guests[i] = Guest{CPU: 1000, RAMMiB: 500, History: make([]float64, 20)}
	}
	for k := range 20 {
		for i := range 3 {
			f.Guests[i].History[k] = rng.Float64()
		}
		f.Guests[3].History[k] = (f.Guests[0].History[k] + f.Guests[1].History[k]) / 2
	}
	series := alignedHistories(f, []GuestIndex{0, 1, 2, 3})
	if r2, ok := MultipleCorrelation(series, 3); !ok || r2 < 0.999 {
		t.Errorf("R² of the follower is %v", r2)
	}
	if r2, _ := MultipleCorrelation(series, 2); r2 > 0.6 {
		t.Errorf("R² of the loner is %v", r2)
	}
	if g, _ := (MaximumCorrelation{MinimumMigrationTime{}}).Select(f, []GuestIndex{0, 1, 2, 3}, nil); g == 2 {
		t.Error("MC picked the loner")
	}
}

// Neat's example: three hosts that each guest fits just once.
func TestBFDHasNeatsAnswer(t *testing.T) {
	f := &Fleet{}
	for _, h := range []struct{ cpu, ram float64 }{{3000, 1024}, {1000, 4096}, {2000, 2048}} {
		f.Hosts = append(f.Hosts, Host{CPU: h.cpu, RAMMiB: h.ram, Power: &ProLiantG5})
	}
	for i, cpu := range []float64{2000, 1000, 3000} {
		f.Guests = append(f.Guests, Guest{Host: Nowhere, CPU: cpu, Demand: cpu, RAMMiB: 512})
		f.Guests = append(f.Guests, Guest{Host: HostIndex(i)}) // so that the host counts as awake
		f.Hosts[i].Guests = []GuestIndex{GuestIndex(2*i + 1)}
	}
	got, ok := BestFit{CPUShare: 1, RAMShare: 1, LastN: 1}.Place(NewBench(f), []GuestIndex{0, 2, 4}, make([]bool, 3), false)
	if want := []HostIndex{2, 1, 0}; !ok || !slices.Equal(got, want) {
		t.Errorf("BFD placed on %v, want %v", got, want)
	}
	f.Guests[4].CPU = 3001
	if _, ok := (BestFit{CPUShare: 1, RAMShare: 1, LastN: 1}).Place(NewBench(f), []GuestIndex{0, 2, 4}, make([]bool, 3), false); ok {
		t.Error("BFD placed some guests when it could not place all")
	}
}

func TestBFDWakesTheSmallestSleepingHost(t *testing.T) {
	f := small([]float64{0.9, 0.7}, nil, nil)
	f.Hosts[1].CPU = 3000
	f.Guests = append(f.Guests, Guest{Host: Nowhere, CPU: 1000, History: repeat(0.5, 3)})
	bfd := BestFit{CPUShare: 0.8, RAMShare: 0.95, LastN: 2}
	if got, ok := bfd.Place(NewBench(f), []GuestIndex{2}, make([]bool, 3), true); !ok || got[0] != 2 {
		t.Errorf("BFD took host %v, want the smaller sleeping one, 2", got)
	}
	if _, ok := bfd.Place(NewBench(f), []GuestIndex{2}, make([]bool, 3), false); ok {
		t.Error("BFD used 80 % twice: 1600 of 2000 are all that may be used")
	}
}

func TestPABFDPicksTheLeastGrowthOfPower(t *testing.T) {
	f := small([]float64{0.2}, []float64{0.6}, []float64{0.3})
	f.Guests = append(f.Guests, Guest{Host: Nowhere, CPU: 1000, Demand: 200, RAMMiB: 512})
	// At 10, 30 and 15 % a tenth more costs a G5 4, 5 and 4 watts; the ties go to the first host.
	if got := (PowerAware{Threshold{0.8}}).Host(NewBench(f), 3, nil); got != 0 {
		t.Errorf("PABFD picked host %d", got)
	}
	if got := (PowerAware{Threshold{0.8}}).Host(NewBench(f), 3, []bool{true, false, false}); got != 2 {
		t.Errorf("without host 0 PABFD picked host %d", got)
	}
	if got := (PowerAware{Threshold{0.15}}).Host(NewBench(f), 3, nil); got != Nowhere {
		t.Errorf("PABFD overloaded host %d", got)
	}
}

func TestPABFDHonoursCoreAndMemory(t *testing.T) {
	f := small([]float64{0.2}, []float64{0.2})
	f.Guests = append(f.Guests, Guest{Host: Nowhere, CPU: 2000, Demand: 1200, RAMMiB: 512})
	if got := (PowerAware{Threshold{1}}).Host(NewBench(f), 2, nil); got != Nowhere {
		t.Errorf("one virtual CPU of 1200 went to cores of 1000, host %d", got)
	}
	f.Guests[2].Demand = 100
	f.Hosts[0].RAMMiB = 1000
	if got := (PowerAware{Threshold{1}}).Host(NewBench(f), 2, nil); got != 1 {
		t.Errorf("the guest went to host %d, which has memory for it?", got)
	}
}
