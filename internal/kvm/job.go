package kvm

import (
	"context"
	"math"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Job is a domain's migration job as libvirt reports it.
type Job struct {
	Active   bool // a migration is in progress
	Outgoing bool // it leaves this host; meaningful when Active
	Stats    cloud.MigrationStats
}

// Job returns the figures of the migration in progress. Asking costs one QEMU query, so ask at human pace.
func (c *Conn) Job(ctx context.Context, id cloud.ServerID) (Job, error) {
	var out Job
	err := c.onDomain(ctx, "job", id, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		kind, params, err := l.DomainGetJobStats(d, 0)
		if hasCode(err, libvirt.ErrOperationUnsupported) {
			out = Job{Active: true}
			return nil
		}
		if err != nil {
			return err
		}
		p := decodeParams(params)
		out = Job{
			Active:   libvirt.DomainJobType(kind) != libvirt.DomainJobNone,
			Outgoing: libvirt.DomainJobOperation(p.integer(libvirt.DomainJobOperationStr)) == libvirt.DomainJobOperationStrMigrationOut,
			Stats:    p.stats(),
		}
		return nil
	})
	return out, err
}

// CompletedJob returns the figures of the last migration that ended, measured downtime included; ok is false when libvirt keeps none.
// It answers for a domain that has left too, as long as its definition is here.
func (c *Conn) CompletedJob(ctx context.Context, id cloud.ServerID) (stats cloud.MigrationStats, ok bool, err error) {
	const flags = libvirt.DomainJobStatsCompleted | libvirt.DomainJobStatsKeepCompleted
	err = c.onDomain(ctx, "completed job", id, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		kind, params, err := l.DomainGetJobStats(d, flags)
		if err != nil {
			return err
		}
		stats, ok = decodeParams(params).stats(), libvirt.DomainJobType(kind) != libvirt.DomainJobNone
		return nil
	})
	return stats, ok, err
}

// params are libvirt's typed parameters by name. Values are int32, uint32, int64, uint64, float64 or string.
type params map[string]any

func decodeParams(list []libvirt.TypedParam) params {
	p := make(params, len(list))
	for _, t := range list {
		p[t.Field] = t.Value.I
	}
	return p
}

// integer returns a numeric parameter, 0 when it is absent or no number, and the largest int64 when it exceeds that.
func (p params) integer(name string) int64 {
	switch v := p[name].(type) {
	case int32:
		return int64(v)
	case uint32:
		return int64(v)
	case int64:
		return v
	case uint64:
		return int64(min(v, math.MaxInt64))
	case float64:
		if v != v {
			return 0
		}
		return int64(max(min(v, math.MaxInt64/2), math.MinInt64/2))
	}
	return 0
}

func (p params) millis(name string) time.Duration {
	const longest = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(max(min(p.integer(name), longest), 0)) * time.Millisecond
}

// stats picks the figures of a migration. QEMU counts dirty pages, we count bytes.
func (p params) stats() cloud.MigrationStats {
	page := p.integer(libvirt.DomainJobMemoryPageSize)
	dirty := p.integer(libvirt.DomainJobMemoryDirtyRate)
	if page > 0 && dirty > math.MaxInt64/page {
		dirty = math.MaxInt64 / page
	}
	return cloud.MigrationStats{
		MemoryTotal:          p.integer(libvirt.DomainJobMemoryTotal),
		MemoryProcessed:      p.integer(libvirt.DomainJobMemoryProcessed),
		MemoryRemaining:      p.integer(libvirt.DomainJobMemoryRemaining),
		MemoryPageSize:       page,
		DirtyBytesPerSecond:  dirty * page,
		MemoryBytesPerSecond: p.integer(libvirt.DomainJobMemoryBps),
		MemoryIterations:     p.integer(libvirt.DomainJobMemoryIteration),
		DiskTotal:            p.integer(libvirt.DomainJobDiskTotal),
		DiskProcessed:        p.integer(libvirt.DomainJobDiskProcessed),
		DiskRemaining:        p.integer(libvirt.DomainJobDiskRemaining),
		DiskBytesPerSecond:   p.integer(libvirt.DomainJobDiskBps),
		Downtime:             p.millis(libvirt.DomainJobDowntime),
		Setup:                p.millis(libvirt.DomainJobSetupTime),
		Elapsed:              p.millis(libvirt.DomainJobTimeElapsed),
	}
}
