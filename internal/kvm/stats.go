package kvm

import (
	"context"
	"strconv"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Stats are what a running domain has used. Counters are totals since its process began here.
type Stats struct {
	ID                    cloud.ServerID
	CPUTime               time.Duration // of all its threads, QEMU's own included
	VCPUs                 []VCPUStats
	ResidentMiB           int64
	DiskRead, DiskWritten int64 // bytes
	NetIn, NetOut         int64 // bytes, as the guest sees it
	// DirtyBytesPerSecond is the last measurement of MeasureDirtying, -1 when there was none.
	DirtyBytesPerSecond int64
}

// VCPUStats are the totals of one virtual CPU: it ran, and it was ready to run and did not.
type VCPUStats struct{ Run, Delay time.Duration }

// statsGroups are what Stats asks for: all of it is read from /proc and QEMU's memory, none of it stops a guest.
const statsGroups = libvirt.DomainStatsCPUTotal | libvirt.DomainStatsBalloon | libvirt.DomainStatsVCPU | libvirt.DomainStatsInterface |
	libvirt.DomainStatsBlock | libvirt.DomainStatsDirtyrate

// Stats returns the figures of every running domain in one call. A domain that is busy (libvirt works on it) shows only what can be had without
// waiting for it.
func (c *Conn) Stats(ctx context.Context) ([]Stats, error) {
	var out []Stats
	err := c.quick(ctx, "domain statistics", "", func(l *libvirt.Libvirt) error {
		const flags = libvirt.ConnectGetAllDomainsStatsRunning | libvirt.ConnectGetAllDomainsStatsNowait
		records, err := l.ConnectGetAllDomainStats(nil, uint32(statsGroups), uint32(flags))
		if err != nil {
			return err
		}
		for _, r := range records {
			out = append(out, decodeStats(cloud.ServerID(uuid.UUID(r.Dom.UUID).String()), decodeParams(r.Params)))
		}
		return nil
	})
	return out, err
}

// devicesMax bounds the devices of one kind that are summed; libvirt's own bounds on a domain are lower.
const devicesMax = 1024

func decodeStats(id cloud.ServerID, p params) Stats {
	s := Stats{ID: id, CPUTime: time.Duration(p.integer(libvirt.DomainStatsCPUTime)), ResidentMiB: p.integer(libvirt.DomainStatsBalloonRss) >> 10, DirtyBytesPerSecond: -1}
	each := func(count, prefix string, add func(name string)) {
		for i := range min(p.integer(count), devicesMax) {
			add(prefix + strconv.FormatInt(i, 10))
		}
	}
	each(libvirt.DomainStatsVCPUMaximum, libvirt.DomainStatsVCPUPrefix, func(name string) {
		s.VCPUs = append(s.VCPUs, VCPUStats{time.Duration(p.integer(name + libvirt.DomainStatsVCPUSuffixTime)), time.Duration(p.integer(name + libvirt.DomainStatsVCPUSuffixDelay))})
	})
	each(libvirt.DomainStatsBlockCount, libvirt.DomainStatsBlockPrefix, func(name string) {
		s.DiskRead += p.integer(name + libvirt.DomainStatsBlockSuffixRdBytes)
		s.DiskWritten += p.integer(name + libvirt.DomainStatsBlockSuffixWrBytes)
	})
	each(libvirt.DomainStatsNetCount, libvirt.DomainStatsNetPrefix, func(name string) { // libvirt counts at the tap, from the host's side of a guest's NIC
		s.NetIn += p.integer(name + libvirt.DomainStatsNetSuffixRxBytes)
		s.NetOut += p.integer(name + libvirt.DomainStatsNetSuffixTxBytes)
	})
	const measured = 2 // virDomainDirtyRateStatus
	if p.integer(libvirt.DomainStatsDirtyrateCalcStatus) == measured {
		s.DirtyBytesPerSecond = p.integer(libvirt.DomainStatsDirtyrateMegabytesPerSecond) << 20
	}
	return s
}

// MeasureDirtying has QEMU sample pages of the running domain for one second, by which it estimates how fast the guest writes to its memory. It
// returns at once; the result is in later Stats. The guest is not slowed down: pages are hashed from outside.
func (c *Conn) MeasureDirtying(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "measure dirtying", id, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainStartDirtyRateCalc(d, 1, 0)
	})
}
