package consolidate

import "math"

// Load is what an overload detector sees of one host at one step.
type Load struct {
	// Now is what the host's guests ask for now as a share of its CPU; above 1 when it is short.
	Now float64
	// History is the host's utilisation per step, oldest first, the current step last: what the guests now on the host used then,
	// wherever they were. It starts with the first step that is not 0.
	History []float64
	// MigrationSteps is how many steps one migration away from the host takes (Tm).
	MigrationSteps float64
}

// Detector decides whether a host is overloaded, or will be before guests can leave it. A detector is immutable: what it remembers
// of a host between steps is in the Memory its caller keeps.
type Detector interface {
	// Overloaded decides about a load, real or tried, without taking note of it.
	Overloaded(m *Memory, l Load) bool
}

// Observer is a Detector with a memory.
type Observer interface {
	Detector
	// Observe takes note of one step of a host. The caller calls it once per step and host.
	Observe(m *Memory, l Load)
}

// Memory is what detectors remember of one host since it became active; the zero value is that of a host that just woke.
type Memory struct {
	// Steps counts the observed steps, OverloadedSteps those at or above the detector's threshold.
	Steps, OverloadedSteps int

	markov *markovMemory // of MHOD
}

// Threshold is THR: overloaded when the CPU asked for now exceeds a share of the host.
type Threshold struct {
	Share float64
}

// Overloaded implements Detector.
func (d Threshold) Overloaded(_ *Memory, l Load) bool { return l.Now > d.Share }

// MeanThreshold is Neat's last_n_average_threshold: overloaded when the mean of the last N steps exceeds a share of the host. With
// fewer steps it takes the mean of what there is, and none is not overloaded.
type MeanThreshold struct {
	Share float64
	N     int
}

// Overloaded implements Detector.
func (d MeanThreshold) Overloaded(_ *Memory, l Load) bool {
	return Mean(lastN(l.History, d.N)) > d.Share
}

// spreadStepsMin is the history that MAD and IQR need before their spread means something; the paper's build took 12 for safe.
const spreadStepsMin = 12

// MAD adapts the threshold to the spread of the history (paper, equation 24): overloaded when the CPU asked for now reaches
// 1 - Safety * median absolute deviation.
type MAD struct {
	Safety   float64
	Fallback Detector // asked while there are fewer than 12 steps
}

// Overloaded implements Detector.
func (d MAD) Overloaded(m *Memory, l Load) bool {
	if len(l.History) < spreadStepsMin {
		return d.Fallback.Overloaded(m, l)
	}
	return l.Now >= 1-d.Safety*MedianAbsoluteDeviation(l.History)
}

// IQR is MAD with the interquartile range in place of the deviation (paper, equation 25).
type IQR struct {
	Safety   float64
	Fallback Detector // asked while there are fewer than 12 steps
}

// Overloaded implements Detector.
func (d IQR) Overloaded(m *Memory, l Load) bool {
	if len(l.History) < spreadStepsMin {
		return d.Fallback.Overloaded(m, l)
	}
	return l.Now >= 1-d.Safety*InterquartileRange(l.History)
}

// Regression is the family LR and LRR: it fits a line to the last Length steps and asks where the load will be when a migration
// that starts now is over. Overloaded when Safety times that reaches Limit.
type Regression struct {
	Safety float64
	Length int
	Limit  float64 // 1 in the paper
	// Weighted gives newer steps more weight (Loess, the paper's equation 26). CloudSim's published build does not: its weights
	// are applied only when 40 % of them are not positive, which never happens.
	Weighted bool
	// Robust refits with outliers weighted down (LRR, equations 31-33).
	Robust   bool
	Fallback Detector // asked while there are fewer than Length steps; nil means not overloaded, as in Neat
}

// Overloaded implements Detector.
func (d Regression) Overloaded(m *Memory, l Load) bool {
	if len(l.History) < d.Length {
		return d.Fallback != nil && d.Fallback.Overloaded(m, l)
	}
	return d.Safety*d.Forecast(l) >= d.Limit
}

// Forecast returns the utilisation at the step when a migration started now ends. It needs Length steps of history.
func (d Regression) Forecast(l Load) float64 {
	y := lastN(l.History, d.Length)
	var weights []float64
	if d.Weighted {
		weights = tricube(len(y))
	}
	a, b := weightedLine(y, weights)
	if d.Robust {
		a, b = refit(y, weights, a, b)
	}
	return a + b*(float64(len(y))+l.MigrationSteps)
}

// refit fits again with the weights of outliers taken down by Tukey's bisquare of their residual over six medians. When half of the
// points are on the line the median is 0: then there is nothing to weigh residuals by, and the first fit stands.
func refit(y, weights []float64, a, b float64) (float64, float64) {
	residuals, sizes := make([]float64, len(y)), make([]float64, len(y))
	for i, v := range y {
		residuals[i] = v - a - b*float64(i+1)
		sizes[i] = math.Abs(residuals[i])
	}
	scale := Median(sizes)
	if scale == 0 {
		return a, b
	}
	robust := make([]float64, len(y))
	for i := range robust {
		robust[i] = bisquare(residuals[i] / (6 * scale))
		if weights != nil {
			robust[i] *= weights[i]
		}
	}
	return weightedLine(y, robust)
}

// OverloadTime is OTFT and OTFTM: it tolerates overload as long as the fraction of time spent in it (OTF) stays below a goal.
// Overloaded when the load is at or above Share, at least StepsMin steps were seen, and the fraction has reached OTF.
type OverloadTime struct {
	Share, OTF float64
	StepsMin   int
	// CountMigration counts the time of the migration itself as overload (OTFTM, the thesis' equation 5.28).
	CountMigration bool
}

// Observe implements Observer.
func (d OverloadTime) Observe(m *Memory, l Load) {
	m.Steps++
	if l.Now >= d.Share {
		m.OverloadedSteps++
	}
}

// Overloaded implements Detector.
func (d OverloadTime) Overloaded(m *Memory, l Load) bool {
	if m == nil || l.Now < d.Share || m.Steps < max(d.StepsMin, 1) {
		return false
	}
	moving := 0.0
	if d.CountMigration {
		moving = l.MigrationSteps
	}
	return (moving+float64(m.OverloadedSteps))/(moving+float64(m.Steps)) >= d.OTF
}

// lastN returns the last n values, or all when there are fewer.
func lastN(values []float64, n int) []float64 { return values[max(0, len(values)-n):] }
