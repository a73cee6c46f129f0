package consolidate

import (
	"math"
	"slices"
)

// Mean returns the arithmetic mean, 0 of nothing.
func Mean(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// Median returns the middle value, the mean of the two middle ones of an even number, 0 of nothing.
func Median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// MedianAbsoluteDeviation returns median|x - median(x)| (paper, equation 23).
func MedianAbsoluteDeviation(values []float64) float64 {
	middle := Median(values)
	deviations := make([]float64, len(values))
	for i, v := range values {
		deviations[i] = math.Abs(v - middle)
	}
	return Median(deviations)
}

// InterquartileRange returns Q3 - Q1 with the quartiles as Neat takes them: the sorted values at the 0-based indexes
// round((n+1)/4)-1 and round(3(n+1)/4)-1. It needs at least two values; of fewer it is 0.
func InterquartileRange(values []float64) float64 {
	n := len(values)
	if n < 2 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	quartile := func(q float64) float64 {
		// Java's and Python 2's round takes halves up; so does this, for positive numbers.
		i := int(math.Floor(q*float64(n+1)+0.5)) - 1
		return sorted[min(max(i, 0), n-1)]
	}
	return quartile(0.75) - quartile(0.25)
}

// unbiasedVariance returns the sample variance, 0 of fewer than two values.
func unbiasedVariance(values []float64) float64 {
	if len(values) < 2 {
		return 0
	}
	mean, sum := Mean(values), 0.0
	for _, v := range values {
		sum += (v - mean) * (v - mean)
	}
	return sum / float64(len(values)-1)
}

// weightedLine fits y = a + b*x to the points (1, y[0]), (2, y[1]), ... by least squares with the weights; nil weights are all 1.
// When x does not vary (one point, or the weights leave only one) the line is flat through the weighted mean.
func weightedLine(y, weights []float64) (a, b float64) {
	weight := func(i int) float64 {
		if weights == nil {
			return 1
		}
		return weights[i]
	}
	var sw, sx, sy float64
	for i, v := range y {
		w := weight(i)
		sw += w
		sx += w * float64(i+1)
		sy += w * v
	}
	if sw == 0 {
		return Mean(y), 0
	}
	mx, my := sx/sw, sy/sw
	var sxx, sxy float64
	for i, v := range y {
		w, dx := weight(i), float64(i+1)-mx
		sxx += w * dx * dx
		sxy += w * dx * (v - my)
	}
	if sxx == 0 {
		return my, 0
	}
	b = sxy / sxx
	return my - b*mx, b
}

// tricube returns the weights of Loess for k equally spaced points, the newest last and heaviest (paper, equation 26).
func tricube(k int) []float64 {
	weights := make([]float64, k)
	for i := range weights {
		if k == 1 {
			weights[i] = 1
			continue
		}
		far := float64(k-1-i) / float64(k-1)
		weights[i] = cube(1 - cube(far))
	}
	return weights
}

func cube(x float64) float64 { return x * x * x }

// bisquare is Tukey's function (paper, equation 32): far outliers get no weight at all.
func bisquare(u float64) float64 {
	if math.Abs(u) >= 1 {
		return 0
	}
	return (1 - u*u) * (1 - u*u)
}
