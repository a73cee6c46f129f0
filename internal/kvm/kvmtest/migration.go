package kvmtest

import (
	"context"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// Migrate is kvm.Conn.Migrate: the migration goes on when ctx ends.
func (h *Host) Migrate(ctx context.Context, m kvm.Move) error {
	var mig *migration
	err := h.onProcess(ctx, m.ID, func(d *domain, p *proc) error {
		var err error
		mig, err = h.beginLocked(m, p)
		return err
	})
	if err != nil {
		return err
	}
	f := h.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	for !mig.ended && h.up {
		if err := f.waitLocked(ctx); err != nil {
			return err
		}
	}
	if !mig.ended {
		return cloud.Errorf(cloud.KindUnavailable, "fake: connection to libvirtd lost")
	}
	return mig.err
}

// beginLocked makes the incoming domain and starts the copy.
func (h *Host) beginLocked(m kvm.Move, p *proc) (*migration, error) {
	f := h.fleet
	target := f.hosts[m.TargetAddress]
	switch {
	case p.out != nil || p.in != nil:
		return nil, cloud.Errorf(cloud.KindConflict, "fake: another job is active")
	case target == nil || !target.up:
		return nil, cloud.Errorf(cloud.KindInternal, "fake: unable to connect to server at %s", m.TargetAddress)
	case target == h:
		return nil, cloud.Errorf(cloud.KindInternal, "fake: attempt to migrate guest to the same host")
	case len(m.CopyDisks) > 0 && !target.diskThere(m.ID):
		f.violations = append(f.violations, "migration to a host without the disk")
		return nil, cloud.Errorf(cloud.KindInternal, "fake: target disk does not exist")
	}
	if d := target.domains[m.ID]; d != nil && d.proc != nil {
		return nil, cloud.Errorf(cloud.KindConflict, "fake: domain %s is already active on the target", m.ID)
	}
	arriving, err := redirect(p.domain, m.Volumes)
	if err != nil {
		f.violations = append(f.violations, fmt.Sprintf("migration of %s: %v", m.ID, err))
		return nil, err
	}
	mig := &migration{move: m, source: h, target: target}
	p.out = mig
	if target.domains[m.ID] == nil {
		target.domains[m.ID] = &domain{reason: "unknown"}
	}
	target.domains[m.ID].proc = &proc{domain: arriving, in: mig}
	target.noteLocked(m.ID, kvm.Changed)
	f.jobs.Go(func() { mig.run() })
	return mig, nil
}

// run waits until the migration may end or must.
func (m *migration) run() {
	f := m.source.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.held && !m.ended && !m.hung && m.bothThere() {
		f.waitLocked(context.Background())
	}
	switch {
	case m.hung: // its libvirtd never answers
	case m.ended: // aborted, or a daemon was killed
	case !m.bothThere():
		m.failLocked(cloud.Errorf(cloud.KindInternal, "fake: migration lost an end"))
	default:
		m.completeLocked()
	}
}

func (m *migration) sourceProc() *proc { return procOf(m.source, m.move.ID) }
func (m *migration) targetProc() *proc { return procOf(m.target, m.move.ID) }

func procOf(h *Host, id cloud.ServerID) *proc {
	if d := h.domains[id]; d != nil {
		return d.proc
	}
	return nil
}

func (m *migration) bothThere() bool {
	s, t := m.sourceProc(), m.targetProc()
	return s != nil && s.out == m && t != nil && t.in == m
}

// failLocked takes the guest back. The half-received domain goes with the connection, unless the target's libvirtd is away: then when that returns.
func (m *migration) failLocked(err error) {
	m.ended, m.err = true, err
	if m.split {
		m.breakLocked()
		return
	}
	if p := m.sourceProc(); p != nil && p.out == m {
		p.out = nil
	}
	if p := m.targetProc(); p != nil && p.in == m && m.target.up {
		m.target.endLocked(m.move.ID, m.target.domains[m.move.ID], "failed")
	}
	m.source.fleet.touchLocked()
}

// breakLocked leaves both halves of a guest where they are.
func (m *migration) breakLocked() {
	if p := m.sourceProc(); p != nil && p.out == m {
		p.out, p.reason = nil, kvm.ReasonPostcopyFailed
		m.source.noteLocked(m.move.ID, kvm.Changed|kvm.PostCopied)
	}
	if p := m.targetProc(); p != nil && p.in == m {
		p.in, p.reason = nil, kvm.ReasonPostcopyFailed
		m.target.noteLocked(m.move.ID, kvm.Changed|kvm.Resumed)
	}
	m.source.fleet.touchLocked()
}

func (m *migration) completeLocked() {
	m.ended = true
	id := m.move.ID
	source, arrived := m.source.domains[id], m.targetProc()
	definition := source.proc.domain
	source.proc, source.reason, source.completed = nil, kvm.ReasonMigrated, &finalStats
	if source.defined == nil {
		delete(m.source.domains, id)
	}
	arrived.in, arrived.running, arrived.reason = nil, true, kvm.ReasonMigrated
	m.target.domains[id].completed = &arrivalStats
	m.target.domains[id].defined = &definition // with the source's exports, as libvirt's
	m.target.noteLocked(id, kvm.Changed|kvm.Resumed|kvm.Arrived)
	m.source.noteLocked(id, kvm.Changed|kvm.Departed)
}

// CompleteTwice ends the domain's migration the way libvirt does when the target's libvirtd dies between letting the CPUs run and saying so: the
// guest runs on the target, and the source, which heard nothing, lets it run on too. The target's libvirtd is left dead.
func (h *Host) CompleteTwice(id cloud.ServerID) {
	h.fleet.set(func() {
		p := procOf(h, id)
		if p == nil || p.out == nil {
			panic("kvmtest: no migration to complete")
		}
		m := p.out
		m.target.up = false
		arrived := m.targetProc()
		arrived.in, arrived.running, arrived.reason = nil, true, kvm.ReasonMigrated
		m.target.domains[id].defined = &arrived.domain
		p.out, m.ended, m.err = nil, true, cloud.Errorf(cloud.KindUnavailable, "fake: connection to the target lost")
	})
}

// AbortJob is kvm.Conn.AbortJob.
func (h *Host) AbortJob(ctx context.Context, id cloud.ServerID) error {
	return h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		if p.out == nil {
			return cloud.Errorf(cloud.KindConflict, "fake: no job is active")
		}
		if p.out.split {
			return cloud.Errorf(cloud.KindConflict, "fake: cannot abort migration in post-copy mode")
		}
		p.out.failLocked(cloud.Errorf(cloud.KindCancelled, "fake: operation aborted: migration out: canceled by client"))
		return nil
	})
}

