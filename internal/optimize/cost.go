package optimize

import (
	"cmp"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

// Rates are what past migrations say of the next one.
type Rates struct {
	BytesPerSecond int64
	Aside          time.Duration // of a move: not copying
	Downtime       time.Duration
	// Own are servers' last moves, also those that failed: what failed a minute ago is not tried again and again.
	Own map[cloud.ServerID]OwnRate
}

// OwnRate is what a server's last move was like.
type OwnRate struct {
	Bytes               int64 // memory and disk that were sent
	Kind                cloud.MigrationKind
	DirtyBytesPerSecond int64 // 0: not told
	Finished            time.Time
	Failed              bool
}

// What is assumed before anything was moved: half of 1 Gbit/s, as in the 2012 paper, and what libvirt takes for a small guest.
const (
	bytesPerSecondDefault = 60 << 20
	asideDefault          = 2 * time.Second
	downtimeDefault       = 100 * time.Millisecond
	ratesFrom             = 50 // newest moves that rates are learned from
)

// Learn reads the history, newest first or not.
func Learn(history []*cloud.Migration) Rates {
	r := Rates{BytesPerSecond: bytesPerSecondDefault, Aside: asideDefault, Downtime: downtimeDefault, Own: map[cloud.ServerID]OwnRate{}}
	var useful []*cloud.Migration
	for _, m := range history {
		if own := r.Own[m.Server]; m.Type == cloud.TypeLiveMigration && m.Finished.After(own.Finished) {
			r.Own[m.Server] = OwnRate{Finished: m.Finished, Failed: m.Status != cloud.MigrationCompleted}
		}
		if m.Status == cloud.MigrationCompleted && m.Type == cloud.TypeLiveMigration && m.Totals != nil && m.Totals.Elapsed > m.Totals.Setup {
			useful = append(useful, m)
		}
	}
	slices.SortFunc(useful, func(a, b *cloud.Migration) int { return b.Finished.Compare(a.Finished) })
	for _, m := range useful {
		if own := r.Own[m.Server]; own.Bytes == 0 {
			own.Bytes, own.Kind, own.DirtyBytesPerSecond = m.Totals.MemoryProcessed+m.Totals.DiskProcessed, m.Kind, m.Totals.DirtyBytesPerSecond
			r.Own[m.Server] = own
		}
	}
	useful = useful[:min(len(useful), ratesFrom)]
	if len(useful) == 0 {
		return r
	}
	r.BytesPerSecond = max(1, median(useful, func(m *cloud.Migration) int64 {
		return int64(float64(m.Totals.MemoryProcessed+m.Totals.DiskProcessed) / (m.Totals.Elapsed - m.Totals.Setup).Seconds())
	}))
	r.Aside = median(useful, func(m *cloud.Migration) time.Duration {
		return max(0, m.Finished.Sub(m.Created)-(m.Totals.Elapsed-m.Totals.Setup))
	})
	r.Downtime = median(useful, func(m *cloud.Migration) time.Duration { return m.Totals.Downtime })
	return r
}

func median[T cmp.Ordered](moves []*cloud.Migration, of func(*cloud.Migration) T) T {
	values := make([]T, len(moves))
	for i, m := range moves {
		values[i] = of(m)
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

// migrationShare is the share of its CPU that a moving server does without, and that its target spends beside it: the 2012 paper's tenth.
const migrationShare = 0.1

// cost estimates a move. Memory is copied while it is written to: with a dirty rate d and a bandwidth b, the passes add up to M/(b-d).
func (in *Input) cost(s *cloud.Server, kind cloud.MigrationKind, reading telemetry.ServerReading) cloud.MoveCost {
	rate := in.Rates.BytesPerSecond
	if b := in.Settings.Bandwidth; b > 0 {
		rate = min(rate, b)
	}
	own, moved := in.Rates.Own[s.ID]
	dirty := reading.DirtyBytesPerSecond
	if dirty < 0 && moved && own.DirtyBytesPerSecond > 0 {
		dirty = own.DirtyBytesPerSecond
	}
	c := cloud.MoveCost{BytesPerSecond: rate, DirtyBytesPerSecond: dirty, Bytes: int64(s.Flavor.RAMMiB) << 20, Downtime: in.Rates.Downtime}
	if reading.MemoryUsedMiB > 0 { // QEMU sends zero pages as a few bytes; resident memory is what was ever touched
		c.Bytes = min(c.Bytes, reading.MemoryUsedMiB<<20)
	}
	if kind == cloud.MigrateBlock {
		c.Bytes += s.RootBytes()
	}
	if moved && own.Bytes > 0 && own.Kind == kind {
		c.Bytes = own.Bytes
	}
	effective := float64(rate)
	if dirty > 0 {
		effective = max(float64(rate-dirty), float64(rate)/dirtyPassesMax)
	}
	c.Takes = in.Rates.Aside + time.Duration(float64(c.Bytes)/effective*float64(time.Second))
	c.CPUSeconds = migrationShare*reading.Asked()*c.Takes.Seconds() + reading.Asked()*c.Downtime.Seconds()
	return c
}

// dirtyPassesMax bounds how often an estimate has memory copied again: auto-converge and the time limit end a move that goes on for longer.
const dirtyPassesMax = 20

// converges reports whether memory is copied clearly faster than it is written to.
func converges(c cloud.MoveCost) bool {
	const clearly = 0.9
	return float64(c.DirtyBytesPerSecond) < clearly*float64(c.BytesPerSecond)
}
