package consolidate

// Underload decides whether a host is so little used that its guests should leave it. Only Neat asks: the 2012 paper tries to empty
// every host that is not overloaded, the least used first.
type Underload interface {
	Underloaded(l Load) bool
}

// LastNAverage is Neat's last_n_average_threshold: the mean of the last N steps is at most Share. Steps before the history count
// as 0, as Neat pads short series with zeros on the left.
type LastNAverage struct {
	Share float64
	N     int
}

// Underloaded implements Underload.
func (d LastNAverage) Underloaded(l Load) bool {
	if d.N <= 0 {
		return false
	}
	sum := 0.0
	for _, u := range lastN(l.History, d.N) {
		sum += u
	}
	return sum/float64(d.N) <= d.Share
}

// LastBelow is Neat's threshold: the current step is at most Share.
type LastBelow struct{ Share float64 }

// Underloaded implements Underload.
func (d LastBelow) Underloaded(l Load) bool { return l.Now <= d.Share }

// AlwaysUnderloaded is Neat's always_underloaded.
type AlwaysUnderloaded struct{}

// Underloaded implements Underload.
func (AlwaysUnderloaded) Underloaded(Load) bool { return true }
