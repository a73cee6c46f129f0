package sim

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/godwit-cloud/godwit/internal/consolidate"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// steady makes a workload of servers that use the same share all day.
func steady(shares ...float64) *Workload {
	w := &Workload{Name: "steady"}
	for i, v := range shares {
		trace := make(Trace, 288)
		for k := range trace {
			trace[k] = v
		}
		w.Names, w.Traces = append(w.Names, string(rune('a'+i))), append(w.Traces, trace)
	}
	return w
}

// one is a fleet of G5 hosts and of servers that fill half of one.
func one(hosts int) Spec {
	s := PaperSpec()
	s.Hosts, s.HostTypes = hosts, s.HostTypes[1:]
	s.ServerTypes = []ServerType{{Name: "half", MIPS: 2660, RAMMiB: 2000}}
	return s
}

// script moves what it is told to in its first rounds.
type script struct {
	consolidate.Static
	rounds *[][]consolidate.Move
}

func (s script) Plan(*consolidate.Fleet, *rand.Rand) []consolidate.Move {
	if len(*s.rounds) == 0 {
		return nil
	}
	next := (*s.rounds)[0]
	*s.rounds = (*s.rounds)[1:]
	return next
}

func scripted(rounds ...[]consolidate.Move) script { return script{rounds: &rounds} }

