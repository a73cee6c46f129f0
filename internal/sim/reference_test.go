package sim

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// planetLab returns the seven days of PlanetLab traces: the folder that GODWIT_TRACES names, or the archive beside the project. They are
// data of others and not in this repository; without them, what rests on them is skipped, and synthetic days are tested all the same.
func planetLab(t *testing.T) []*Workload {
	t.Helper()
	folder := os.Getenv("GODWIT_TRACES")
	if folder == "" {
		archive, err := filepath.Abs("../../../shared/data/planetlab-7days.tar.xz")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(archive); err != nil {
			t.Skip("no PlanetLab traces: set GODWIT_TRACES to a folder with a folder per day")
		}
		folder = t.TempDir()
		if out, err := exec.Command("tar", "-xJf", archive, "-C", folder).CombinedOutput(); err != nil {
			t.Fatalf("unpack %s: %v: %s", archive, err, out)
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var loads []*Workload
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		w, err := ReadWorkload(os.DirFS(filepath.Join(folder, e.Name())), e.Name())
		if err != nil {
			t.Fatal(err)
		}
		loads = append(loads, w)
		if testing.Short() && len(loads) == 2 {
			break
		}
	}
	return loads
}

func runAll(t *testing.T, loads []*Workload, rules Rules, policies ...string) map[string]map[string]Result {
	t.Helper()
	var days []Day
	for _, w := range loads {
		for _, name := range policies {
			days = append(days, Day{Spec: PaperSpec(), Rules: rules, Load: w, Policy: name, Planner: mustParse(t, name), Seed: 1, AlwaysOn: name == "npa"})
		}
	}
	results, err := RunAll(context.Background(), days, 2)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]Result{}
	for _, r := range results {
		if out[r.Day] == nil {
			out[r.Day] = map[string]Result{}
		}
		out[r.Day][r.Policy] = r
	}
	return out
}

// What CloudSim 5.0 computes is reproduced far closer than the 5 and 15 % that were asked for; the rest is the order of sums.
func TestCloudSimIsReproduced(t *testing.T) {
	loads := planetLab(t)
	results := runAll(t, loads, CloudSimRules, "lr-mmt-1.2", "thr-mmt-0.8")
	first := runAll(t, loads[:1], CloudSimRules, "mad-mmt-2.5", "iqr-mmt-1.5", "dvfs")
	found := 0
	for _, ref := range References {
		r, ok := results[ref.Day][ref.Policy]
		if !ok {
			if r, ok = first[ref.Day][ref.Policy]; !ok {
				continue
			}
		}
		found++
		near(t, ref.Day+" "+ref.Policy+" kWh", r.EnergyKWh, ref.EnergyKWh, 0.015*ref.EnergyKWh)
		near(t, ref.Day+" "+ref.Policy+" migrations", float64(r.Migrations), float64(ref.Migrations), 0.05*float64(ref.Migrations))
	}
	if found < 2 {
		t.Errorf("only %d of %d references were met: are these the days of 2011?", found, len(References))
	}
}

func TestNPAIsExact(t *testing.T) {
	r := live(t, Day{Spec: PaperSpec(), Rules: CloudSimRules, Load: Synthetic(1052, 288, 1), Policy: "npa", Planner: mustParse(t, "npa"), AlwaysOn: true})
	near(t, "NPA", r.EnergyKWh, 2419.2, 1e-6)
}

func TestBoundsAreThePublishedOnes(t *testing.T) {
	bounds := map[string]float64{
		"20110303": 114.92, "20110306": 90.68, "20110309": 105.28, "20110322": 130.70, "20110403": 161.09, "20110409": 134.74, "20110420": 97.12,
	}
	for _, w := range planetLab(t) {
		if want, ok := bounds[w.Name]; ok {
			near(t, "bound of "+w.Name, Bound(PaperSpec(), PaperRules, w), want, 0.005)
		}
	}
}

