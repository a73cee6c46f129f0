package consolidate

import (
	"math"
	"slices"
)

// MHOD is the Markov host overload detection of the thesis' chapter 5 and Neat's default. The host's utilisation is a Markov chain
// over states that StateLimits separate; the last state is overload. Wanted is the policy "migrate in state i with probability m_i"
// that makes the time until a migration longest while the fraction of time in overload stays at most OTF. The host is overloaded
// when no such policy exists.
//
// As in Neat's code the question is asked only in the overload state, once it was seen to last (p_NN > 0), after LearningSteps.
// The thesis' algorithm 4 also migrates when the best m of the current state is 1; AlwaysAtOne does that.
type MHOD struct {
	StateLimits   []float64
	OTF           float64
	WindowSizes   []int // ascending
	GridStep      float64
	LearningSteps int
	AlwaysAtOne   bool
}

// markovMemory is the multisize sliding window of one host: for each previous state the newest transitions, and for each window
// size the newest estimates of each transition's probability.
type markovMemory struct {
	state       int             // at the last step; a host that just woke was in state 0
	requests    [][]int         // [previous] next states, oldest first
	estimates   [][][][]float64 // [size index][previous][next], oldest first
	transitions [][]float64     // the current best estimate of p
}

// State returns the state of a utilisation: the number of limits at or below it.
func (d MHOD) State(utilisation float64) int {
	for i, limit := range d.StateLimits {
		if utilisation < limit {
			return i
		}
	}
	return len(d.StateLimits)
}

func (d MHOD) states() int { return len(d.StateLimits) + 1 }

// Observe implements Observer.
func (d MHOD) Observe(m *Memory, l Load) {
	if m.markov == nil {
		m.markov = d.remember()
	}
	k := m.markov
	state := d.State(l.Now)
	k.observe(d.WindowSizes, k.state, state)
	k.state = state
	m.Steps++
	if state == d.states()-1 {
		m.OverloadedSteps++
	}
}

func (d MHOD) remember() *markovMemory {
	n := d.states()
	k := &markovMemory{requests: make([][]int, n)}
	for range d.WindowSizes {
		k.estimates = append(k.estimates, makeGrid[[]float64](n))
	}
	k.transitions = makeGrid[float64](n)
	return k
}

func makeGrid[T any](n int) [][]T {
	grid := make([][]T, n)
	for i := range grid {
		grid[i] = make([]T, n)
	}
	return grid
}

// observe takes note of a transition: the windows of its previous state move on, and the estimates from that state are made anew.
func (k *markovMemory) observe(sizes []int, previous, next int) {
	longest := sizes[len(sizes)-1]
	k.requests[previous] = keepLast(append(k.requests[previous], next), longest)
	for s, size := range sizes {
		window := lastInts(k.requests[previous], size)
		for j := range k.transitions {
			p := float64(count(window, j)) / float64(size) // by the size even while the window is not full: rows then sum to less than 1
			k.estimates[s][previous][j] = keepLast(append(k.estimates[s][previous][j], p), size)
		}
	}
	for j := range k.transitions[previous] {
		size := k.pickWindow(sizes, previous, j)
		window := lastInts(k.requests[previous], size)
		k.transitions[previous][j] = float64(count(window, j)) / float64(size)
	}
}

// pickWindow returns the largest window whose estimates, as far as they vary, vary no more than sampling alone explains: in
// ascending order it stops before the first that does. The smallest is taken whatever it does.
func (k *markovMemory) pickWindow(sizes []int, previous, next int) int {
	picked := sizes[0]
	for s, size := range sizes {
		estimates := k.estimates[s][previous][next]
		variance := 1.0 // until the window is full nothing is known: more than any probability varies
		if len(estimates) == size {
			variance = unbiasedVariance(estimates)
		}
		p := float64(count(lastInts(k.requests[previous], size), next)) / float64(size)
		if acceptable := p * (1 - p) / float64(size); variance > acceptable {
			break
		}
		picked = size
	}
	return picked
}

