package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// intentsPeriod is how often intents are looked at without a change, in case something outside the store kept one from starting.
const intentsPeriod = 5 * time.Second

// intents starts a run for each intent. The run has the intent's id, so starting twice is starting once, whichever leader does it.
func (l *leader) intents(ctx context.Context) error {
	started := map[cloud.IntentID]bool{}
	// Migrations too: one that ends makes room for one that waits. And hosts that wake.
	watch := l.Store.Watch(ctx, tables.Intents, tables.Migrations, tables.HostPowers)
	return l.loop(ctx, "starting runs", intentsPeriod, watch, func(ctx context.Context) error { return l.startRuns(ctx, started) })
}

// startRuns starts what may start now and cancels what a delete ends. started remembers what this leader has started, so that a watch on a busy
// cloud does not read the journal for each intent each time.
func (l *leader) startRuns(ctx context.Context, started map[cloud.IntentID]bool) error {
	v := l.Store.View()
	q := queue{intents: store.All(v, tables.Intents), started: started, migrations: map[cloud.MigrationID]*cloud.Migration{}, budget: l.Budget}
	slices.SortStableFunc(q.intents, func(a, b *cloud.Intent) int { return a.Created.Compare(b.Created) })
	present := map[cloud.IntentID]bool{}
	for _, i := range q.intents {
		present[i.ID] = true
		if m, ok := store.Lookup(v, tables.Migrations, i.Migration); ok {
			q.migrations[m.ID] = m
		}
	}
	for id := range started {
		if !present[id] {
			delete(started, id)
		}
	}
	for _, r := range l.engine.Active() { // those resumed from a predecessor
		started[cloud.IntentID(r.ID)] = true
	}
	var errs []error
	var err error
	q.held, err = l.awaken(ctx, v, q.intents, started)
	errs = append(errs, err)
	for _, i := range q.admit() {
		if err := l.engine.Start(ctx, string(i.Kind), workflow.RunID(i.ID), *i); err != nil {
			errs = append(errs, fmt.Errorf("intent %s: %w", i.ID, err))
			continue
		}
		started[i.ID] = true
	}
	for _, i := range q.intents {
		switch {
		case i.Kind == cloud.IntentDelete:
			errs = append(errs, l.clearTheWay(ctx, i, q.intents))
		case i.Kind == cloud.IntentReboot && i.Hard:
			l.interruptSoft(i, q.intents)
		}
	}
	return errors.Join(errs...)
}

// interruptSoft ends soft reboots that a hard one would otherwise wait for: who asks for a reset does not want to wait for the guest's good will.
func (l *leader) interruptSoft(hard *cloud.Intent, all []*cloud.Intent) {
	for _, i := range all {
		if i.Server == hard.Server && i.Kind == cloud.IntentReboot && !i.Hard {
			_ = l.engine.Cancel(workflow.RunID(i.ID), "a hard reboot was asked for") // one that cannot be cancelled is about to end
		}
	}
}

// clearTheWay ends the runs that a delete would otherwise wait for. A migration that copies is asked to abort; a run past its point of no return is
// about to end anyhow.
func (l *leader) clearTheWay(ctx context.Context, del *cloud.Intent, all []*cloud.Intent) error {
	var errs []error
	for _, i := range all {
		if i.Server != del.Server || i.ID == del.ID || i.Kind == cloud.IntentDelete {
			continue
		}
		err := l.engine.Cancel(workflow.RunID(i.ID), "the server is being deleted")
		if cloud.Is(err, cloud.KindConflict) && i.Kind == cloud.IntentMigrate {
			err = l.askAbort(ctx, i.Migration)
		}
		if err != nil && !cloud.Is(err, cloud.KindConflict) && !cloud.Is(err, cloud.KindNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// askAbort sets the flag that steering acts on.
func (l *leader) askAbort(ctx context.Context, id cloud.MigrationID) error {
	return l.flag(ctx, id, func(m *cloud.Migration) *bool { return &m.AbortAsked })
}

func (l *leader) flag(ctx context.Context, id cloud.MigrationID, which func(*cloud.Migration) *bool) error {
	_, err := l.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, id)
		if err != nil || m.Status.Final() || *which(&m) {
			return err
		}
		*which(&m) = true
		m.Updated = time.Now().UTC()
		return store.Put(tx, tables.Migrations, id, m)
	})
	return err
}
