package blockserve

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// disk is a volume with attachments "a", "b", "c", all on one file: the rules of epochs, without anything that survives. Exports that are not
// named in roles are writers.
type disk struct {
	file      *plainFile
	size      atomic.Int64
	limiter   volume.Limiter
	leases    atomic.Int64
	mutations atomic.Int64

	mu      sync.Mutex
	roles   map[string]volume.Role
	hosts   map[string]cloud.HostName
	open    map[*ticket]struct{}
	held    []func(error)
	promote func() error // asked before a standby becomes the writer; blocks as it likes
}

// Admit implements Volumes.
func (d *disk) Admit(export string, visit volume.Visit) (Lease, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if export == "none" {
		return nil, cloud.Errorf(cloud.KindNotFound, "volume none: no such volume")
	}
	if host := d.hosts[export]; visit.Host != "" && host != "" && host != visit.Host {
		return nil, cloud.Errorf(cloud.KindForbidden, "attachment %s is not for host %s", export, visit.Host)
	}
	if d.roles[export] == volume.RoleCutOff {
		return nil, fmt.Errorf("attachment %s: %w", export, volume.ErrCutOff)
	}
	t := &ticket{disk: d, export: export, visit: visit}
	if d.open == nil {
		d.open = map[*ticket]struct{}{}
	}
	d.open[t] = struct{}{}
	d.leases.Add(1)
	return t, nil
}

// List implements Volumes.
func (d *disk) List(cloud.HostName) []nbd.Listing { return []nbd.Listing{{Name: "a"}} }

// set gives an attachment a role.
func (d *disk) set(export string, role volume.Role) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.roles == nil {
		d.roles = map[string]volume.Role{}
	}
	d.roles[export] = role
}

// cutOff takes an attachment's right away.
func (d *disk) cutOff(export string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutOffLocked(export)
}

func (d *disk) cutOffLocked(export string) {
	if d.roles == nil {
		d.roles = map[string]volume.Role{}
	}
	d.roles[export] = volume.RoleCutOff
	for t := range d.open {
		if t.export == export && t.visit.CutOff != nil {
			t.visit.CutOff()
		}
	}
}

// ticket is a Lease of a disk.
type ticket struct {
	disk   *disk
	export string
	visit  volume.Visit
}

func (t *ticket) role() volume.Role {
	if r, ok := t.disk.roles[t.export]; ok {
		return r
	}
	return volume.RoleWriter
}

// Begin implements Lease.
func (t *ticket) Begin() volume.Verdict {
	t.disk.mu.Lock()
	defer t.disk.mu.Unlock()
	switch t.role() {
	case volume.RoleWriter:
		t.disk.mutations.Add(1)
		return volume.Go
	case volume.RoleStandby:
		return volume.Held
	default:
		return volume.Refused
	}
}

// Ended implements Lease.
func (t *ticket) Ended(_, _ int64, _ bool, _ error) {}

// EndAt implements Lease.
func (t *ticket) EndAt(_, _ int64) { t.disk.mutations.Add(-1) }

// Await implements Lease: the first who waits has the standby promoted, which cuts everybody else off.
func (t *ticket) Await(done func(error)) {
	d := t.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = append(d.held, done)
	if len(d.held) > 1 {
		return
	}
	go func() {
		var err error
		if d.promote != nil {
			err = d.promote()
		}
		d.mu.Lock()
		held := d.held
		d.held = nil
		if err == nil {
			for other := range d.open {
				if other.export != t.export {
					d.cutOffLocked(other.export)
				}
			}
			d.roles[t.export] = volume.RoleWriter
		}
		d.mu.Unlock()
		for _, done := range held {
			done(err)
		}
	}()
}

// Err implements Lease.
func (t *ticket) Err() error {
	t.disk.mu.Lock()
	defer t.disk.mu.Unlock()
	if t.role() == volume.RoleCutOff {
		return volume.ErrCutOff
	}
	return nil
}

// Refusal implements Lease.
func (t *ticket) Refusal() error {
	if err := t.Err(); err != nil {
		return err
	}
	return volume.ErrReadOnly
}

// SyncFailed implements Lease.
func (t *ticket) SyncFailed(err error) { plainLease{t.disk.file}.SyncFailed(err) }

// SyncErr implements Lease.
func (t *ticket) SyncErr() error { return plainLease{t.disk.file}.SyncErr() }

// Attachment implements Lease.
func (t *ticket) Attachment() volume.Attachment {
	t.disk.mu.Lock()
	defer t.disk.mu.Unlock()
	return volume.Attachment{Role: t.role()}
}

// File implements Lease.
func (t *ticket) File() volume.File { return t.disk.file }

// Align implements Lease.
func (t *ticket) Align() int { return t.disk.file.align }

// Size implements Lease.
func (t *ticket) Size() int64 { return t.disk.size.Load() }

// Limiter implements Lease.
func (t *ticket) Limiter() *volume.Limiter { return &t.disk.limiter }

// Close implements Lease.
func (t *ticket) Close() {
	t.disk.mu.Lock()
	defer t.disk.mu.Unlock()
	delete(t.disk.open, t)
	t.disk.leases.Add(-1)
}