// promises checks what our policy is to reach on every day with one set of parameters: energy within 1.15 of the bound of what was
// served, and against the better of the paper's two, half the migrations, half the ESV, and less SLATAH and PDM.
func promises(t *testing.T, loads []*Workload, rules Rules) {
	t.Helper()
	for day, r := range runAll(t, loads, rules, "godwit", "lr-mmt-1.2", "thr-mmt-0.8") {
		ours, lr, thr := r["godwit"], r["lr-mmt-1.2"], r["thr-mmt-0.8"]
		atMost := func(what string, got, limit float64) {
			if !(got <= limit) {
				t.Errorf("%s, %s rules: %s is %v, promised at most %v", day, rules.Name, what, got, limit)
			}
		}
		atMost("energy over bound", ours.TimesServed, 1.15)
		atMost("energy over the bound of all work", ours.TimesBound, 1.15)
		atMost("migrations", float64(ours.Migrations), 0.5*float64(min(lr.Migrations, thr.Migrations)))
		atMost("ESV", ours.ESV, 0.5*min(lr.ESV, thr.ESV))
		atMost("SLATAH", ours.SLATAH, min(lr.SLATAH, thr.SLATAH))
		atMost("PDM", ours.PDM, min(lr.PDM, thr.PDM))
		if lost := max(lr.Served, thr.Served) - ours.Served; lost > 0.005 {
			t.Errorf("%s, %s rules: serves %v less than the paper's", day, rules.Name, lost)
		}
	}
}

func TestGodwitKeepsItsPromises(t *testing.T) {
	loads := planetLab(t)
	promises(t, loads, PaperRules)
	promises(t, loads, CloudSimRules)
	for day, r := range runAll(t, loads, RAMRules, "godwit") {
		if ours := r["godwit"]; ours.TimesBound > 1.05 {
			t.Errorf("%s, memory honoured: %v times the bound", day, ours.TimesBound)
		}
	}
}

func TestGodwitKeepsItsPromisesOnSyntheticDays(t *testing.T) {
	loads := []*Workload{Synthetic(1052, 288, 11), Synthetic(1500, 288, 12)}
	if testing.Short() {
		loads = []*Workload{Synthetic(600, 144, 11)}
	}
	promises(t, loads, PaperRules)
	for day, r := range runAll(t, loads, RAMRules, "godwit") {
		if ours := r["godwit"]; ours.TimesBound > 1.06 {
			t.Errorf("%s, memory honoured: %v times the bound", day, ours.TimesBound)
		}
	}
}

func TestEveryPolicyLivesThroughADay(t *testing.T) {
	load := Synthetic(120, 48, 5)
	for _, name := range []string{
		"thr-rs", "avg-mmt", "mad-mu", "iqr-mc", "lr-mmtmc", "lrr-mmt", "loess-mmt", "loess_robust-mmt", "otft-mmt", "otftm-mmt", "mhod-mmtmc",
		"neat", "neat/lrr-rs-1.1", "dvfs", "npa", "godwit",
	} {
		for _, rules := range AllRules() {
			spec := PaperSpec()
			spec.Hosts = 100
			r := live(t, Day{Spec: spec, Rules: rules, Load: load, Policy: name, Planner: mustParse(t, name), Seed: 1, AlwaysOn: name == "npa"})
			if r.EnergyKWh <= 0 || r.Served <= 0.3 || r.Served > 1.01 {
				t.Errorf("%s, %s rules: %+v", name, rules.Name, r)
			}
		}
	}
}

func BenchmarkDay(b *testing.B) {
	load := Synthetic(1052, 288, 1)
	for _, name := range []string{"godwit", "lr-mmt-1.2", "thr-mmt-0.8", "mad-mmt-2.5"} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				p, err := consolidate.Parse(name)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := (Day{Spec: PaperSpec(), Rules: PaperRules, Load: load, Planner: p}).Run(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