func live(t *testing.T, d Day) Result {
	t.Helper()
	r, err := d.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEnergyIsPowerTimesTime(t *testing.T) {
	// Two servers that use half of their halves: one G5 host at 50 %, 116 W, all day; the other three hosts sleep.
	r := live(t, Day{Spec: one(4), Rules: PaperRules, Load: steady(0.5, 0.5), Planner: consolidate.Static{}})
	near(t, "kWh", r.EnergyKWh, 116*24/1000.0, 1e-3)
	near(t, "bound", r.BoundKWh, 2660*135/5320.0*24/1000, 1e-9)
	near(t, "served", r.Served, 1, 1e-3)
	near(t, "AITF", r.AITF, 0.75, 1e-3)
	near(t, "SLATAH", r.SLATAH, 0, 0)
}

func TestAHostThatIsShortSharesFairly(t *testing.T) {
	spec := one(1)
	spec.ServerTypes[0].MIPS = 5320 // twice a core, so both ask for a core each and a third of them goes unserved
	spec.HostTypes[0].Cores = 1
	spec.HostTypes[0].MIPS, spec.HostTypes[0].RAMMiB = 5320, 8192
	d := Day{Spec: spec, Rules: PaperRules, Load: steady(0.75, 0.75), Planner: allOn{}}
	r := live(t, d)
	near(t, "served", r.Served, 1/1.5, 1e-3)
	near(t, "SLATAH", r.SLATAH, 1, 1e-9)
	near(t, "AOTF 100", r.AOTF100, 1, 1e-9)
}

// allOn boots everything on host 0.
type allOn struct{ consolidate.Static }

func (allOn) Place(*consolidate.Fleet, consolidate.GuestIndex) consolidate.HostIndex { return 0 }

func TestAMoveCostsATenthOfItsServer(t *testing.T) {
	d := Day{Spec: one(4), Rules: PaperRules, Load: steady(0.5, 0.5), Planner: scripted([]consolidate.Move{{Guest: 1, From: 0, To: 2}})}
	r := live(t, d)
	seconds := 2000 / 62.5 // RAM over bandwidth
	near(t, "PDM", r.PDM, 0.1*seconds*0.5/(86400-0.1), 1e-9)
	near(t, "SLATAH", r.SLATAH, seconds/(2*86400), 1e-6)
	if r.Migrations != 1 || r.Sleeps != 0 {
		t.Errorf("%d migrations, %d sleeps", r.Migrations, r.Sleeps)
	}
	d.Planner = scripted([]consolidate.Move{{Guest: 1, From: 0, To: 2}}, []consolidate.Move{{Guest: 1, From: 2, To: 0}})
	if r = live(t, d); r.Sleeps != 1 {
		t.Errorf("host 2 woke and was left again: %d sleeps", r.Sleeps)
	}
}

func TestIdleServersAreDroppedOnlyUnderCloudSimRules(t *testing.T) {
	load := steady(0.5, 0.5)
	load.Traces[1][10], load.Traces[1][11] = 0, 0 // two samples: in between it is idle, too
	d := Day{Spec: one(4), Rules: CloudSimRules, Load: load, Planner: consolidate.Static{}}
	if r := live(t, d); r.Dropped != 1 || r.Served > 0.55 {
		t.Errorf("cloudsim: dropped %d, served %v", r.Dropped, r.Served)
	}
	d.Rules = PaperRules
	if r := live(t, d); r.Dropped != 0 || r.Served < 0.99 {
		t.Errorf("paper: dropped %d, served %v", r.Dropped, r.Served)
	}
}

func TestPlansThatBreakTheRulesEndTheDay(t *testing.T) {
	for _, c := range []struct {
		name string
		d    Day
	}{
		{"a move to where the server is", Day{Spec: one(4), Rules: PaperRules, Load: steady(0.5), Planner: scripted([]consolidate.Move{{Guest: 0, From: 1, To: 0}})}},
		{"more memory than there is", Day{
			Spec: one(4), Rules: RAMRules, Load: steady(0.1, 0.1, 0.1), Planner: scripted([]consolidate.Move{{Guest: 2, From: 1, To: 0}}),
		}},
		{"no room to boot", Day{Spec: one(1), Rules: PaperRules, Load: steady(0.1, 0.1, 0.1), Planner: consolidate.Static{}}},
	} {
		if r, err := c.d.Run(context.Background()); err == nil {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestEqualSeedsGiveEqualDays(t *testing.T) {
	d := Day{Spec: PaperSpec(), Rules: PaperRules, Load: Synthetic(60, 60, 4), Planner: mustParse(t, "thr-rs-0.8"), Seed: 7}
	d.Spec.Hosts = 60
	a, b := live(t, d), live(t, d)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%+v\n%+v", a, b)
	}
	d.Seed = 8
	if c := live(t, d); reflect.DeepEqual(a.Series, c.Series) {
		t.Error("another seed drew the same lots")
	}
}

func TestRunAllKeepsTheOrderAndReportsFailure(t *testing.T) {
	d := Day{Spec: one(4), Rules: PaperRules, Load: steady(0.5), Planner: consolidate.Static{}, Policy: "a"}
	e := d
	e.Policy = "b"
	results, err := RunAll(context.Background(), []Day{d, e, d}, 2)
	if err != nil || len(results) != 3 || results[1].Policy != "b" {
		t.Errorf("%v %+v", err, results)
	}
	e.Spec.Hosts = 0
	if _, err := RunAll(context.Background(), []Day{d, e, d}, 2); err == nil {
		t.Error("a day without hosts was lived through")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := RunAll(ctx, []Day{d}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTracesAreRead(t *testing.T) {
	folder := fstest.MapFS{
		"b": {Data: []byte("10\n20\n")}, "a": {Data: []byte("1\n 2.5\n\n")}, ".hidden": {Data: []byte("x")}, "dir/c": {Data: []byte("9")},
	}
	w, err := ReadWorkload(folder, "day")
	if err != nil {
		t.Fatal(err)
	}
	if want := []Trace{{0.01, 0.025}, {0.1, 0.2}}; !reflect.DeepEqual(w.Traces, want) || w.Names[0] != "a" {
		t.Errorf("read %v %v", w.Names, w.Traces)
	}
	for name, folder := range map[string]fstest.MapFS{
		"empty": {}, "words": {"a": {Data: []byte("much\n")}}, "too much": {"a": {Data: []byte("101\n")}}, "negative": {"a": {Data: []byte("-1\n")}},
		"uneven": {"a": {Data: []byte("1\n")}, "b": {Data: []byte("1\n2\n")}}, "nothing": {"a": {}}, "NaN": {"a": {Data: []byte("NaN")}},
	} {
		if w, err := ReadWorkload(folder, name); err == nil {
			t.Errorf("%s: read %v", name, w.Traces)
		}
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add("1\n2\n")
	f.Add("\n\n100\nx")
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := ParseTrace(strings.NewReader(text))
		if err == nil && len(trace) == 0 {
			t.Fatal("no error and no samples")
		}
		for _, v := range trace {
			if !(v >= 0 && v <= 1) {
				t.Fatalf("sample %v", v)
			}
		}
	})
}

func TestTracesAreJoinedByLines(t *testing.T) {
	trace := Trace{0.1, 0.3, 0.3}
	for _, c := range []struct{ at, want float64 }{{0, 0.1}, {150, 0.2}, {300, 0.3}, {599, 0.3}, {600, 0.3}, {9999, 0.3}} {
		near(t, "share", trace.at(c.at, 300), c.want, 1e-12)
	}
}

func TestSyntheticDaysHaveTheTracesStatistics(t *testing.T) {
	for seed := range int64(3) {
		w := Synthetic(1052, 288, seed)
		mean, deviation := w.Mean()
		// The seven days have means of 9.3 to 12.4 % and deviations of 12.8 to 17.1 %.
		if mean < 0.09 || mean > 0.13 || deviation < 0.125 || deviation > 0.175 {
			t.Errorf("seed %d: mean %v, deviation %v", seed, mean, deviation)
		}
		zeros, total := 0, 0
		for _, trace := range w.Traces {
			for _, v := range trace {
				if v == 0 {
					zeros++
				}
				total++
			}
		}
		near(t, "share of idle samples", float64(zeros)/float64(total), 0.15, 0.05)
	}
}

func TestResultsAreWritten(t *testing.T) {
	d := Day{Spec: one(4), Rules: PaperRules, Load: steady(0.5), Planner: consolidate.Static{}, Policy: "dvfs"}
	r := live(t, d)
	var out bytes.Buffer
	if err := WriteCSV(&out, []Result{r, r}); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(rows) != 3 || len(rows[1]) != len(csvHeader) || rows[1][2] != "dvfs" {
		t.Errorf("%v %q", err, rows)
	}
	for _, p := range Plots([]Result{r}) {
		out.Reset()
		if err := p.Plot.WriteSVG(&out); err != nil {
			t.Fatal(err)
		}
		decoder := xml.NewDecoder(&out)
		for {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s is no XML: %v", p.File, err)
			}
		}
	}
}

func TestMediansAreMedians(t *testing.T) {
	var results []Result
	for _, kwh := range []float64{5, 1, 3} {
		results = append(results, Result{Rules: "paper", Policy: "x", EnergyKWh: kwh})
	}
	m := Medians(append(results, Result{Rules: "ram", Policy: "x", EnergyKWh: 9}))
	if len(m) != 2 || m[0].EnergyKWh != 3 || m[1].EnergyKWh != 9 {
		t.Errorf("%+v", m)
	}
}

func mustParse(t *testing.T, name string) consolidate.Planner {
	t.Helper()
	p, err := consolidate.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
