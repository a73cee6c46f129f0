package consolidate

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestStatesAreNeats(t *testing.T) {
	d := MHOD{StateLimits: []float64{0.4, 0.7}}
	want := []int{0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 2}
	for i, u := range []float64{0.25, 0.30, 0.62, 0.59, 0.67, 0.73, 0.85, 0.97, 0.73, 0.68, 0.69, 0.52, 0.51, 0.25, 0.38, 0.46, 0.52, 0.55, 0.58, 0.65, 0.70} {
		if got := d.State(u); got != want[i] {
			t.Errorf("state of %v is %d, want %d", u, got, want[i])
		}
	}
}

func TestExpectedStepsHaveNeatsNumbers(t *testing.T) {
	p := [][]float64{{0.4, 0.6}, {0.9, 0.1}}
	for _, c := range []struct{ m0, m1, l0, l1 float64 }{{0.2, 0.8, 1.690, 0.828}, {0.62, 0.38, 1.404, 0.341}} {
		l, ok := ExpectedSteps(p, []float64{c.m0, c.m1}, 0)
		if !ok {
			t.Fatalf("policy %v: singular", c)
		}
		near(t, "L0", l[0], c.l0, 0.001)
		near(t, "L1", l[1], c.l1, 0.001)
	}
	if _, ok := ExpectedSteps(p, []float64{0, 0}, 0); ok {
		t.Error("a host that never migrates has no expected time until it does")
	}
}

// The thesis' closed form for two states.
func TestExpectedStepsAgreeWithTheClosedForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p00, p10 := rapid.Float64Range(0.01, 0.99).Draw(t, "p00"), rapid.Float64Range(0.01, 0.99).Draw(t, "p10")
		m0, m1 := rapid.Float64Range(0.05, 1).Draw(t, "m0"), rapid.Float64Range(0.05, 1).Draw(t, "m1")
		current := rapid.IntRange(0, 1).Draw(t, "state")
		l, ok := ExpectedSteps([][]float64{{p00, 1 - p00}, {p10, 1 - p10}}, []float64{m0, m1}, current)
		if !ok {
			t.Fatal("singular")
		}
		a, b, c, d := p00*(1-m0), (1-p00)*(1-m0), p10*(1-m1), (1-p10)*(1-m1)
		det := (1-a)*(1-d) - b*c
		pi0, pi1 := float64(1-current), float64(current)
		l0, l1 := (pi0*(1-d)+pi1*c)/det, (pi0*b+pi1*(1-a))/det
		if math.Abs(l[0]-l0) > 1e-9*(1+l0) || math.Abs(l[1]-l1) > 1e-9*(1+l1) {
			t.Fatalf("L %v, closed form %v %v", l, l0, l1)
		}
	})
}

// Neat's test: after the requests 1, 0, 0, 0 from state 0 the window of 2 says p00 = 1 and that of 4 says 0.75.
func TestWindowsEstimateByTheirSize(t *testing.T) {
	d := MHOD{StateLimits: []float64{0.8}, WindowSizes: []int{2, 4}}
	k := d.remember()
	for _, next := range []int{1, 0, 0, 0} {
		k.observe(d.WindowSizes, 0, next)
	}
	newest := func(size, next int) float64 { e := k.estimates[size][0][next]; return e[len(e)-1] }
	near(t, "p00 of 2", newest(0, 0), 1, 0)
	near(t, "p01 of 2", newest(0, 1), 0, 0)
	near(t, "p00 of 4", newest(1, 0), 0.75, 0)
	near(t, "p01 of 4", newest(1, 1), 0.25, 0)
	if n := len(k.estimates[0][0][0]); n != 2 {
		t.Errorf("the window of 2 keeps %d estimates", n)
	}
}

func TestWindowsGrowWhileTheLoadIsSteady(t *testing.T) {
	sizes := []int{4, 8}
	k := MHOD{StateLimits: []float64{0.8}, WindowSizes: sizes}.remember()
	for range 20 {
		k.observe(sizes, 0, 0)
	}
	if got := k.pickWindow(sizes, 0, 0); got != 8 {
		t.Errorf("steady load: window %d", got)
	}
	for range 5 {
		k.observe(sizes, 0, 1)
	}
	if got := k.pickWindow(sizes, 0, 1); got != 4 {
		t.Errorf("after a change: window %d", got)
	}
}

func feed(d MHOD, steps []float64) bool {
	var m Memory
	for _, u := range steps {
		d.Observe(&m, Load{Now: u})
	}
	return d.Overloaded(&m, Load{Now: steps[len(steps)-1], MigrationSteps: 0.1})
}

func TestMHODMigratesOnlyWhenItsGoalIsOutOfReach(t *testing.T) {
	d := DefaultMHOD(0.3)
	busy, calm := repeat(0.9, 40), append(repeat(0.3, 90), 0.9)
	if !feed(d, busy) {
		t.Error("a host that is always overloaded cannot keep a goal of 30 %")
	}
	if feed(d, calm) {
		t.Error("one overloaded step of 91 is no reason to migrate")
	}
	if feed(d, append(repeat(0.9, 40), 0.3)) {
		t.Error("a host that is not overloaded now does not migrate")
	}
	if feed(d, busy[:9]) {
		t.Error("MHOD decided before it had learned")
	}
}
