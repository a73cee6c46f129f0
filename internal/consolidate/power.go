package consolidate

import "math"

// PowerModel is what a host draws in watts at 0, 10, ... 100 % CPU utilisation, as SPECpower_ssj2008 reports it. Between two
// points the draw is interpolated. A sleeping host is not in the model: it is taken to draw nothing, as in the 2012 paper.
type PowerModel [11]float64

// The power models of the 2012 paper (its table 1, from SPEC's published results).
var (
	// ProLiantG4 is the HP ProLiant ML110 G4 (Xeon 3040, 2 cores of 1860 MHz).
	ProLiantG4 = PowerModel{86, 89.4, 92.6, 96, 99.5, 102, 106, 108, 112, 114, 117}
	// ProLiantG5 is the HP ProLiant ML110 G5 (Xeon 3075, 2 cores of 2660 MHz).
	ProLiantG5 = PowerModel{93.7, 97, 101, 105, 110, 116, 121, 125, 129, 133, 135}
)

// At returns the watts drawn at a utilisation; what is outside [0, 1] is taken for the nearer end.
func (m *PowerModel) At(utilisation float64) float64 {
	switch {
	case !(utilisation > 0): // NaN too
		return m[0]
	case utilisation >= 1:
		return m[10]
	}
	x := utilisation * 10
	low := math.Floor(x)
	i := int(low)
	return m[i] + (m[i+1]-m[i])*(x-low)
}

// Max returns the watts drawn at full load.
func (m *PowerModel) Max() float64 { return m[10] }
