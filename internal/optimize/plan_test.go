package optimize

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

func planned(t *testing.T, f *fleet, goal cloud.OptimizeGoal) Outcome {
	t.Helper()
	o, err := Plan(&f.Input, goal, "")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func refusedFor(o Outcome, text string) bool {
	for _, r := range o.Refused {
		if strings.Contains(r.Reason, text) {
			return true
		}
	}
	return false
}

func quiet() *fleet {
	f := newFleet(3)
	f.add("a", "host-1", 0.2)
	f.add("b", "host-1", 0.3)
	f.add("c", "host-2", 0.2)
	f.add("d", "host-3", 0.1)
	return f
}

func TestAQuietFleetIsConsolidatedAndTheEmptiedHostSleeps(t *testing.T) {
	f := quiet()
	o := planned(t, f, cloud.GoalConsolidate)
	if len(moves(o)) != 1 || moves(o)[0].Server != "d" || moves(o)[0].Cost == nil || moves(o)[0].Gain <= 0 || moves(o)[0].Reason == "" {
		t.Fatalf("moves %+v: want d alone, with a gain, a cost and a reason", moves(o))
	}
	asleep := ofKind(o, cloud.ActionSleep)
	if len(asleep) != 1 || asleep[0].Host != "host-3" {
		t.Fatalf("sleeps %+v: want host-3, and two awake so that one may fail", asleep)
	}
	if e := o.Effect; e.AwakeBefore != 3 || e.AwakeAfter != 2 || e.WattsAfter >= e.WattsBefore || e.GainWattHours <= 0 {
		t.Errorf("effect %+v", e)
	}
	if !refusedFor(o, "2 hosts must stay awake") {
		t.Errorf("nothing says why host-2 is not emptied: %+v", o.Refused)
	}
	f.carryOut(o)
	if again := planned(t, f, cloud.GoalConsolidate); len(again.Actions) != 0 {
		t.Errorf("the second plan has %+v", again.Actions)
	}
}

func TestStoppedServersSleepWithTheirHost(t *testing.T) {
	f := quiet()
	for _, s := range f.Servers {
		if s.ID == "d" {
			s.VMState, s.Power = cloud.VMStopped, cloud.PowerShutdown
		}
	}
	o := planned(t, f, cloud.GoalConsolidate)
	if asleep := ofKind(o, cloud.ActionSleep); len(moves(o)) != 0 || len(asleep) != 1 || asleep[0].Host != "host-3" {
		t.Errorf("actions %+v: want host-3 to sleep with its stopped server", o.Actions)
	}
}

func TestADisabledHostIsNobodysRoom(t *testing.T) {
	f := quiet()
	f.Settings.Failover = 1
	f.view("host-1").Host.Disabled = true // two take servers: one alone would hold all, but none may fail then
	if o := planned(t, f, cloud.GoalConsolidate); len(ofKind(o, cloud.ActionSleep)) != 0 {
		t.Errorf("actions %+v: a host sleeps while another takes no servers", o.Actions)
	}
}

func TestWhatKeepsAServerWhereItIsIsSaid(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(f *fleet)
		want   string
	}{
		{"never proven", func(f *fleet) {
			for h, p := range f.Powers {
				p.WakeProven = time.Time{}
				f.Powers[h] = p
			}
		}, "wake-test"},
		{"proven long ago", func(f *fleet) {
			for h, p := range f.Powers {
				p.WakeProven = noon.Add(-1000 * time.Hour)
				f.Powers[h] = p
			}
		}, "too long ago"},
		{"woke just now", func(f *fleet) {
			for h, p := range f.Powers {
				p.Since = noon.Add(-time.Minute)
				f.Powers[h] = p
			}
		}, "stays awake for at least"},
		{"moved lately", func(f *fleet) {
			for _, s := range f.Servers {
				f.Rates.Own[s.ID] = OwnRate{Finished: noon.Add(-time.Minute)}
			}
		}, "no server moves twice within"},
		{"manual", func(f *fleet) {
			for _, s := range f.Servers {
				s.Metadata[cloud.MetaAutomation] = "off"
			}
		}, "automation level is manual"},
		{"partial, and nobody looks", func(f *fleet) {
			f.By = cloud.AutomationFull
			for _, s := range f.Servers {
				s.Flavor.ExtraSpecs = map[string]string{cloud.MetaAutomation: "partial"}
			}
		}, "automation level is partial"},
		{"stopped", func(f *fleet) {
			for _, s := range f.Servers {
				s.VMState, s.Metadata[cloud.MetaAutomation] = cloud.VMStopped, "off"
			}
		}, "only running servers move live"},
		{"no telemetry", func(f *fleet) { f.Readings.Servers = map[cloud.ServerID]telemetry.ServerReading{} }, "nothing is known of its load"},
		{"no net benefit", func(f *fleet) { f.Settings.Horizon = time.Second }, "not worth it"},
		{"would not converge", func(f *fleet) {
			for id, r := range f.Readings.Servers {
				r.DirtyBytesPerSecond = 1 << 40
				f.Readings.Servers[id] = r
			}
		}, "would not end by itself"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := quiet()
			tt.change(f)
			o := planned(t, f, cloud.GoalConsolidate)
			if len(moves(o)) != 0 {
				t.Errorf("moves %+v", moves(o))
			}
			if !refusedFor(o, tt.want) {
				t.Errorf("no refusal says %q: %+v", tt.want, o.Refused)
			}
		})
	}
}

