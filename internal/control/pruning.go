package control

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// pruningPeriod: what is pruned is history, nobody waits for it.
	pruningPeriod = time.Minute
	// runsKept is how long the journal keeps runs that ended well: long enough to look into what happened yesterday.
	runsKept = 24 * time.Hour
)

// pruning keeps what only grows bounded.
func (l *leader) pruning(ctx context.Context) error {
	return l.loop(ctx, "pruning", pruningPeriod, make(chan store.Batch), l.prune)
}

func (l *leader) prune(ctx context.Context) error {
	if _, err := l.journal.Prune(ctx, time.Now().Add(-runsKept)); err != nil {
		return err
	}
	v := l.Store.View()
	excess := store.Count(v, tables.Graves) - l.GravesMax
	for _, s := range store.Ascend(v, tables.Graves, tables.ByUpdated, store.Cursor{}) { // the longest dead first
		if excess <= 0 {
			return nil
		}
		if err := l.forget(ctx, v, s); err != nil {
			return err
		}
		excess--
	}
	return nil
}

// forget removes a grave with the server's actions.
func (l *leader) forget(ctx context.Context, v store.View, s *cloud.Server) error {
	actions := store.Prefixed(v, tables.Actions, tables.ActionKey(s.ID, ""))
	_, err := l.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		for _, a := range actions[:min(len(actions), actionsPerForget)] {
			if err := store.Delete(tx, tables.Actions, tables.ActionKey(a.Server, a.RequestID)); err != nil {
				return err
			}
		}
		if len(actions) > actionsPerForget {
			return nil // the grave stays until the rest is gone too
		}
		return store.Delete(tx, tables.Graves, s.ID)
	})
	return err
}

// actionsPerForget bounds one transaction: each action is a compare and a delete, of at most 128 together.
const actionsPerForget = 50
