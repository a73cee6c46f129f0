package kvmtest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

func targetOf(disks []kvm.Disk, i int) string {
	if t := disks[i].Target; t != "" {
		return t
	}
	return "vd" + string(rune('a'+i))
}

func indexOf(disks []kvm.Disk, target string) int {
	for i := range disks {
		if targetOf(disks, i) == target {
			return i
		}
	}
	return -1
}

func describe(disks []kvm.Disk) (out []kvm.DiskDescription) {
	for i, d := range disks {
		desc := kvm.DiskDescription{Target: targetOf(disks, i), Path: d.Path, Serial: d.Serial, ReadOnly: d.ReadOnly}
		if d.NBD != nil {
			desc.Export = d.NBD.Export
		}
		out = append(out, desc)
	}
	return out
}

// redirect returns the domain with other ways to its volumes. An export is good for one host, so a volume without a new way is a mistake.
func redirect(d kvm.Domain, volumes map[string]kvm.NBD) (kvm.Domain, error) {
	d.Disks = slices.Clone(d.Disks)
	done := 0
	for i := range d.Disks {
		if d.Disks[i].NBD == nil {
			continue
		}
		way, ok := volumes[targetOf(d.Disks, i)]
		if !ok {
			return d, cloud.Errorf(cloud.KindInvalid, "fake: no way for the target to volume %s", d.Disks[i].Serial)
		}
		d.Disks[i].NBD = &way
		done++
	}
	if done != len(volumes) {
		return d, cloud.Errorf(cloud.KindConflict, "fake: %d of %d volumes", done, len(volumes))
	}
	return d, nil
}

// AttachDisk is kvm.Conn.AttachDisk.
func (h *Host) AttachDisk(ctx context.Context, id cloud.ServerID, disk kvm.Disk) error {
	return h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		if p.out != nil || p.in != nil {
			return cloud.Errorf(cloud.KindUnavailable, "fake: a migration holds domain %s", id)
		}
		if indexOf(p.domain.Disks, disk.Target) >= 0 {
			return cloud.Errorf(cloud.KindConflict, "fake: there is a disk %s", disk.Target)
		}
		p.domain.Disks = append(slices.Clone(p.domain.Disks), disk)
		h.noteLocked(id, kvm.Changed)
		return nil
	})
}

// Deafen makes the domain's guest ignore that many requests to let go of a disk.
func (h *Host) Deafen(id cloud.ServerID, requests int) {
	h.fleet.set(func() { h.domains[id].proc.deaf = requests })
}

// DetachDisk is kvm.Conn.DetachDisk: the guest lets go at once.
func (h *Host) DetachDisk(ctx context.Context, id cloud.ServerID, target string) error {
	return h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		i := indexOf(p.domain.Disks, target)
		if i < 0 {
			return nil
		}
		if p.deaf > 0 {
			p.deaf--
			h.noteLocked(id, kvm.Changed|kvm.DeviceKept)
			return nil
		}
		p.domain.Disks = slices.Delete(slices.Clone(p.domain.Disks), i, i+1)
		h.noteLocked(id, kvm.Changed|kvm.DeviceGone)
		return nil
	})
}

// ResizeDisk is kvm.Conn.ResizeDisk.
func (h *Host) ResizeDisk(ctx context.Context, id cloud.ServerID, target string, bytes int64) error {
	return h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		if indexOf(p.domain.Disks, target) < 0 {
			return cloud.Errorf(cloud.KindInvalid, "fake: invalid path: %s", target)
		}
		if bytes <= 0 {
			h.fleet.violations = append(h.fleet.violations, fmt.Sprintf("resize of %s to %d bytes", target, bytes))
		}
		if h.resized[id] == nil {
			h.resized[id] = map[string]int64{}
		}
		h.resized[id][target] = bytes
		return nil
	})
}

// Resized returns the sizes that the domain's guest was told of here, by disk.
func (h *Host) Resized(id cloud.ServerID) map[string]int64 {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return maps.Clone(h.resized[id])
}

// FailDisk makes a request of the domain's guest to one of its volumes fail: it stands still.
func (h *Host) FailDisk(id cloud.ServerID) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	p := h.domains[id].proc
	p.running, p.reason = false, kvm.ReasonIOError
	h.noteLocked(id, p.diskNotice())
}

// Defined returns the domain's definition, nil when there is none.
func (h *Host) Defined(id cloud.ServerID) *kvm.Domain {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	if d := h.domains[id]; d != nil {
		return d.defined
	}
	return nil
}
