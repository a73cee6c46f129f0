package volume

import (
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// attachmentsMax bounds what a volume's metadata can grow to; multiattach to more servers than this is not a use anybody has named.
const attachmentsMax = 512

// record is an open attachment as it is remembered.
type record struct {
	ID       cloud.AttachmentID `json:"id"`
	Host     cloud.HostName     `json:"host"`
	Epoch    int64              `json:"epoch"`
	ReadOnly bool               `json:"read_only,omitempty"`
	Shared   bool               `json:"shared,omitempty"`
}

// ledger decides who may write. It is a value: its methods return the ledger that comes next and leave the old one as it was. Writer and
// Epoch never fall.
type ledger struct {
	Epoch  int64    `json:"epoch"`  // greatest given out
	Writer int64    `json:"writer"` // greatest epoch that became the exclusive writer, open or not. Writer <= Epoch
	Open   []record `json:"open,omitempty"`
}

func (l ledger) find(id cloud.AttachmentID) (record, bool) {
	i := slices.IndexFunc(l.Open, func(r record) bool { return r.ID == id })
	if i < 0 {
		return record{}, false
	}
	return l.Open[i], true
}

// role is what the attachment may do under this ledger.
func (l ledger) role(r record) Role {
	switch {
	case r.ReadOnly:
		return RoleReader
	case r.Epoch < l.Writer:
		return RoleCutOff
	case r.Shared || r.Epoch == l.Writer:
		return RoleWriter
	default:
		return RoleStandby
	}
}

// roleOf is the role of the attachment of that epoch; absent if it is not open, or open again with another epoch.
func (l ledger) roleOf(id cloud.AttachmentID, epoch int64) Role {
	r, ok := l.find(id)
	if !ok || r.Epoch != epoch {
		return RoleAbsent
	}
	return l.role(r)
}

// open returns the ledger in which req is open. An attachment that is open in the same way keeps its epoch; one that was cut off, or is asked for
// by another host or for another use, gets a new one, and what it was before is closed.
func (l ledger) open(req Request) (ledger, record, error) {
	r, found := l.find(req.Attachment)
	same := found && r.Host == req.Host && r.ReadOnly == req.ReadOnly && r.Shared == req.Shared
	if same && l.role(r) != RoleCutOff {
		if l.role(r) == RoleStandby && !req.Handover {
			l.Writer = r.Epoch
		}
		return l, r, nil
	}
	l = l.closed(req.Attachment)
	if len(l.Open) >= attachmentsMax {
		return l, record{}, cloud.Errorf(cloud.KindExhausted, "%d attachments are open: close some first", len(l.Open))
	}
	l.Epoch++
	r = record{ID: req.Attachment, Host: req.Host, Epoch: l.Epoch, ReadOnly: req.ReadOnly, Shared: req.Shared}
	l.Open = append(slices.Clip(l.Open), r)
	if !req.ReadOnly && !req.Shared && !req.Handover {
		l.Writer = r.Epoch
	}
	return l, r, nil
}

// promote returns the ledger in which the attachment writes.
func (l ledger) promote(id cloud.AttachmentID) (ledger, error) {
	r, ok := l.find(id)
	if !ok {
		return l, cloud.Errorf(cloud.KindNotFound, "attachment %s is not open", id)
	}
	switch l.role(r) {
	case RoleStandby:
		l.Writer = r.Epoch
		return l, nil
	case RoleWriter:
		return l, nil
	case RoleReader:
		return l, cloud.Errorf(cloud.KindConflict, "attachment %s: %w", id, ErrReadOnly)
	case RoleCutOff, RoleAbsent:
		return l, cloud.Errorf(cloud.KindConflict, "attachment %s: %w", id, ErrCutOff)
	default:
		panic("volume: unknown role")
	}
}

// closed returns the ledger without the attachment. The writer's epoch stays: what is older remains cut off.
func (l ledger) closed(id cloud.AttachmentID) ledger {
	l.Open = slices.DeleteFunc(slices.Clone(l.Open), func(r record) bool { return r.ID == id })
	return l
}

// equal reports whether nothing differs.
func (l ledger) equal(o ledger) bool {
	return l.Epoch == o.Epoch && l.Writer == o.Writer && slices.Equal(l.Open, o.Open)
}