// StartPostCopy is kvm.Conn.StartPostCopy; the migration then completes, when it is not held.
func (h *Host) StartPostCopy(ctx context.Context, id cloud.ServerID) error {
	return h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		if p.out == nil || !p.out.move.PostCopy {
			return cloud.Errorf(cloud.KindConflict, "fake: post-copy can only be started while outgoing migration with it is in progress")
		}
		m := p.out
		m.split, p.running, p.reason = true, false, kvm.ReasonPostcopy
		arrived := m.targetProc()
		arrived.running, arrived.reason = true, kvm.ReasonPostcopy
		h.noteLocked(id, kvm.Changed|kvm.PostCopied)
		m.target.noteLocked(id, kvm.Changed|kvm.Resumed|kvm.Arrived)
		if !h.fleet.held {
			m.completeLocked()
		}
		return nil
	})
}

// KillProcess ends a domain's QEMU as SIGKILL does.
func (h *Host) KillProcess(id cloud.ServerID) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	d := h.domains[id]
	if d == nil || d.proc == nil {
		return
	}
	out := d.proc.out
	h.endLocked(id, d, "crashed")
	if out != nil {
		out.failLocked(cloud.Errorf(cloud.KindInternal, "fake: domain crashed during migration"))
	}
}

// LoseProcess ends a domain's QEMU in post-copy without its libvirtd's noticing: the call that moves it does not return, and the domain looks as before. The
// target learns that nothing comes any more.
func (h *Host) LoseProcess(id cloud.ServerID) {
	h.fleet.set(func() {
		p := procOf(h, id)
		if p == nil || p.out == nil || !p.out.split {
			panic("kvmtest: no post-copy to lose")
		}
		m := p.out
		p.lost, m.hung = true, true
		if t := m.targetProc(); t != nil {
			t.in, t.reason = nil, kvm.ReasonPostcopyFailed
			m.target.noteLocked(id, kvm.Changed|kvm.Resumed)
		}
	})
}

// KillDaemon ends libvirtd; guests run on, migrations over it fail.
func (h *Host) KillDaemon() {
	h.fleet.set(func() {
		h.up = false
		for _, d := range h.domains {
			for _, m := range d.migrations() {
				m.failLocked(cloud.Errorf(cloud.KindUnavailable, "fake: connection to libvirtd lost"))
			}
		}
	})
}

// migrations returns those that the domain takes part in.
func (d *domain) migrations() (all []*migration) {
	if d.proc != nil && d.proc.out != nil {
		all = append(all, d.proc.out)
	}
	if d.proc != nil && d.proc.in != nil {
		all = append(all, d.proc.in)
	}
	return all
}

// StartDaemon brings libvirtd back: half-received domains are gone, and everything may have changed.
func (h *Host) StartDaemon() {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.up = true
	for id, d := range h.domains {
		if d.proc != nil && d.proc.in != nil {
			d.proc.in.failLocked(cloud.Errorf(cloud.KindInternal, "fake: target's libvirtd restarted"))
			if d.proc != nil {
				h.endLocked(id, d, "failed")
			}
		}
		if d.proc != nil && d.proc.lost {
			h.endLocked(id, d, "crashed")
		}
		if d.proc == nil {
			d.reason = "unknown" // a new libvirtd does not remember why
		}
	}
	h.mail.Resync = true
	h.fleet.touchLocked()
}