// Overloaded implements Detector.
func (d MHOD) Overloaded(m *Memory, l Load) bool {
	last := d.states() - 1
	if m == nil || m.markov == nil || m.Steps < d.LearningSteps || d.State(l.Now) != last {
		return false
	}
	p := m.markov.transitions
	if p[last][last] == 0 {
		return false
	}
	best, feasible := d.solve(p, last, m, l.MigrationSteps)
	return !feasible || d.AlwaysAtOne && best[last] == 1
}

// solve searches the grid of policies for the feasible one with the longest expected time before migration.
func (d MHOD) solve(p [][]float64, current int, m *Memory, migrationSteps float64) (best []float64, feasible bool) {
	n := len(p)
	longest := math.Inf(-1)
	policy := make([]float64, n)
	var walk func(i int)
	walk = func(i int) {
		if i < n {
			for v := 0.0; v <= 1+1e-9; v += d.GridStep {
				policy[i] = min(v, 1)
				walk(i + 1)
			}
			return
		}
		steps, ok := ExpectedSteps(p, policy, current)
		if !ok {
			return
		}
		total := 0.0
		for _, s := range steps {
			total += s
		}
		otf := (migrationSteps + float64(m.OverloadedSteps) + steps[n-1]) / (migrationSteps + float64(m.Steps) + total)
		if otf <= d.OTF && total > longest {
			longest, feasible, best = total, true, slices.Clone(policy)
		}
	}
	walk(0)
	return best, feasible
}

// ExpectedSteps returns how many steps a host that is now in a state is expected to spend in each state before a guest is migrated:
// L = pi(0) (I - P*)^-1 with P*_ij = p_ij (1 - m_i). It is not ok when the matrix is singular, which is when nothing ever migrates.
func ExpectedSteps(p [][]float64, policy []float64, current int) (steps []float64, ok bool) {
	n := len(p)
	// L (I - P*) = pi(0), transposed to a system of columns and solved by elimination with pivots; n is 2 or 3.
	rows := make([][]float64, n)
	for j := range rows {
		rows[j] = make([]float64, n+1)
		for i := range n {
			rows[j][i] = -p[i][j] * (1 - policy[i])
		}
		rows[j][j]++
	}
	rows[current][n] = 1
	if !eliminate(rows) {
		return nil, false
	}
	steps = make([]float64, n)
	for i := range steps {
		steps[i] = rows[i][n]
	}
	return steps, true
}

// singular is the pivot below which a matrix of probabilities is taken for singular.
const singular = 1e-12

// eliminate solves the augmented system in place (Gauss-Jordan); false when it is singular.
func eliminate(rows [][]float64) bool {
	for c := range rows {
		pivot := c
		for r := c + 1; r < len(rows); r++ {
			if math.Abs(rows[r][c]) > math.Abs(rows[pivot][c]) {
				pivot = r
			}
		}
		if math.Abs(rows[pivot][c]) < singular {
			return false
		}
		rows[c], rows[pivot] = rows[pivot], rows[c]
		for r := range rows {
			if r == c {
				continue
			}
			factor := rows[r][c] / rows[c][c]
			for k := c; k < len(rows[r]); k++ {
				rows[r][k] -= factor * rows[c][k]
			}
		}
	}
	for c := range rows {
		rows[c][len(rows[c])-1] /= rows[c][c]
	}
	return true
}

func count(window []int, state int) int {
	n := 0
	for _, s := range window {
		if s == state {
			n++
		}
	}
	return n
}

func lastInts(values []int, n int) []int { return values[max(0, len(values)-n):] }

// keepLast drops the oldest values of a window in place.
func keepLast[T any](values []T, n int) []T {
	if extra := len(values) - n; extra > 0 {
		return append(values[:0], values[extra:]...)
	}
	return values
}
