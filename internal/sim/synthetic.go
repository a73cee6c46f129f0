package sim

import (
	"fmt"
	"math"
	"math/rand"
)

// The statistics of the PlanetLab traces that synthetic ones have (seven days of 2011; in percent of a server's CPU). Servers' means are
// log-normal; the larger a server's mean, the less it varies relative to it; from sample to sample use is nearly independent, with a
// little that lasts and a little that all servers share; there are idle moments, spikes, and servers that change their ways in the day.
const (
	typicalMean  = 7.0   // percent, the median over servers
	meanSpread   = 1.05  // of the logarithm of servers' means
	meanCap      = 78.0  // percent
	variation    = 0.85  // standard deviation over mean of a server that is nearly idle
	steadyAbove  = 30.0  // percent: at this mean the variation is half of that
	lastingMost  = 0.2   // autocorrelations are between 0 and this
	sharedNoise  = 0.02  // standard deviation of what all share in a sample
	daySwing     = 0.05  // of the fleet's load over a day
	idleChance   = 0.09  // per sample
	spikeChance  = 0.006 // per sample
	spikeMost    = 70.0  // percent above the mean
	changeChance = 0.002 // per sample, that a server changes its mean
	changeSpread = 0.6   // of the logarithm of the change
)

// Synthetic makes a day of traces with the statistics of PlanetLab's. Equal seeds give equal days.
func Synthetic(servers, samples int, seed int64) *Workload {
	rng := rand.New(rand.NewSource(seed))
	shared := make([]float64, samples)
	phase := rng.Float64() * 2 * math.Pi
	for k := range shared {
		day := daySwing * math.Sin(2*math.Pi*float64(k)/float64(samples)+phase)
		shared[k] = 1 + day + sharedNoise*rng.NormFloat64()
	}
	w := &Workload{Name: fmt.Sprintf("synthetic-%d", seed)}
	for i := range servers {
		w.Names = append(w.Names, fmt.Sprintf("server-%04d", i))
		w.Traces = append(w.Traces, syntheticTrace(rng, shared))
	}
	return w
}

func syntheticTrace(rng *rand.Rand, shared []float64) Trace {
	mean := min(typicalMean*math.Exp(meanSpread*rng.NormFloat64()), meanCap)
	lasting := lastingMost * rng.Float64()
	trace := make(Trace, len(shared))
	noise := rng.NormFloat64()
	for k := range trace {
		if rng.Float64() < changeChance {
			mean = min(mean*math.Exp(changeSpread*rng.NormFloat64()), meanCap)
		}
		noise = lasting*noise + math.Sqrt(1-lasting*lasting)*rng.NormFloat64()
		relative := variation / (1 + mean/steadyAbove)
		// A log-normal factor with mean 1 and the relative deviation wanted.
		sigma := math.Sqrt(math.Log(1 + relative*relative))
		percent := mean * shared[k] * math.Exp(sigma*noise-sigma*sigma/2)
		switch u := rng.Float64(); {
		case u < idleChance:
			percent = 0
		case u < idleChance+spikeChance:
			percent += spikeMost * rng.Float64()
		}
		trace[k] = math.Round(min(max(percent, 0), 100)) / 100
	}
	return trace
}
