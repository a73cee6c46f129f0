package consolidate

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func repeat(v float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func loadOf(history ...float64) Load { return Load{Now: history[len(history)-1], History: history} }

// The numbers are those of Neat's own tests.
func TestStatisticsHaveNeatsNumbers(t *testing.T) {
	near(t, "MAD", MedianAbsoluteDeviation([]float64{1, 1, 2, 2, 4, 6, 9}), 1, 0)
	near(t, "IQR", InterquartileRange([]float64{105, 109, 107, 112, 102, 118, 115, 104, 110, 116, 108}), 10, 0)
	near(t, "IQR", InterquartileRange([]float64{2, 4, 7, -20, 22, -1, 0, -1, 7, 15, 8, 4, -4, 11, 11, 12, 3, 12, 18, 1}), 12, 0)
	for i, want := range []float64{0.669, 0.953, 1} {
		near(t, "tricube of 5", tricube(5)[i+2], want, 0.001)
	}
	for i, want := range []float64{0.148, 0.348, 0.568, 0.759, 0.892, 0.967, 0.995, 1} {
		near(t, "tricube of 10", tricube(10)[i+2], want, 0.006)
	}
}

func TestTheOldestStepHasNoWeightInLoess(t *testing.T) {
	near(t, "first tricube weight", tricube(10)[0], 0, 0)
	near(t, "bisquare beyond 1", bisquare(1.5), 0, 0)
	near(t, "bisquare at 0.5", bisquare(0.5), 0.5625, 1e-12)
}

func TestThresholdsAreAsTheirNamesSay(t *testing.T) {
	thr := Threshold{0.8}
	spread := append(repeat(0.4, 6), repeat(0.6, 6)...) // MAD 0.1 (about the median 0.5), IQR 0.2
	for _, c := range []struct {
		name string
		d    Detector
		load Load
		want bool
	}{
		{"THR at its threshold", thr, Load{Now: 0.8}, false},
		{"THR above", thr, Load{Now: 0.81}, true},
		{"mean THR", MeanThreshold{0.8, 2}, loadOf(0.1, 0.9, 0.8), true},
		{"mean THR below", MeanThreshold{0.8, 3}, loadOf(0.1, 0.9, 0.8), false},
		{"MAD 2.5 below 1-2.5*0.1", MAD{2.5, thr}, Load{0.74, spread, 0}, false},
		{"MAD 2.5 above 1-2.5*0.1", MAD{2.5, thr}, Load{0.76, spread, 0}, true},
		{"MAD with little history falls back", MAD{2.5, thr}, Load{0.76, spread[1:], 0}, false},
		{"IQR 1.5 below 1-1.5*0.2", IQR{1.5, thr}, Load{0.69, spread, 0}, false},
		{"IQR 1.5 above 1-1.5*0.2", IQR{1.5, thr}, Load{0.71, spread, 0}, true},
		{"IQR with little history falls back", IQR{1.5, thr}, Load{0.71, spread[1:], 0}, false},
	} {
		if got := c.d.Overloaded(nil, c.load); got != c.want {
			t.Errorf("%s: overloaded %v", c.name, got)
		}
	}
}

// Neat's test data for both regressions, with its parameters.
func TestRegressionsDecideAsNeat(t *testing.T) {
	high := loadOf(1.05, 1.09, 1.07, 1.12, 1.02, 1.18, 1.15, 1.04, 1.10, 1.16, 1.08)
	low := loadOf(0.55, 0.60, 0.62, 0.59, 0.67, 0.73, 0.85, 0.97, 0.73, 0.68, 0.69, 0.52, 0.51, 0.55, 0.48, 0.46, 0.52, 0.55, 0.58, 0.65, 0.70)
	for _, robust := range []bool{false, true} {
		d := Regression{Safety: 1.2, Length: 11, Limit: 1, Weighted: true, Robust: robust}
		high.MigrationSteps, low.MigrationSteps = 0.5, 0.5
		if !d.Overloaded(nil, high) || d.Overloaded(nil, low) || d.Overloaded(nil, loadOf(1, 1)) {
			t.Errorf("robust %v: high %v low %v short %v", robust, d.Overloaded(nil, high), d.Overloaded(nil, low), d.Overloaded(nil, loadOf(1, 1)))
		}
	}
}

func TestRegressionOfALineIsTheLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float64Range(-1, 1).Draw(t, "a"), rapid.Float64Range(-0.1, 0.1).Draw(t, "b")
		d := Regression{Length: 10, Weighted: rapid.Bool().Draw(t, "weighted"), Robust: rapid.Bool().Draw(t, "robust")}
		var history []float64
		for x := range 10 {
			history = append(history, a+b*float64(x+1))
		}
		if got, want := d.Forecast(Load{History: history, MigrationSteps: 2}), a+b*12; math.Abs(got-want) > 1e-9 {
			t.Fatalf("forecast %v, the line is at %v", got, want)
		}
	})
}

func TestLRRIsDrawnLessByOutliers(t *testing.T) {
	history := []float64{0.50, 0.51, 0.49, 0.50, 0.52, 0.48, 0.50, 0.49, 0.51, 1.50, 0.50, 0.49, 0.51, 0.50, 0.52, 0.50, 0.49, 0.51, 0.50, 0.50}
	lr := Regression{Length: 20, Weighted: true}.Forecast(loadOf(history...))
	lrr := Regression{Length: 20, Weighted: true, Robust: true}.Forecast(loadOf(history...))
	if math.Abs(lrr-0.5) > 0.3*math.Abs(lr-0.5) {
		t.Errorf("LRR forecasts %v, LR %v, and all but one step are at 0.5", lrr, lr)
	}
}

func TestOTFTIsPatientUntilItsGoalIsReached(t *testing.T) {
	run := func(d OverloadTime, steps ...float64) bool {
		var m Memory
		for _, u := range steps {
			d.Observe(&m, Load{Now: u})
		}
		return d.Overloaded(&m, Load{Now: steps[len(steps)-1], MigrationSteps: 1})
	}
	d := OverloadTime{Share: 1, OTF: 0.65, StepsMin: 5}
	if run(d, 0.9, 0.8, 1.1, 1.2, 1.3) {
		t.Error("OTFT: 3 of 5 steps are below the goal of 0.65")
	}
	d.CountMigration = true
	if !run(d, 0.9, 0.8, 1.1, 1.2, 1.3) {
		t.Error("OTFTM: (3+1) of (5+1) steps are above it")
	}
	if run(d, 0.9, 1.1, 1.2, 1.3) {
		t.Error("OTFTM decided before it had seen 5 steps")
	}
	if run(d, 1.1, 1.1, 1.2, 1.3, 0.3) {
		t.Error("OTFTM found a host overloaded at 30 %")
	}
}
