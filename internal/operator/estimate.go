package operator

import (
	"cmp"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Bases of an estimate.
const (
	BasisServer = "server" // the server's own last moves
	BasisCloud  = "cloud"  // recent moves of other servers
	BasisNone   = "none"   // nothing has been moved yet
)

// Estimate is what a live migration will probably cost, from what earlier ones did. Null means unknown; nothing here is measured on the guest as it
// is now. In particular nobody knows how fast it dirties its memory until it is moved.
type Estimate struct {
	// Basis is where the figures come from; Moves of how many migrations, the newest of which ended at Newest.
	Basis  string    `json:"basis"`
	Moves  int       `json:"moves"`
	Newest time.Time `json:"newest,omitzero"`
	// MemoryBytes and DiskBytes will be sent. AtMost says that they are bounds for one pass over everything: memory that was never touched
	// and disk that was never written cost nothing, memory that changes meanwhile costs again.
	MemoryBytes int64 `json:"memory_bytes"`
	DiskBytes   int64 `json:"disk_bytes"`
	AtMost      bool  `json:"at_most"`
	// BytesPerSecond is the rate of the basis.
	BytesPerSecond *int64 `json:"bytes_per_second"`
	// Seconds from the request to the end, and the guest's downtime within.
	Seconds         *float64 `json:"seconds"`
	DowntimeSeconds *float64 `json:"downtime_seconds"`
	// DirtyBytesPerSecond is how fast the guest dirtied its memory when it was last moved.
	DirtyBytesPerSecond *int64 `json:"dirty_bytes_per_second"`
}

// Bounds of the history that an estimate looks at: enough for a median to forget one odd move, few enough to follow a change.
const (
	ownMovesMax   = 5
	otherMovesMax = 20
)

// estimate expects of the next move of s what the past ones say. history are migrations of any kind and outcome, newest first; kind is what
// will be copied.
func estimate(s *cloud.Server, kind cloud.MigrationKind, history []*cloud.Migration) Estimate {
	own := usable(history, ownMovesMax, func(m *cloud.Migration) bool { return m.Server == s.ID && m.Kind == kind })
	others := usable(history, otherMovesMax, func(m *cloud.Migration) bool { return m.Kind == kind })
	e := Estimate{Basis: BasisNone, MemoryBytes: int64(s.Flavor.RAMMiB) << 20, AtMost: true}
	if kind == cloud.MigrateBlock {
		e.DiskBytes = s.RootBytes()
	}
	base := own
	switch {
	case len(own) > 0:
		e.Basis, e.AtMost = BasisServer, false
		e.MemoryBytes = median(own, func(m *cloud.Migration) int64 { return m.Totals.MemoryProcessed })
		e.DiskBytes = median(own, func(m *cloud.Migration) int64 { return m.Totals.DiskProcessed })
		if dirty := own[0].Totals.DirtyBytesPerSecond; dirty > 0 { // not every QEMU reports it at the end
			e.DirtyBytesPerSecond = &dirty
		}
	case len(others) > 0:
		e.Basis, base = BasisCloud, others
	default:
		return e
	}
	e.Moves, e.Newest = len(base), base[0].Finished
	rate := median(base, rateOf)
	took := median(base, aside) + time.Duration(float64(e.MemoryBytes+e.DiskBytes)/float64(rate)*float64(time.Second))
	down := median(base, func(m *cloud.Migration) time.Duration { return m.Totals.Downtime })
	seconds, downSeconds := took.Seconds(), down.Seconds()
	e.BytesPerSecond, e.Seconds, e.DowntimeSeconds = &rate, &seconds, &downSeconds
	return e
}

// usable returns the first max completed live migrations with figures that match.
func usable(history []*cloud.Migration, max int, match func(*cloud.Migration) bool) []*cloud.Migration {
	var out []*cloud.Migration
	for _, m := range history {
		if len(out) == max {
			break
		}
		if m.Status == cloud.MigrationCompleted && m.Totals != nil && rateOf(m) > 0 && match(m) {
			out = append(out, m)
		}
	}
	return out
}

// rateOf returns bytes per second of copying.
func rateOf(m *cloud.Migration) int64 {
	copying := m.Totals.Elapsed - m.Totals.Setup
	if copying <= 0 {
		return 0
	}
	return int64(float64(m.Totals.MemoryProcessed+m.Totals.DiskProcessed) / copying.Seconds())
}

// aside returns the time of a move that was no copying: finding a target, preparing it, switching over.
func aside(m *cloud.Migration) time.Duration {
	return max(0, m.Finished.Sub(m.Created)-(m.Totals.Elapsed-m.Totals.Setup))
}

// median returns the middle value, the lower of two.
func median[T cmp.Ordered](moves []*cloud.Migration, of func(*cloud.Migration) T) T {
	values := make([]T, len(moves))
	for i, m := range moves {
		values[i] = of(m)
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}
