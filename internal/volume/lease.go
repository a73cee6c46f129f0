package volume

import (
	"fmt"
	"sync/atomic"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Verdict is the answer to Lease.Begin.
type Verdict uint8

// The verdicts.
const (
	Go      Verdict = iota // make the mutation, then call EndAt
	Held                   // not now: keep it, and call Await
	Refused                // never: Err says why
)

// Visit is a connection that asks to use an attachment.
type Visit struct {
	Volume     cloud.VolumeID
	Attachment cloud.AttachmentID
	Host       cloud.HostName // whom the connection's certificate names; empty: nobody was asked for one
	// CutOff, if not nil, is called at most once, from any goroutine: nothing more is allowed (Err says why), the connection should end
	// when the requests under way are answered. It must not block, nor call the package.
	CutOff func()
	// Resized, if not nil, is called from any goroutine with each new size. It must not block, nor call the package.
	Resized func(bytes int64)
}

// gateShut is the bit of Lease.gate that sends Begin the long way. Below it is the number of mutations under way.
const gateShut = 1 << 62

// Lease is a connection's right to use an attachment, from Admit to Close. Its methods do not block, and any goroutine may call them.
type Lease struct {
	gate atomic.Int64 // see gateShut; the bit is changed with volume.mu
	dead atomic.Bool  // cut off or closed; never false again

	volume     *volume
	attachment cloud.AttachmentID
	epoch      int64
	data       *dataFile
	cutOff     func()
	resized    func(int64)

	closed bool // by Close; guarded by volume.mu
}

// waiter is a call of Await that has not been answered.
type waiter struct {
	lease *Lease
	done  func(error)
}

// Find returns an open attachment as it is now, for those who only ask. It does not block.
func (s *Store) Find(id cloud.VolumeID, attachment cloud.AttachmentID) (Attachment, bool) {
	v := s.lookup(id)
	if v == nil {
		return Attachment{}, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.meta.Ledger.find(attachment)
	if !ok || v.data == nil {
		return Attachment{}, false
	}
	return v.attachmentLocked(r), true
}

// Admit lets a connection use an attachment that is open for its host and not cut off. The caller closes the lease. cloud.KindNotFound:
// there is no such attachment; cloud.KindForbidden: it is another host's; cloud.KindConflict: a newer one writes. It does not block.
func (s *Store) Admit(visit Visit) (*Lease, error) {
	v := s.lookup(visit.Volume)
	if v == nil {
		return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: no such volume", visit.Volume)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.meta.Ledger.find(visit.Attachment)
	switch {
	case !ok || v.data == nil || v.ended:
		return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: attachment %s is not open", visit.Volume, visit.Attachment)
	case visit.Host != "" && visit.Host != r.Host:
		return nil, cloud.Errorf(cloud.KindForbidden, "volume %s: attachment %s is not for host %s", visit.Volume, visit.Attachment, visit.Host)
	case v.meta.Ledger.role(r) == RoleCutOff:
		return nil, cloud.Errorf(cloud.KindConflict, "volume %s: attachment %s: %w", visit.Volume, visit.Attachment, ErrCutOff)
	}
	l := &Lease{volume: v, attachment: r.ID, epoch: r.Epoch, data: v.data, cutOff: visit.CutOff, resized: visit.Resized}
	l.gate.Store(gateShut)
	v.data.refs++
	v.leases[l] = struct{}{}
	v.turnGateLocked(l)
	return l, nil
}

// Begin asks to start a mutation: a write, a trim, a write of zeros. Go must be followed by EndAt or End when the mutation is done, whatever became of it.
// Between the two nothing may wait for the client or for the limits, because a change of the writer waits for EndAt: ask the Limiter and have the
// whole payload first.
func (l *Lease) Begin() Verdict {
	if l.gate.Add(1) < gateShut {
		return Go
	}
	return l.beginShut()
}

// EndAt says that a mutation of a range is done: the kernel will not write any more. A snapshot that is being copied takes note of the range; where FICLONE
// is, it makes no difference.
func (l *Lease) EndAt(off, length int64) {
	if t := l.volume.tracker.Load(); t != nil {
		t.mark(off, length)
	}
	l.leave()
}

// End is EndAt for those who do not say where they wrote: everything then counts as written, and they are held for longer.
func (l *Lease) End() {
	if t := l.volume.tracker.Load(); t != nil {
		t.all.Store(true)
	}
	l.leave()
}

func (l *Lease) leave() {
	if l.gate.Add(-1) == gateShut {
		l.volume.drained()
	}
}

func (l *Lease) beginShut() Verdict {
	l.leave()
	v := l.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refusalLocked(l) != nil {
		return Refused
	}
	return Held
}

// Await does what it takes to let a held mutation go on, such as making a standby the writer, and then calls done: with nil when Begin is worth
// another try, with an error when the mutation must fail. done is called once, at once or later, from any goroutine, and must not block.
func (l *Lease) Await(done func(error)) {
	v := l.volume
	v.mu.Lock()
	err := v.refusalLocked(l)
	if err != nil || l.gate.Load() < gateShut {
		v.mu.Unlock()
		done(err)
		return
	}
	v.held = append(v.held, waiter{l, done})
	promote := v.meta.Ledger.roleOf(l.attachment, l.epoch) == RoleStandby && !v.promoting[l.attachment]
	if promote {
		v.promoting[l.attachment] = true
	}
	v.mu.Unlock()
	if promote {
		v.store.later(func() { v.promoteHeld(l.attachment) })
	}
}

// Err is nil while the attachment may be used at all; it costs one atomic load. Otherwise reads and flushes are to be refused too.
func (l *Lease) Err() error {
	if !l.dead.Load() {
		return nil
	}
	l.volume.mu.Lock()
	defer l.volume.mu.Unlock()
	return l.volume.refusalLocked(l)
}

// Refusal says why Begin returned Refused; nil if a mutation may be tried now or later.
func (l *Lease) Refusal() error {
	l.volume.mu.Lock()
	defer l.volume.mu.Unlock()
	return l.volume.refusalLocked(l)
}

// SyncFailed tells that a sync of File failed, whoever asked for it. From then on SyncErr says so to every lease of the volume.
func (l *Lease) SyncFailed(err error) {
	if l.data.lost.CompareAndSwap(nil, &err) {
		defer l.volume.store.told()
		l.volume.store.log.Error("a sync failed: what was written since the last one may be lost, and nothing more is acknowledged until the volume is opened anew",
			"volume", l.volume.id, "error", err)
	}
}

// SyncErr is nil as long as every sync of File succeeded; one atomic load. Otherwise neither flushes nor mutations may be acknowledged: a second
// sync may succeed although the first one lost data.
func (l *Lease) SyncErr() error {
	err := l.data.lost.Load()
	if err == nil {
		return nil
	}
	return fmt.Errorf("volume %s: an earlier sync failed, what was written before it may be lost: %w", l.volume.id, *err)
}

// Attachment returns the attachment as it is now.
func (l *Lease) Attachment() Attachment {
	v := l.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.meta.Ledger.find(l.attachment)
	if !ok || r.Epoch != l.epoch {
		return Attachment{ID: l.attachment, Epoch: l.epoch, Role: RoleAbsent}
	}
	return v.attachmentLocked(r)
}

// File returns the volume's data, open until the lease is closed. Every lease of a volume gets the same one.
func (l *Lease) File() File { return l.data.file }

// Align is what offsets and lengths of requests to File must be multiples of, and addresses of memory too: 1, or more if I/O is direct.
func (l *Lease) Align() int { return l.data.align }

// Size returns the volume's size in bytes now; one atomic load.
func (l *Lease) Size() int64 { return l.volume.size.Load() }

// Limiter returns the limits that all leases of the volume share.
func (l *Lease) Limiter() *Limiter { return &l.volume.limiter }

// Close gives the lease back. Every Begin must have had its EndAt, and no read of File may be under way.
func (l *Lease) Close() {
	v := l.volume
	v.mu.Lock()
	if l.closed {
		v.mu.Unlock()
		return
	}
	if n := l.gate.Or(gateShut) &^ gateShut; n != 0 {
		v.mu.Unlock()
		panic(fmt.Sprintf("volume: lease of %s closed with %d mutations under way", v.id, n))
	}
	l.closed = true
	l.dead.Store(true)
	delete(v.leases, l)
	relieved := len(v.leases) == 0 && v.stall.Swap(nil) != nil // nobody asks any more, so nobody stands still
	wake := v.wakeLocked()
	closeData := v.releaseLocked(l.data)
	last := l.data.refs == 0
	v.mu.Unlock()
	wake()
	if relieved {
		v.store.told()
	}
	if last {
		v.store.later(closeData)
	}
}
