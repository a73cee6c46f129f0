package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// steeringPeriod is how often time limits are looked at, and how soon an order that a host did not take is repeated.
const steeringPeriod = time.Second

// An order is something to tell the source of a running migration.
type order struct {
	migration cloud.MigrationID
	abort     bool // else: force to completion
}

// steering carries out what was asked of migrations while they run.
func (l *leader) steering(ctx context.Context) error {
	given := map[order]bool{}                    // orders the source has taken
	running := map[cloud.MigrationID]time.Time{} // since when this leader has seen them run
	watch := l.Store.Watch(ctx, tables.Migrations, tables.Progress)
	return l.loop(ctx, "steering migrations", steeringPeriod, watch, func(ctx context.Context) error { return l.steer(ctx, given, running) })
}

func (l *leader) steer(ctx context.Context, given map[order]bool, running map[cloud.MigrationID]time.Time) error {
	v := l.Store.View()
	live := map[cloud.MigrationID]bool{}
	var errs []error
	for _, i := range store.All(v, tables.Intents) {
		m, ok := store.Lookup(v, tables.Migrations, i.Migration)
		if !ok || m.Status.Final() {
			continue
		}
		live[m.ID] = true
		if p, ok := store.Lookup(v, tables.Progress, m.ID); ok && p.PostCopy && m.Status == cloud.MigrationRunning {
			errs = append(errs, l.noteSplit(ctx, m.ID))
		}
		if m.Status == cloud.MigrationRunning {
			errs = append(errs, l.limit(ctx, v, m, running)) // post-copy can be neither aborted nor hastened
		}
		errs = append(errs, l.obey(ctx, v, m, given))
	}
	for o := range given {
		if !live[o.migration] {
			delete(given, o)
		}
	}
	for id := range running {
		if !live[id] {
			delete(running, id)
		}
	}
	return errors.Join(errs...)
}

// noteSplit writes that the source has begun post-copy.
func (l *leader) noteSplit(ctx context.Context, id cloud.MigrationID) error {
	_, err := l.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, id)
		if err != nil || m.Status != cloud.MigrationRunning {
			return err
		}
		m.Status, m.Updated = cloud.MigrationPostCopy, time.Now().UTC()
		return store.Put(tx, tables.Migrations, id, m)
	})
	return err
}

// obey passes on what was asked of m.
func (l *leader) obey(ctx context.Context, v store.View, m *cloud.Migration, given map[order]bool) error {
	if m.AbortAsked {
		// Before the copy the engine unwinds the run by itself; from the copy on only libvirt can stop it.
		err := l.engine.Cancel(workflow.RunID(m.Intent), "the migration was aborted on request")
		if !cloud.Is(err, cloud.KindConflict) {
			return ignore(err, cloud.KindNotFound)
		}
	}
	if m.Status != cloud.MigrationRunning {
		return nil // not yet, or in post-copy, where neither order makes sense
	}
	for _, o := range []order{{m.ID, true}, {m.ID, false}} {
		asked := m.CompleteAsked
		if o.abort {
			asked = m.AbortAsked
		}
		if !asked || given[o] {
			continue
		}
		if err := l.tell(ctx, v, m, o); err != nil {
			return fmt.Errorf("migration %s: %w", m.ID, err)
		}
		given[o] = true
	}
	return nil
}

// steerMax bounds one order; it is repeated until the host has taken it.
const steerMax = 10 * time.Second

func (l *leader) tell(ctx context.Context, v store.View, m *cloud.Migration, o order) error {
	s, ok := store.Lookup(v, tables.Servers, m.Server)
	if !ok {
		return nil
	}
	host, err := l.Hosts.Host(m.Source)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, steerMax)
	defer cancel()
	_, err = host.Steer(ctx, &hostpb.SteerRequest{
		Call:        &hostpb.Call{ServerId: string(s.ID), Generation: s.Generation, RunId: string(m.Intent)},
		MigrationId: string(m.ID), Abort: o.abort, ForceComplete: !o.abort,
	})
	return err
}

// gibMin is the least amount a time limit is computed from, as in Nova: tiny guests must not meet a limit of seconds.
const gibMin = 2

// limit asks for the end of a migration that takes too long.
func (l *leader) limit(ctx context.Context, v store.View, m *cloud.Migration, running map[cloud.MigrationID]time.Time) error {
	now := time.Now()
	if running[m.ID].IsZero() {
		running[m.ID] = now
	}
	s, ok := store.Lookup(v, tables.Servers, m.Server)
	if !ok || l.TimeoutPerGiB == 0 || now.Sub(running[m.ID]) < timeLimit(s, m, l.TimeoutPerGiB) {
		return nil
	}
	if l.ForceOnTimeout {
		return l.flag(ctx, m.ID, func(m *cloud.Migration) *bool { return &m.CompleteAsked })
	}
	return l.askAbort(ctx, m.ID)
}

// timeLimit is how long the migration of s may take.
func timeLimit(s *cloud.Server, m *cloud.Migration, perGiB time.Duration) time.Duration {
	gib := max(gibMin, (s.Flavor.RAMMiB+1023)>>10)
	if m.Kind == cloud.MigrateBlock {
		gib += max(gibMin, int((s.RootBytes()+(1<<30)-1)>>30))
	}
	return time.Duration(gib) * perGiB
}

// ignore returns err unless it is of the kind.
func ignore(err error, kind cloud.Kind) error {
	if cloud.Is(err, kind) {
		return nil
	}
	return err
}
