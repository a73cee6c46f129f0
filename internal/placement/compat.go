package placement

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// compatible appends what makes h unfit to receive the running server from its source.
//
// A live migration hands over the state of a virtual machine, so the target must be able to continue exactly what the source began: same
// architecture, same kind of virtualization (a guest started under KVM cannot continue under emulation, or the reverse), and a QEMU and
// libvirt not older than the source's, because device state is only readable forwards.
func (c *checker) compatible(h *cloud.HostView, reasons []string) []string {
	if h.Host.Name == c.req.SourceHost {
		return append(reasons, "migration: the server runs on this host already")
	}
	if c.source == nil {
		return append(reasons, fmt.Sprintf("migration: the source host %s is not known", orNone(string(c.req.SourceHost))))
	}
	from, to := &c.source.Report, &h.Report
	if to.Generation == 0 && to.VCPUs == 0 {
		return reasons // state has said that it never reported; comparing nothing says no more
	}
	if from.Arch != to.Arch {
		reasons = append(reasons, fmt.Sprintf("architecture: source is %s, host is %s", orNone(from.Arch), orNone(to.Arch)))
	}
	if from.Virtualization != to.Virtualization {
		reasons = append(reasons, fmt.Sprintf("virtualization: source runs %s, host gives %s", orNone(from.Virtualization), orNone(to.Virtualization)))
	}
	if CompareVersions(to.QEMUVersion, from.QEMUVersion) < 0 {
		reasons = append(reasons, fmt.Sprintf("qemu: source has %s, host has the older %s", from.QEMUVersion, orNone(to.QEMUVersion)))
	}
	if CompareVersions(to.LibvirtVersion, from.LibvirtVersion) < 0 {
		reasons = append(reasons, fmt.Sprintf("libvirt: source has %s, host has the older %s", from.LibvirtVersion, orNone(to.LibvirtVersion)))
	}
	if to.MigrationAddress == "" {
		reasons = append(reasons, "migration: the host names no address for migration traffic")
	}
	return c.storage(from, to, reasons)
}

// storage appends why the kind of migration asked for does not suit the two hosts' disks.
func (c *checker) storage(from, to *cloud.HostReport, reasons []string) []string {
	if c.req.OnVolumes {
		if c.req.Kind == cloud.MigrateBlock {
			reasons = append(reasons, "storage: block migration was asked for, but the server has no local disk: its root disk is a volume")
		}
		return reasons
	}
	switch found := ResolvedKind(*from, *to); {
	case c.req.Kind == cloud.MigrateBlock && found == cloud.MigrateShared:
		reasons = append(reasons, "storage: block migration was asked for, but both hosts share the disk directory")
	case c.req.Kind == cloud.MigrateShared && found == cloud.MigrateBlock:
		reasons = append(reasons, "storage: migration on shared storage was asked for, but the hosts do not share a disk directory")
	case c.req.Kind == cloud.MigrateVolume:
		reasons = append(reasons, "storage: migration on volumes was asked for, but the server's disk is not a volume")
	}
	return reasons
}

// CompareVersions compares dotted version numbers ("7.2.0", "10.0.2-Debian") by their numeric parts: -1, 0 or +1. A missing part counts as
// 0, and anything after the first character that is neither a digit nor a dot is ignored, so "" is older than every other version.
func CompareVersions(a, b string) int {
	x, y := versionParts(a), versionParts(b)
	for i := range max(len(x), len(y)) {
		var p, q int
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		if p != q {
			if p < q {
				return -1
			}
			return 1
		}
	}
	return 0
}

// versionPartMax bounds a part, so that absurd input cannot overflow the comparison.
const versionPartMax = 1 << 30

func versionParts(s string) []int {
	if end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); end >= 0 {
		s = s[:end]
	}
	var out []int
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(part)
		if err != nil && part != "" { // digits only: the one error left is overflow
			n = versionPartMax
		}
		out = append(out, min(n, versionPartMax))
	}
	return out
}
