package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// txnAttemptsMax bounds how often a transaction runs. With back-off, losing 24 times means a key that very many want to write at once, or a machine that can
	// hardly go on, and the caller should hear of it.
	txnAttemptsMax = 24
	// txnBackoffMin and txnBackoffMax bound the random pause after a lost race: about one commit, and about what a person notices.
	txnBackoffMin = time.Millisecond
	txnBackoffMax = 100 * time.Millisecond
)

// Update runs fn in a transaction and commits what it wrote, all or nothing, and only if nothing fn read has changed meanwhile; else it runs
// fn again, on newer data. fn may therefore run several times and must have no effect but through tx. It returns the revision of the commit,
// or, when fn wrote nothing, the revision that fn read.
//
// An error from fn ends the transaction without writing, once the reads it is based on are confirmed as current. Errors: fn's own;
// cloud.KindStale when a required leadership is lost; cloud.KindUnavailable after txnAttemptsMax lost races, since another try may win, and when etcd does
// not answer, in which case the writes may or may not have happened.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) (rev int64, err error) {
	for attempt := range txnAttemptsMax {
		// The first attempt reads the replica: free, and right unless somebody wrote the same keys just now. Later ones read etcd.
		var base *snapshot
		if attempt == 0 {
			base = s.current()
		}
		tx := newTx(ctx, s, base)
		fnErr := fn(tx)
		tx.ended = true
		if errors.Is(fnErr, rpctypes.ErrCompacted) {
			continue // the revision read was compacted away under the reader; a new attempt reads a new one
		}
		if fnErr != nil && !tx.worthConfirming() {
			return 0, fnErr
		}
		rev, ok, err := tx.commit(ctx, fnErr == nil)
		switch {
		case err != nil && fnErr != nil:
			return 0, fnErr // etcd cannot be asked; fn's error is the better answer
		case err != nil:
			return 0, err
		case ok:
			return rev, fnErr
		}
		if err := pauseAfter(ctx, attempt); err != nil {
			return 0, classify("update", err)
		}
	}
	return 0, cloud.E(cloud.KindUnavailable, "update", "", fmt.Errorf("lost %d races against other writers", txnAttemptsMax))
}

// UpdateVisible is Update that returns only when this store's own reads show the result.
func (s *Store) UpdateVisible(ctx context.Context, fn func(tx *Tx) error) (rev int64, err error) {
	rev, err = s.Update(ctx, fn)
	if err != nil {
		return 0, err
	}
	if err := s.WaitRevision(ctx, rev); err != nil {
		return rev, classify("wait for own write", err)
	}
	return rev, nil
}