func TestAPlanKeepsAffinityEvenAmongItsOwnMoves(t *testing.T) {
	f := newFleet(4)
	f.Settings.Failover = 0
	f.Snapshot.Groups["g"] = cloud.ServerGroup{ID: "g", Policy: cloud.PolicyAntiAffinity, Placed: map[cloud.ServerID][]cloud.HostName{}}
	for i := range 4 {
		s := f.add(fmt.Sprintf("s%d", i), fmt.Sprintf("host-%d", i+1), 0.1)
		s.Group = "g"
		f.Snapshot.Groups["g"].Placed[s.ID] = []cloud.HostName{s.Host}
	}
	if o := planned(t, f, cloud.GoalConsolidate); len(moves(o)) != 0 {
		t.Errorf("members of an anti-affinity group move together: %+v", moves(o))
	}
}

func TestAnOverloadedHostIsRelievedByWakingOne(t *testing.T) {
	f := newFleet(3)
	f.Settings.Failover = 0
	for i := range 8 {
		f.add(fmt.Sprintf("a%d", i), "host-1", 1.4)
		f.add(fmt.Sprintf("b%d", i), "host-2", 0.9)
	}
	p := f.Powers["host-3"]
	p.State = cloud.HostAsleep
	f.Powers["host-3"] = p
	f.view("host-3").Up = false
	o := planned(t, f, cloud.GoalConsolidate)
	wakes := ofKind(o, cloud.ActionWake)
	if len(wakes) != 1 || wakes[0].Host != "host-3" || o.Actions[0].Kind != cloud.ActionWake {
		t.Fatalf("actions %+v: want the wake of host-3 first", o.Actions)
	}
	if o.Effect.ShortBefore <= 0 || o.Effect.ShortAfter > 0.01 {
		t.Errorf("short by %.2f CPUs before and %.2f after", o.Effect.ShortBefore, o.Effect.ShortAfter)
	}
}

func TestARisingLoadWakesAHostBeforeItIsNeeded(t *testing.T) {
	f := newFleet(2)
	f.Settings.Failover = 0
	s := f.add("a", "host-1", 1)
	s.Flavor.VCPUs = 8
	p := f.Powers["host-2"]
	p.State, p.WakeTook = cloud.HostAsleep, 10*time.Minute
	f.Powers["host-2"] = p
	f.view("host-2").Up = false
	if o := planned(t, f, cloud.GoalConsolidate); len(o.Actions) != 0 {
		t.Fatalf("a steady load wakes a host: %+v", o.Actions)
	}
	history := []float64{1, 1, 1, 2, 3, 4, 5, 5.5} // fits now, not in two steps
	f.Readings.Servers["a"] = telemetry.ServerReading{At: noon, CPUUsed: 5.5, DirtyBytesPerSecond: -1, History: history}
	o := planned(t, f, cloud.GoalConsolidate)
	if w := ofKind(o, cloud.ActionWake); len(w) != 1 || !strings.Contains(w[0].Reason, "soon be asked for") {
		t.Errorf("actions %+v: want host-2 awake ahead of the need", o.Actions)
	}
}

func TestBalanceMovesFromTheLoadedToTheIdle(t *testing.T) {
	f := newFleet(2)
	for i := range 4 {
		f.add(fmt.Sprintf("a%d", i), "host-1", 1)
	}
	o := planned(t, f, cloud.GoalBalance)
	if len(moves(o)) != 2 || o.Effect.SpreadAfter >= o.Effect.SpreadBefore || len(ofKind(o, cloud.ActionSleep)) != 0 {
		t.Errorf("moves %+v, effect %+v: want two moves, less spread, nobody asleep", moves(o), o.Effect)
	}
}

// A day of load that jumps about, a plan every step: no server moves twice within the window, and hosts are not woken and put to sleep in turns.
func TestNoServerMovesTwiceInAWindowWhateverTheLoadDoes(t *testing.T) {
	for _, goal := range []cloud.OptimizeGoal{cloud.GoalConsolidate, cloud.GoalBalance} {
		t.Run(string(goal), func(t *testing.T) { thrash(t, goal) })
	}
}

