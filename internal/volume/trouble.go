package volume

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Trouble is why the users of a volume stand still, or will.
type Trouble struct {
	Volume cloud.VolumeID
	What   cloud.VolumeTroubleKind
	Since  time.Time
	Detail string // for people; may be empty
}

// stall is the last request of a volume that its back end refused. The guest's hypervisor asks for it again and again, so that a success where it was is the
// end of the trouble.
type stall struct {
	what     cloud.VolumeTroubleKind
	since    time.Time
	off, end int64
	detail   string
}

// Watch has f called when the trouble of a volume begins or ends. It may be called from any goroutine, with locks held: it must not block nor call the
// package. Call Watch before the first lease.
func (s *Store) Watch(f func()) { s.watch = f }

// Ended says what became of a request on a range of the volume: nil, or the file's error. A request that is refused for want of room, or that the disk
// fails, is the volume's trouble from then on, which is logged, told to Watch and in Facts, until a request on its range succeeds: for want of room one that
// fills, that is a write. It costs one atomic load when all is well.
func (l *Lease) Ended(off, length int64, fills bool, err error) {
	v := l.volume
	now := v.stall.Load()
	if err == nil {
		if now != nil && off < now.end && off+length > now.off && (fills || now.what != cloud.TroubleFull) {
			v.recovered(now)
		}
		return
	}
	what := troubleOf(err)
	if what == "" || l.data.lost.Load() != nil { // after a failed sync everything fails, and that has been said
		return
	}
	if what == cloud.TroubleFull {
		v.store.refusals.Add(1)
	}
	next := &stall{what: what, since: time.Now(), off: off, end: off + length, detail: err.Error()}
	if now != nil && now.what == what {
		next.since = now.since
	}
	if !v.stall.CompareAndSwap(now, next) {
		return // another request has said the same
	}
	if now != nil && now.what == what {
		return
	}
	switch what {
	case cloud.TroubleFull:
		v.store.log.Warn("a volume found no room: its users stand still until there is some", "volume", v.id, "backend", v.store.o.Name, "at", off, "bytes", length)
	default:
		v.store.log.Error("the disk failed a volume's request: its users stand still until it succeeds", "volume", v.id, "backend", v.store.o.Name, "at", off,
			"bytes", length, "error", err)
	}
	v.store.told()
}

// recovered ends a trouble.
func (v *volume) recovered(was *stall) {
	if !v.stall.CompareAndSwap(was, nil) {
		return
	}
	v.store.log.Info("a volume's users go on", "volume", v.id, "backend", v.store.o.Name, "trouble", was.what, "lasted", time.Since(was.since).Round(time.Millisecond))
	v.store.told()
}

func (s *Store) told() {
	if s.watch != nil {
		s.watch()
	}
}

// troubleOf classes the error of a request; "": it says nothing of the volume or its disk.
func troubleOf(err error) cloud.VolumeTroubleKind {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	switch errno {
	case unix.ENOSPC, unix.EDQUOT:
		return cloud.TroubleFull
	case unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS, unix.EFBIG, unix.EINTR, unix.EAGAIN, unix.ECANCELED:
		return ""
	default:
		return cloud.TroubleIO
	}
}

// RoomRefusals is how many requests of the data path found no room since the store was opened.
func (s *Store) RoomRefusals() uint64 { return s.refusals.Load() }

// troubles are those of one volume.
func (v *volume) troubles() (out []Trouble) {
	v.mu.Lock()
	damage, data := v.damage, v.data
	v.mu.Unlock()
	if damage != nil {
		out = append(out, Trouble{Volume: v.id, What: cloud.TroubleDamaged, Detail: damage.Error()})
	}
	if data != nil {
		if err := data.lost.Load(); err != nil {
			out = append(out, Trouble{Volume: v.id, What: cloud.TroubleSync, Detail: (*err).Error()})
		}
	}
	if at := v.stall.Load(); at != nil {
		out = append(out, Trouble{Volume: v.id, What: at.what, Since: at.since, Detail: at.detail})
	}
	return out
}

// orderTroubles puts the oldest first; those whose beginning is not known, which were there when the store was opened, before them.
func orderTroubles(all []Trouble) {
	slices.SortFunc(all, func(a, b Trouble) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.What, b.What))
	})
}
