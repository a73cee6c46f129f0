package volume

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// burst is how much of a limit may be used at once after a pause. A tenth of a second is what a guest's queue of requests takes at once, and short
// enough that nobody notices it on a graph.
const burst = 100 * time.Millisecond

// bucket is one limit, by the rule of the virtual clock: each unit used moves free on by the time that the limit gives it, and a request may go
// when free is not in the future. So a request larger than the burst passes too, and is paid for afterwards. The zero bucket limits nothing.
type bucket struct {
	perSecond int64
	free      int64 // nanoseconds; everything used so far is paid for at this time
}

// longAgo is before any time a clock may show.
const longAgo = math.MinInt64 / 2

// wait is how long after now a request may go.
func (b *bucket) wait(now int64) int64 {
	if b.perSecond <= 0 {
		return 0
	}
	return max(0, b.free-now)
}

// use pays for n units.
func (b *bucket) use(now, n int64) {
	if b.perSecond <= 0 {
		return
	}
	whole, rest := n/b.perSecond, n%b.perSecond // in parts: n times a billion may not fit
	cost := whole*int64(time.Second) + int64(math.Round(float64(rest)/float64(b.perSecond)*float64(time.Second)))
	b.free = max(b.free, now-int64(burst)) + cost
}

// Limiter holds a volume's clients to its limits. It knows no clock: the time is whatever monotone clock its callers share. Any goroutine may use
// it; where nothing is limited, Ask is one atomic load.
type Limiter struct {
	limited atomic.Bool
	mu      sync.Mutex
	iops    bucket
	bytes   bucket
}

// Set changes the limits. What was used under the old ones is forgotten.
func (l *Limiter) Set(limits Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.iops = bucket{perSecond: limits.IOPS, free: longAgo}
	l.bytes = bucket{perSecond: limits.BytesPerSecond, free: longAgo}
	l.limited.Store(limits != Limits{})
}

// Ask asks to make a request of n bytes at time now. Zero: go ahead, it is paid for. Otherwise nothing was taken: ask again after so long.
// Callers that keep their requests in order ask for the first one only.
func (l *Limiter) Ask(now time.Duration, n int64) time.Duration {
	if !l.limited.Load() {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if wait := max(l.iops.wait(int64(now)), l.bytes.wait(int64(now))); wait > 0 {
		return time.Duration(wait)
	}
	l.iops.use(int64(now), 1)
	l.bytes.use(int64(now), n)
	return 0
}