func thrash(t *testing.T, goal cloud.OptimizeGoal) {
	rng := rand.New(rand.NewSource(7))
	f := newFleet(10)
	for i := range 40 {
		f.add(fmt.Sprintf("s%d", i), fmt.Sprintf("host-%d", i%10+1), 0.5)
	}
	last := map[cloud.ServerID]time.Time{}
	total := 0
	for step := range 288 {
		f.Snapshot.Now = noon.Add(time.Duration(step) * 5 * time.Minute)
		for _, s := range f.Servers {
			r := f.Readings.Servers[s.ID]
			r.CPUUsed = 2 * rng.Float64() * rng.Float64()
			r.History = append(r.History[1:], r.CPUUsed)
			f.Readings.Servers[s.ID] = r
		}
		o := planned(t, f, goal)
		for _, m := range moves(o) {
			if at, moved := last[m.Server]; moved && f.Snapshot.Now.Sub(at) < f.Settings.Window {
				t.Fatalf("server %s moved %s after its last move", m.Server, f.Snapshot.Now.Sub(at))
			}
			last[m.Server] = f.Snapshot.Now
			total++
		}
		if n := len(moves(o)); n > f.Settings.MovesMax && !emptiesOneHost(o) {
			t.Fatalf("%d moves in a plan, at most %d are allowed", n, f.Settings.MovesMax)
		}
		f.carryOut(o)
	}
	t.Logf("%d moves in a day of 40 servers", total)
	if total == 0 {
		t.Error("nothing ever moved: the test shows nothing")
	}
}

// emptiesOneHost is whether a plan does nothing but empty one host.
func emptiesOneHost(o Outcome) bool {
	for _, m := range moves(o) {
		if m.Host != moves(o)[0].Host {
			return false
		}
	}
	asleep := ofKind(o, cloud.ActionSleep)
	return slices.ContainsFunc(asleep, func(a cloud.PlanAction) bool { return a.Host == moves(o)[0].Host })
}

func TestAHostWithMoreServersThanAPlanHasMovesIsEmptiedByAPlanOfItsOwn(t *testing.T) {
	f := newFleet(4)
	f.Settings.Failover, f.Settings.MovesMax = 0, 3
	for i := range 5 {
		f.add(fmt.Sprintf("a%d", i), "host-1", 0.1)
	}
	for i := range 12 {
		f.add(fmt.Sprintf("b%d", i), fmt.Sprintf("host-%d", i%2+2), 0.3)
	}
	f.add("c", "host-4", 2.5)
	f.add("d", "host-4", 2.5)
	seen := 0
	for range 4 {
		o := planned(t, f, cloud.GoalConsolidate)
		if n := len(moves(o)); n > 3 {
			seen++
			if !emptiesOneHost(o) {
				t.Errorf("%d moves that do more than empty %s: %+v", n, moves(o)[0].Host, moves(o))
			}
		}
		f.carryOut(o)
		f.Snapshot.Now = f.Snapshot.Now.Add(f.Settings.Window)
	}
	if seen == 0 {
		t.Error("no plan was larger than moves_max: no host with five servers was emptied")
	}
}

func TestCautionGrowsWhileHostsAreShortAndFadesAfter(t *testing.T) {
	c := 1.0
	for range 3 {
		c = CautionAfter(c, 0.2, 0.05)
	}
	if c < 1.9 || c > 2 {
		t.Errorf("caution %v after three bad rounds", c)
	}
	if held := CautionAfter(c, 0.04, 0.05); held != c {
		t.Errorf("caution moved to %v inside the goal", held)
	}
	for range 200 {
		c = CautionAfter(c, 0, 0.05)
	}
	if c != 1 || CautionAfter(3, 1, 0) != 1 {
		t.Errorf("caution %v in the end", c)
	}
}

func TestGoalsFollowTheTimeOfDay(t *testing.T) {
	s := DefaultSettings()
	s.Goal = cloud.GoalBalance
	p, err := ParsePeriod("22:00-06:00=consolidate")
	if err != nil {
		t.Fatal(err)
	}
	s.Schedule = []Period{p}
	for hour, want := range map[int]cloud.OptimizeGoal{23: cloud.GoalConsolidate, 3: cloud.GoalConsolidate, 6: cloud.GoalBalance, 12: cloud.GoalBalance} {
		if got := s.GoalAt(time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC)); got != want {
			t.Errorf("at %d o'clock the goal is %s, want %s", hour, got, want)
		}
	}
	for _, bad := range []string{"", "22:00=balance", "25:00-06:00=balance", "22:00-06:00=sleep"} {
		if _, err := ParsePeriod(bad); err == nil {
			t.Errorf("period %q was taken", bad)
		}
	}
}

