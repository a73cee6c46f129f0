package kvmtest

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// Panic ends a domain as a panic of its guest's kernel does.
func (h *Host) Panic(id cloud.ServerID) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	d := h.domains[id]
	if d == nil || d.proc == nil {
		return
	}
	h.noteLocked(id, kvm.Changed|kvm.Stopped|kvm.Panicked)
	h.endLocked(id, d, "crashed")
}

// TellPanic tells of a panic whose consequences, the end of the domain, are over: libvirt's events may come after its states.
func (h *Host) TellPanic(id cloud.ServerID) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.noteLocked(id, kvm.Changed|kvm.Stopped|kvm.Panicked)
}

// ShutDown ends a domain as its own guest does.
func (h *Host) ShutDown(id cloud.ServerID) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	if d := h.domains[id]; d != nil && d.proc != nil {
		h.endLocked(id, d, kvm.ReasonShutdown)
	}
}

// FireWatchdog expires a guest's watchdog, whose action is to pause it or to reset it.
func (h *Host) FireWatchdog(id cloud.ServerID, pause bool) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	if p := h.domains[id].proc; pause {
		p.running, p.reason = false, kvm.ReasonWatchdog
	}
	h.noteLocked(id, kvm.Changed|kvm.WatchdogFired)
}

// SpoilDisk makes every request of the domain's guest to one of its disks fail, whoever resumes it.
func (h *Host) SpoilDisk(id cloud.ServerID) {
	h.fleet.mu.Lock()
	p := h.domains[id].proc
	p.spoiled = true
	h.fleet.mu.Unlock()
	h.FailDisk(id)
}

// FillDisk leaves no room for what the domain's guest writes, whoever resumes it, until MakeRoom.
func (h *Host) FillDisk(id cloud.ServerID) {
	h.fleet.mu.Lock()
	p := h.domains[id].proc
	p.spoiled, p.full = true, true
	h.fleet.mu.Unlock()
	h.FailDisk(id)
}

// MakeRoom ends FillDisk: the guest goes on when it is resumed.
func (h *Host) MakeRoom(id cloud.ServerID) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	p := h.domains[id].proc
	p.spoiled, p.full = false, false
}

// diskNotice is what libvirt tells of a disk error of the process.
func (p *proc) diskNotice() kvm.Notice {
	if p.full {
		return kvm.Changed | kvm.DiskFailed | kvm.DiskFull
	}
	return kvm.Changed | kvm.DiskFailed
}

// SetAgent says how the guest's agent answers from now on.
func (h *Host) SetAgent(id cloud.ServerID, pong kvm.Pong) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.domains[id].proc.agent = pong
}

// PingGuest is kvm.Conn.PingGuest.
func (h *Host) PingGuest(ctx context.Context, id cloud.ServerID) (pong kvm.Pong, err error) {
	err = h.call(ctx, func() error {
		if d := h.domains[id]; d != nil && d.proc != nil {
			pong = d.proc.agent
			h.pings[id]++
			h.fleet.touchLocked()
		}
		return nil
	})
	return pong, err
}

// Pings returns how often a guest's agent was pinged.
func (h *Host) Pings(id cloud.ServerID) int {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return h.pings[id]
}

// AwaitPings waits until a guest's agent was pinged n times, or ctx ends.
func (h *Host) AwaitPings(ctx context.Context, id cloud.ServerID, n int) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	for h.pings[id] < n && h.fleet.waitLocked(ctx) == nil {
	}
}
