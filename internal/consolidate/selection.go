package consolidate

import "math/rand"

// Selector picks the guest that leaves an overloaded host. Candidates are in the order of the host's list, without pinned guests;
// equal guests go by that order, the first first.
type Selector interface {
	// Select picks one of the candidates; false when it wants none.
	Select(f *Fleet, candidates []GuestIndex, rng *rand.Rand) (GuestIndex, bool)
}

// MinimumMigrationTime is MMT: the guest that is moved fastest, which is the one with the least memory (paper, equation 34).
type MinimumMigrationTime struct{}

// Select implements Selector.
func (MinimumMigrationTime) Select(f *Fleet, candidates []GuestIndex, _ *rand.Rand) (GuestIndex, bool) {
	return least(candidates, func(g GuestIndex) float64 { return f.Guests[g].RAMMiB })
}

// RandomSelection is RS: any guest, all equally likely.
type RandomSelection struct{}

// Select implements Selector.
func (RandomSelection) Select(_ *Fleet, candidates []GuestIndex, rng *rand.Rand) (GuestIndex, bool) {
	if len(candidates) == 0 {
		return 0, false
	}
	return candidates[rng.Intn(len(candidates))], true
}

// MinimumUtilisation is MU: the guest that asks for the least CPU now.
type MinimumUtilisation struct{}

// Select implements Selector.
func (MinimumUtilisation) Select(f *Fleet, candidates []GuestIndex, _ *rand.Rand) (GuestIndex, bool) {
	return least(candidates, func(g GuestIndex) float64 { return f.Guests[g].Demand })
}

// MMTMaxCPU is Neat's minimum_migration_time_max_cpu: among the guests with the least memory, the one with the largest mean CPU over
// the last N steps. It wants none when they all used nothing.
type MMTMaxCPU struct{ N int }

// Select implements Selector.
func (s MMTMaxCPU) Select(f *Fleet, candidates []GuestIndex, _ *rand.Rand) (GuestIndex, bool) {
	smallest, ok := least(candidates, func(g GuestIndex) float64 { return f.Guests[g].RAMMiB })
	if !ok {
		return 0, false
	}
	picked, most := GuestIndex(0), 0.0
	for _, g := range candidates {
		guest := &f.Guests[g]
		if guest.RAMMiB != f.Guests[smallest].RAMMiB {
			continue
		}
		if used := Mean(lastN(guest.History, s.N)) * guest.CPU; used > most {
			picked, most = g, used
		}
	}
	return picked, most > 0
}

// MaximumCorrelation is MC: the guest whose CPU history the others' histories explain best, that is with the largest multiple
// correlation R² (paper, equations 35-38), because correlated guests peak together. The regression needs more steps than guests;
// with fewer, or when the histories do not vary, Fallback picks.
type MaximumCorrelation struct{ Fallback Selector }

// Select implements Selector.
func (s MaximumCorrelation) Select(f *Fleet, candidates []GuestIndex, rng *rand.Rand) (GuestIndex, bool) {
	series := alignedHistories(f, candidates)
	picked, most := GuestIndex(0), 0.0
	if n := len(candidates); n > 1 && len(series[0]) > n {
		for i, g := range candidates {
			if r2, ok := MultipleCorrelation(series, i); ok && r2 > most {
				picked, most = g, r2
			}
		}
	}
	if most == 0 {
		return s.Fallback.Select(f, candidates, rng)
	}
	return picked, true
}

// alignedHistories returns the newest steps that all candidates have.
func alignedHistories(f *Fleet, candidates []GuestIndex) [][]float64 {
	if len(candidates) == 0 {
		return nil
	}
	length := HistoryLength
	for _, g := range candidates {
		length = min(length, len(f.Guests[g].History))
	}
	series := make([][]float64, len(candidates))
	for i, g := range candidates {
		series[i] = lastN(f.Guests[g].History, length)
	}
	return series
}

// MultipleCorrelation returns R² of series y against all others with an intercept: the squared correlation of y with its best linear
// prediction from them. It is not ok when y does not vary or the others do not determine a prediction.
func MultipleCorrelation(series [][]float64, y int) (r2 float64, ok bool) {
	columns := make([][]float64, 0, len(series))
	ones := make([]float64, len(series[y]))
	for i := range ones {
		ones[i] = 1
	}
	columns = append(columns, ones)
	for i, s := range series {
		if i != y {
			columns = append(columns, s)
		}
	}
	// The normal equations (X'X) b = X'y, with the right side as the last column.
	rows := make([][]float64, len(columns))
	for i := range rows {
		rows[i] = make([]float64, len(columns)+1)
		for j := range columns {
			rows[i][j] = dot(columns[i], columns[j])
		}
		rows[i][len(columns)] = dot(columns[i], series[y])
	}
	if !eliminate(rows) {
		return 0, false
	}
	predicted := make([]float64, len(series[y]))
	for i, c := range columns {
		for t, v := range c {
			predicted[t] += rows[i][len(columns)] * v
		}
	}
	return squaredCorrelation(series[y], predicted)
}

// squaredCorrelation returns [sum dx dy]² / (sum dx² sum dy²): the squares are outside of the sums, where the paper prints them inside.
func squaredCorrelation(x, y []float64) (float64, bool) {
	mx, my := Mean(x), Mean(y)
	var xy, xx, yy float64
	for i := range x {
		dx, dy := x[i]-mx, y[i]-my
		xy += dx * dy
		xx += dx * dx
		yy += dy * dy
	}
	if xx == 0 || yy == 0 {
		return 0, false
	}
	return xy * xy / (xx * yy), true
}

func dot(a, b []float64) float64 {
	sum := 0.0
	for i, v := range a {
		sum += v * b[i]
	}
	return sum
}

// least returns the first candidate with the least metric.
func least(candidates []GuestIndex, metric func(GuestIndex) float64) (GuestIndex, bool) {
	if len(candidates) == 0 {
		return 0, false
	}
	best, value := candidates[0], metric(candidates[0])
	for _, g := range candidates[1:] {
		if v := metric(g); v < value {
			best, value = g, v
		}
	}
	return best, true
}
