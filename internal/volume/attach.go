package volume

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// OpenAttachment gives an attachment the volume's next epoch. Without Handover, Shared or ReadOnly it is the only writer when the call returns. An
// attachment that is open as asked stays as it is. When the call fails, nobody's role has changed.
func (s *Store) OpenAttachment(ctx context.Context, call Call, req Request) (Attachment, error) {
	if err := checkID("attachment", string(req.Attachment)); err != nil {
		return Attachment{}, err
	}
	return s.changeLedger(ctx, call, "open attachment", req.Attachment, func(l ledger) (ledger, error) {
		next, _, err := l.open(req)
		return next, err
	})
}

// Promote makes a standby the writer; a writer stays what it is. cloud.KindNotFound: the attachment is not open; cloud.KindConflict: it is
// cut off or read-only.
func (s *Store) Promote(ctx context.Context, call Call, id cloud.AttachmentID) (Attachment, error) {
	return s.changeLedger(ctx, call, "promote attachment", id, func(l ledger) (ledger, error) { return l.promote(id) })
}

// CloseAttachment waits for the attachment's mutations under way, ends its connections and forgets it. Nobody else's role changes. An absent
// attachment, or volume, is success.
func (s *Store) CloseAttachment(ctx context.Context, call Call, id cloud.AttachmentID) (Attachment, error) {
	a, err := s.changeLedger(ctx, call, "close attachment", id, func(l ledger) (ledger, error) { return l.closed(id), nil })
	if cloud.Is(err, cloud.KindNotFound) {
		return Attachment{ID: id}, nil
	}
	return a, err
}

// changeLedger carries out a change of the ledger and returns what became of the attachment.
func (s *Store) changeLedger(ctx context.Context, call Call, op string, id cloud.AttachmentID, change func(ledger) (ledger, error)) (Attachment, error) {
	v, m, end, err := s.beginReady(ctx, call)
	if err != nil {
		return Attachment{}, err
	}
	defer end()
	if err := v.moveLedger(ctx, m, change); err != nil {
		return Attachment{}, v.fail(op, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.meta.Ledger.find(id)
	if !ok {
		return Attachment{ID: id}, nil
	}
	return v.attachmentLocked(r), nil
}

// moveLedger changes the ledger in the four steps of doc.go; the last, settle, is the caller's. m is the metadata to go on from, with the
// generation of the decision. With the turn.
func (v *volume) moveLedger(ctx context.Context, m meta, change func(ledger) (ledger, error)) error {
	now, _ := v.truth()
	next, err := change(now.Ledger)
	if err != nil {
		return err
	}
	if next.equal(now.Ledger) && m.Generation == now.Generation {
		return nil
	}
	if err := v.openData(len(next.Open) > 0); err != nil {
		return err
	}
	loses := func(r record) bool {
		return now.Ledger.role(r) == RoleWriter && next.roleOf(r.ID, r.Epoch) != RoleWriter
	}
	if err := v.hold(ctx, loses); err != nil {
		return err
	}
	m.Ledger = next
	return v.commit(m)
}

// openData opens the volume's data for the data path, if it is wanted and not open. With the turn.
func (v *volume) openData(wanted bool) error {
	v.mu.Lock()
	have := v.data != nil
	v.mu.Unlock()
	if have || !wanted {
		return nil
	}
	flags := os.O_RDWR
	if v.store.noDio == "" {
		flags |= unix.O_DIRECT
	}
	f, err := v.store.files.Open(v.store.dataPath(v.id), flags)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.data = &dataFile{file: f, align: f.Align(), refs: 1}
	return nil
}

// promoteHeld makes a standby the writer because a mutation of it waits. The decision was taken when it was opened for handover, so it passes the
// gate of generations with whatever the volume has accepted.
func (v *volume) promoteHeld(id cloud.AttachmentID) {
	err := v.promoteNow(v.store.life, id)
	v.mu.Lock()
	delete(v.promoting, id)
	var failed []waiter
	if err != nil {
		v.held, failed = split(v.held, func(w waiter) bool { return w.lease.attachment != id })
	}
	v.mu.Unlock()
	if err != nil {
		v.store.log.Error("a standby attachment could not become the writer", "volume", v.id, "attachment", id, "error", err)
	}
	for _, w := range failed {
		w.done(err)
	}
}

func (v *volume) promoteNow(ctx context.Context, id cloud.AttachmentID) error {
	if err := v.take(ctx); err != nil {
		return err
	}
	defer v.give()
	defer v.settle()
	m, err := v.truth()
	if err == nil {
		err = ctx.Err() // the turn may have come together with the end
	}
	if err != nil {
		return err
	}
	return v.fail("promote attachment", v.moveLedger(ctx, m, func(l ledger) (ledger, error) { return l.promote(id) }))
}

// split divides a list, in order, by what the predicate says.
func split[T any](list []T, keep func(T) bool) (kept, rest []T) {
	for _, x := range list {
		if keep(x) {
			kept = append(kept, x)
		} else {
			rest = append(rest, x)
		}
	}
	return kept, rest
}