// pauseAfter sleeps a random time after a lost race, longer after each. The first loss costs no pause: the replica was merely behind.
func pauseAfter(ctx context.Context, attempt int) error {
	if attempt == 0 {
		return ctx.Err()
	}
	longest := min(txnBackoffMin<<attempt, txnBackoffMax)
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// worthConfirming reports whether an error of fn may come from stale data: it read the replica. Reads of etcd need no confirmation.
func (tx *Tx) worthConfirming() bool {
	return tx.base != nil && (len(tx.reads) > 0 || len(tx.guarded) > 0 || len(tx.ranges) > 0)
}

// commit asks etcd to compare everything read and, with write set, to apply everything written, in one step. ok is false when something read
// has changed.
func (tx *Tx) commit(ctx context.Context, write bool) (rev int64, ok bool, err error) {
	compares := tx.compares()
	var ops []clientv3.Op
	if write {
		ops = tx.operations()
	}
	if len(compares) == 0 && len(ops) == 0 {
		return tx.rev, true, nil
	}
	if n := max(len(compares), len(ops)); n > operationsMax {
		return 0, false, cloud.E(cloud.KindInvalid, "update", "", fmt.Errorf("transaction of %d operations, at most %d", n, operationsMax))
	}
	resp, err := tx.store.client.Txn(ctx).If(compares...).Then(ops...).Else(tx.leaderReads()...).Commit()
	if err != nil {
		return 0, false, classify("commit", err)
	}
	if !resp.Succeeded {
		return 0, false, tx.deposed(resp)
	}
	if len(ops) == 0 {
		return tx.rev, true, nil
	}
	return resp.Header.Revision, true, nil
}

// compares states everything the transaction has read as conditions on the present.
//
// A point read: the key's modification revision is what it was, zero for absent. A range read: no key of the range was modified after the
// revision read, which covers inserts and updates, and no tombstone of it was, which covers deletes; leased records, which end without a
// tombstone, are among the point reads. A guard read: its value is the same owner, or it is still absent.
func (tx *Tx) compares() []clientv3.Cmp {
	var out []clientv3.Cmp
	for _, key := range slices.Sorted(maps.Keys(tx.reads)) {
		out = append(out, clientv3.Compare(clientv3.ModRevision(key), "=", tx.reads[key]))
	}
	for _, key := range slices.Sorted(maps.Keys(tx.guarded)) {
		if owner := tx.guarded[key]; owner != "" {
			out = append(out, clientv3.Compare(clientv3.Value(key), "=", owner))
		} else {
			out = append(out, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		}
	}
	seen := map[rangeRead]bool{}
	for _, r := range tx.ranges {
		if seen[r] {
			continue
		}
		seen[r] = true
		out = append(out, tx.unchangedBelow(tx.store.layout.record(r.def, r.prefix)))
		tombstone, whole := tx.store.layout.tombstonesOf(r.def, r.prefix)
		if whole {
			out = append(out, tx.unchangedBelow(tombstone))
		} else {
			out = append(out, clientv3.Compare(clientv3.ModRevision(tombstone), "<", tx.rev+1))
		}
	}
	for _, l := range tx.leaders {
		out = append(out, clientv3.Compare(clientv3.CreateRevision(l.key), "=", l.revision))
	}
	return out
}

func (tx *Tx) unchangedBelow(prefix string) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(prefix), "<", tx.rev+1).WithPrefix()
}

// operations returns the buffered writes, with the tombstones and guards that go with them, in a fixed order.
func (tx *Tx) operations() []clientv3.Op {
	var out []clientv3.Op
	tombstones := map[string]bool{}
	for _, full := range slices.Sorted(maps.Keys(tx.writes)) {
		w := tx.writes[full]
		switch {
		case !w.gone:
			out = append(out, clientv3.OpPut(full, string(w.data), clientv3.WithLease(clientv3.LeaseID(w.lease))))
		case !w.absent:
			out = append(out, clientv3.OpDelete(full))
			tombstones[tx.store.layout.tombstone(w.def, w.key)] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(tombstones)) {
		out = append(out, clientv3.OpPut(key, ""))
	}
	for _, guard := range slices.Sorted(maps.Keys(tx.claims)) {
		if owner := tx.claims[guard]; owner != "" {
			out = append(out, clientv3.OpPut(guard, owner))
		} else {
			out = append(out, clientv3.OpDelete(guard))
		}
	}
	return out
}

func (tx *Tx) leaderReads() []clientv3.Op {
	var out []clientv3.Op
	for _, l := range tx.leaders {
		out = append(out, clientv3.OpGet(l.key, clientv3.WithKeysOnly()))
	}
	return out
}

// deposed returns an error when a failed commit failed (also) because a required leadership is gone.
func (tx *Tx) deposed(resp *clientv3.TxnResponse) error {
	for i, l := range tx.leaders {
		kvs := resp.Responses[i].GetResponseRange().Kvs
		if len(kvs) == 0 || kvs[0].CreateRevision != l.revision {
			return cloud.E(cloud.KindStale, "commit", "leadership "+l.name, ErrDeposed)
		}
	}
	return nil
}

// classify gives an error of etcd or of a context its kind.
func classify(op string, err error) error {
	var known *cloud.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return cloud.E(cloud.KindTooLarge, op, "", err)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return cloud.E(cloud.KindStale, op, "", fmt.Errorf("%w: %w", ErrLeaseLost, err))
	}
	return cloud.E(cloud.KindUnavailable, op, "", err)
}