func TestPowerModels(t *testing.T) {
	m, err := ParsePower("50, 150")
	if err != nil || m.At(0.5) != 100 {
		t.Errorf("half load draws %v W, %v", m.At(0.5), err)
	}
	for _, bad := range []string{"", "100", "150,50", "a,b", "1,2,3", "-1,2"} {
		if _, err := ParsePower(bad); err == nil {
			t.Errorf("power model %q was taken", bad)
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct {
		hosts int
		cpus  int // of a host
		name  string
	}{{1000, 32, "quiet"}, {2000, 32, "quiet"}, {5000, 32, "quiet"}, {10000, 32, "quiet"}, {1000, 13, "busy"}, {10000, 13, "busy"}} {
		b.Run(fmt.Sprintf("%s/hosts=%d", size.name, size.hosts), func(b *testing.B) {
			f := crowd(size.hosts, size.cpus)
			b.ResetTimer()
			before := cpuTime(b)
			planned := 0
			for range b.N {
				o, err := Plan(&f.Input, cloud.GoalConsolidate, "")
				if err != nil {
					b.Fatal(err)
				}
				planned = len(o.Actions)
			}
			// A busy machine makes the time longer, this hardly: garbage collection's share is in it.
			b.ReportMetric(float64((cpuTime(b)-before).Milliseconds())/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(planned), "actions")
		})
	}
}

// cpuTime is what this process has used of all CPUs.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowd is a large fleet with twenty servers on each host, of which each uses 0 to 1.2 CPUs: of hosts of 13 one in four is short.
func crowd(hosts, cpus int) *fleet {
	rng := rand.New(rand.NewSource(1))
	f := newFleet(hosts)
	views := map[cloud.HostName]*cloud.HostView{}
	for i := range f.Snapshot.Hosts {
		v := &f.Snapshot.Hosts[i]
		v.Report.VCPUs, v.Report.RAMMiB = cpus, 65536
		views[v.Host.Name] = v
	}
	for i := range 20 * hosts {
		host := cloud.HostName(fmt.Sprintf("host-%d", i%hosts+1))
		s := &cloud.Server{ID: cloud.ServerID(fmt.Sprintf("s%d", i)), Name: fmt.Sprintf("s%d", i), Host: host, VMState: cloud.VMActive, Power: cloud.PowerRunning, CPUModel: "qemu64",
			Flavor: cloud.Flavor{ID: "f", VCPUs: 2, RAMMiB: 1024, RootGiB: 1}}
		f.Servers = append(f.Servers, s)
		views[host].Usage.Claims[cloud.ClaimKey(s.ID)] = cloud.Claim{Server: s.ID, Resources: s.Resources()}
		history := make([]float64, 30)
		for k := range history {
			history[k] = 1.2 * rng.Float64()
		}
		f.Readings.Servers[s.ID] = telemetry.ServerReading{CPUUsed: history[29], DirtyBytesPerSecond: -1, History: history}
	}
	return f
}

func TestAMoveWithoutFiguresCountsAndSoDoesOneThatFailed(t *testing.T) {
	live := func(server string, status cloud.MigrationStatus, ago time.Duration, totals *cloud.MigrationStats) *cloud.Migration {
		return &cloud.Migration{Server: cloud.ServerID(server), Type: cloud.TypeLiveMigration, Status: status, Created: noon.Add(-ago - 10*time.Second), Finished: noon.Add(-ago), Totals: totals,
			Kind: cloud.MigrateBlock}
	}
	r := Learn([]*cloud.Migration{
		live("a", cloud.MigrationCompleted, time.Minute, nil), // its source could not tell what was sent
		live("b", cloud.MigrationError, time.Minute, nil),
		live("b", cloud.MigrationCompleted, time.Hour, &cloud.MigrationStats{MemoryProcessed: 100 << 20, Elapsed: 2 * time.Second, Setup: time.Second}),
	})
	if own := r.Own["a"]; own.Failed || !own.Finished.Equal(noon.Add(-time.Minute)) {
		t.Errorf("own move of a: %+v", own)
	}
	if own := r.Own["b"]; !own.Failed || !own.Finished.Equal(noon.Add(-time.Minute)) || own.Bytes != 100<<20 {
		t.Errorf("own move of b: %+v", own)
	}
	if r.BytesPerSecond != 100<<20 {
		t.Errorf("%d bytes per second", r.BytesPerSecond)
	}
	f := quiet()
	f.Rates.Own["d"] = r.Own["b"]
	if o := planned(t, f, cloud.GoalConsolidate); slices.ContainsFunc(moves(o), func(a cloud.PlanAction) bool { return a.Server == "d" }) || !refusedFor(o, "without success") {
		t.Errorf("moves %+v, refused %+v", moves(o), o.Refused)
	}
}
