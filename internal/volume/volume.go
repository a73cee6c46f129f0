package volume

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// volume is one volume in memory, also one that is gone and whose generation is remembered.
type volume struct {
	id    cloud.VolumeID
	store *Store
	turn  chan struct{} // holds a token while an operation has its turn
	idle  chan struct{} // capacity 1: a gate that is shut has become empty

	size    atomic.Int64
	limiter Limiter
	stall   atomic.Pointer[stall]   // nil unless its users stand still; trouble.go
	tracker atomic.Pointer[tracker] // nil unless the data is being copied while it may be written

	mu        sync.Mutex
	meta      meta  // written with the turn and mu, read with either. Its slices are never changed, only replaced
	damage    error // why nothing can be done with the volume; nil: nothing is wrong
	data      *dataFile
	leases    map[*Lease]struct{}
	held      []waiter // each lease has at most as many as its connection has requests
	paused    map[cloud.AttachmentID]bool
	promoting map[cloud.AttachmentID]bool
	ended     bool                    // the store is closed
	stopMake  context.CancelCauseFunc // ends the creation under way; nil if there is none
	making    int64                   // generation that stopMake's creation was decided on
}

// dataFile is a volume's open data. It is used by the open attachments (one reference for them all) and by each lease.
type dataFile struct {
	file  file
	align int
	refs  int // guarded by volume.mu

	// lost is the first failure of a sync. The kernel tells it once and calls the pages clean, so a later sync would succeed over lost data: it
	// stays until the file is opened anew.
	lost atomic.Pointer[error]
}

func newVolume(s *Store, id cloud.VolumeID) *volume {
	return &volume{
		id: id, store: s, turn: make(chan struct{}, 1), idle: make(chan struct{}, 1), meta: meta{ID: id, Phase: phaseGone},
		leases: map[*Lease]struct{}{}, paused: map[cloud.AttachmentID]bool{}, promoting: map[cloud.AttachmentID]bool{},
	}
}

// take waits for the volume's turn.
func (v *volume) take(ctx context.Context) error {
	select {
	case v.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return cloud.E(cloud.KindCancelled, "wait for the turn", "volume "+string(v.id), context.Cause(ctx))
	}
}

func (v *volume) give() { <-v.turn }

// commit makes next the truth: durably first, then in memory. With the turn. It does not turn gates; see settle.
func (v *volume) commit(next meta) error {
	if err := v.store.writeMeta(next); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.meta = next
	v.size.Store(next.Bytes)
	return nil
}

// settle brings gates, waiters and connections in line with the truth after a commit, or after one that failed. With the turn.
func (v *volume) settle() {
	v.mu.Lock()
	clear(v.paused)
	var told []func()
	for l := range v.leases {
		v.turnGateLocked(l)
		if v.deadLocked(l) && !l.dead.Swap(true) && l.cutOff != nil {
			told = append(told, l.cutOff)
		}
	}
	wake := v.wakeLocked()
	closeData := func() {}
	if v.data != nil && (v.ended || len(v.meta.Ledger.Open) == 0) {
		closeData = v.releaseLocked(v.data)
		v.data = nil
	}
	v.mu.Unlock()
	wake()
	for _, tell := range told {
		tell()
	}
	closeData()
}

// hold shuts the gates of the attachments and waits for their mutations under way. With the turn. settle opens the gates again.
func (v *volume) hold(ctx context.Context, which func(record) bool) error {
	v.mu.Lock()
	for _, r := range v.meta.Ledger.Open {
		if which(r) {
			v.paused[r.ID] = true
		}
	}
	for l := range v.leases {
		v.turnGateLocked(l)
	}
	v.mu.Unlock()
	for v.busy() {
		select {
		case <-v.idle:
		case <-ctx.Done():
			return cloud.E(cloud.KindCancelled, "wait for writes under way", "volume "+string(v.id), context.Cause(ctx))
		}
	}
	return nil
}

// busy reports whether a gate that is shut has mutations under way.
func (v *volume) busy() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for l := range v.leases {
		if l.gate.Load() > gateShut {
			return true
		}
	}
	return false
}

// drained says that a gate that is shut has become empty.
func (v *volume) drained() {
	select {
	case v.idle <- struct{}{}:
	default:
	}
}

// turnGateLocked opens or shuts the lease's gate.
func (v *volume) turnGateLocked(l *Lease) {
	open := !l.closed && !v.ended && !v.paused[l.attachment] && v.meta.Ledger.roleOf(l.attachment, l.epoch) == RoleWriter
	if open {
		l.gate.And(^int64(gateShut))
	} else {
		l.gate.Or(gateShut)
	}
}

// deadLocked reports whether the lease may not be used at all any more.
func (v *volume) deadLocked(l *Lease) bool {
	role := v.meta.Ledger.roleOf(l.attachment, l.epoch)
	return l.closed || v.ended || role == RoleAbsent || role == RoleCutOff
}

// refusalLocked says why the lease may never mutate; nil if it may, now or later.
func (v *volume) refusalLocked(l *Lease) error {
	if l.closed || v.ended {
		return ErrClosed
	}
	switch v.meta.Ledger.roleOf(l.attachment, l.epoch) {
	case RoleCutOff:
		return ErrCutOff
	case RoleReader:
		return ErrReadOnly
	case RoleAbsent:
		return ErrClosed
	case RoleWriter, RoleStandby:
		return nil
	default:
		panic("volume: unknown role")
	}
}

// wakeLocked takes the waiters that have an answer off the list and returns a function that gives it, to be called without the lock.
func (v *volume) wakeLocked() func() {
	var ready []func()
	kept := v.held[:0]
	for _, w := range v.held {
		err := v.refusalLocked(w.lease)
		if err != nil || w.lease.gate.Load() < gateShut {
			ready = append(ready, func() { w.done(err) })
		} else {
			kept = append(kept, w)
		}
	}
	clear(v.held[len(kept):])
	v.held = kept
	return func() {
		for _, f := range ready {
			f()
		}
	}
}

// releaseLocked gives up a reference of the data file. It returns what closes the file if that was the last, to be called without the lock and
// where it may block: a network file system flushes.
func (v *volume) releaseLocked(d *dataFile) (closeLast func()) {
	if d.refs--; d.refs > 0 {
		return func() {}
	}
	return func() {
		if err := d.file.Close(); err != nil {
			v.store.log.Error("closing a volume's data", "volume", v.id, "error", err)
		}
	}
}

func (v *volume) attachmentLocked(r record) Attachment {
	a := Attachment{ID: r.ID, Host: r.Host, Epoch: r.Epoch, Role: v.meta.Ledger.role(r)}
	for l := range v.leases {
		if l.attachment == r.ID && l.epoch == r.Epoch {
			a.Connections++
		}
	}
	return a
}

// truth returns the meta data and whether it can be relied on.
func (v *volume) truth() (meta, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.meta, v.damage
}
