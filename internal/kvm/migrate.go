package kvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Move is a live migration to be performed.
type Move struct {
	ID            cloud.ServerID
	TargetAddress string   // IP address in the target's libvirt and QEMU certificates
	CopyDisks     []string // targets (vda ...) of the local writable disks to copy; none: disks are reachable from both hosts
	// Shallow copies only a disk's top layer: the target must have made an overlay on the very same base.
	Shallow      bool
	DowntimeMax  time.Duration // 0: QEMU's default
	BandwidthMax int64         // bytes per second for memory and again for disks; 0: unlimited
	AutoConverge bool          // slow the guest down when it dirties memory faster than it can be sent
	PostCopy     bool          // allow StartPostCopy
	Parallel     int           // connections for memory; 0 or 1: one
	// AbortOnError ends the migration when the guest stops on an error of its storage; with Volumes it always does.
	AbortOnError bool
	// Volumes are how the target reaches the domain's volumes, by disk (vda ...): an export is good for one host alone.
	Volumes map[string]NBD
}

const mebi = 1 << 20

// flags: the source's definition stays (a shut-off domain with reason "migrated" is evidence that it left; Undefine removes it), the
// target gets its own in the same step that resumes its CPUs, so that a moved domain is at no time without one.
func (m Move) flags() libvirt.DomainMigrateFlags {
	f := libvirt.MigrateLive | libvirt.MigratePeer2peer | libvirt.MigratePersistDest | libvirt.MigrateTLS
	switch {
	case len(m.CopyDisks) > 0 && m.Shallow:
		f |= libvirt.MigrateNonSharedInc
	case len(m.CopyDisks) > 0:
		f |= libvirt.MigrateNonSharedDisk
	}
	if len(m.Volumes) > 0 || m.AbortOnError {
		// A guest that stands still because its storage is away cannot be resumed while it migrates: better to stay and go on.
		f |= libvirt.MigrateAbortOnError
	}
	if m.AutoConverge {
		f |= libvirt.MigrateAutoConverge
	}
	if m.PostCopy {
		f |= libvirt.MigratePostcopy
	}
	if m.Parallel > 1 {
		f |= libvirt.MigrateParallel
	}
	return f
}

func (m Move) params() []libvirt.TypedParam {
	ps := []libvirt.TypedParam{
		textParam(libvirt.MigrateParamURI, "tcp://"+bracketed(m.TargetAddress)),
		textParam(libvirt.MigrateParamListenAddress, m.TargetAddress),
		// Said explicitly, because libvirt 9.0 forgets it for disks when memory goes over parallel connections.
		textParam(libvirt.MigrateParamTLSDestination, m.TargetAddress),
	}
	for _, d := range m.CopyDisks {
		ps = append(ps, textParam(libvirt.MigrateParamMigrateDisks, d))
	}
	if m.BandwidthMax > 0 {
		mebiPerSecond := uint64(max(m.BandwidthMax/mebi, 1)) // libvirt's unit; a limit below 1 MiB/s would never converge
		ps = append(ps, libvirt.TypedParam{Field: libvirt.MigrateParamBandwidth, Value: *libvirt.NewTypedParamValueUllong(mebiPerSecond)})
		if m.PostCopy { // a limit of its own, on what is sent ahead; pages that the guest waits for come at once
			ps = append(ps, libvirt.TypedParam{Field: libvirt.MigrateParamBandwidthPostcopy, Value: *libvirt.NewTypedParamValueUllong(mebiPerSecond)})
		}
	}
	if m.Parallel > 1 {
		ps = append(ps, libvirt.TypedParam{Field: libvirt.MigrateParamParallelConnections, Value: *libvirt.NewTypedParamValueInt(int32(m.Parallel))})
	}
	return ps
}

func textParam(name, value string) libvirt.TypedParam {
	return libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueString(value)}
}

// targetURI is where the source's libvirtd reaches the target's. No "?no_verify": certificates are checked on both ends.
func (m Move) targetURI() string { return "qemu+tls://" + bracketed(m.TargetAddress) + "/system" }

func bracketed(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

// Migrate moves a running domain and returns when libvirt has finished or given up. The error does not prove that the domain is still
// here: ask State. When ctx ends, Migrate returns and the migration goes on; only AbortJob ends it.
func (c *Conn) Migrate(ctx context.Context, m Move) error {
	if net.ParseIP(m.TargetAddress) == nil {
		return wrap("migrate", m.ID, cloud.Errorf(cloud.KindInvalid, "target address %q is no IP address", m.TargetAddress))
	}
	return c.slow(ctx, "migrate", m.ID, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, m.ID)
		if err != nil {
			return err
		}
		if m.DowntimeMax > 0 {
			if err := l.DomainMigrateSetMaxDowntime(d, uint64(max(m.DowntimeMax.Milliseconds(), 1)), 0); err != nil {
				return fmt.Errorf("longest downtime: %w", err)
			}
		}
		params := m.params()
		if len(m.Volumes) > 0 {
			text, err := documentForTarget(l, d, m.Volumes)
			if err != nil {
				return fmt.Errorf("document for the target: %w", err)
			}
			params = append(params, textParam(libvirt.MigrateParamDestXML, text))
		}
		_, err = l.DomainMigratePerform3Params(d, libvirt.OptString{m.targetURI()}, params, nil, m.flags())
		if forgottenMirror(err) {
			c.log.Warn("an earlier migration left its block devices in QEMU: removing them and trying again", "server", m.ID, "error", err)
			if sweepErr := removeMirrors(l, d); sweepErr != nil {
				return errors.Join(err, sweepErr)
			}
			_, err = l.DomainMigratePerform3Params(d, libvirt.OptString{m.targetURI()}, params, nil, m.flags())
		}
		return err
	})
}

// documentForTarget is the running domain as it is to be on the target. It is made of libvirt's own document, which has everything that must be the same on
// both hosts (slots, aliases, the machine), with other exports for the volumes. The target's persistent definition still has the source's: whoever adopts the
// domain defines it anew, and whoever starts it does so too.
func documentForTarget(l *libvirt.Libvirt, d libvirt.Domain, volumes map[string]NBD) (string, error) {
	text, err := l.DomainGetXMLDesc(d, libvirt.DomainXMLMigratable|libvirt.DomainXMLSecure)
	if err != nil {
		return "", err
	}
	return redirect(text, volumes)
}

// AbortJob asks for the end of the domain's migration; the guest stays. KindConflict when there is none, or when it can no longer be stopped.
func (c *Conn) AbortJob(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "abort job", id, func(l *libvirt.Libvirt, d libvirt.Domain) error { return l.DomainAbortJob(d) })
}

// StartPostCopy lets the domain's CPUs run on the target at once and fetches memory from there as they need it. From then on neither host alone
// has the guest.
func (c *Conn) StartPostCopy(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "start post-copy", id, func(l *libvirt.Libvirt, d libvirt.Domain) error { return l.DomainMigrateStartPostCopy(d, 0) })
}
