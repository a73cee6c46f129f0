package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/recovery"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// recoverPeriod is how often recoveries are looked at without a change: for waits that only time ends.
const recoverPeriod = time.Second

// recovering carries out what package recovery decides, for every host that is dead and for those that have returned. The record of a recovery is all the
// memory there is: a new leader reads it and goes on.
type recovering struct {
	*leader
	alarms map[cloud.RecoveryID]string // said last
}

// recover runs until ctx ends.
func (l *leader) recover(ctx context.Context) error {
	if l.Pulses == nil {
		return nil
	}
	r := &recovering{leader: l, alarms: map[cloud.RecoveryID]string{}}
	defer l.bmcs.work.Wait()
	watch := l.Store.Watch(ctx, tables.HostVerdicts, tables.Recoveries, tables.Migrations, tables.HostSessions, tables.Observations, tables.Hosts, tables.BMCs)
	return l.loop(ctx, "recovering", recoverPeriod, watch, r.round)
}

// round looks at every host that is dead and every recovery that is open.
func (r *recovering) round(ctx context.Context) error {
	v, now := r.Store.View(), time.Now()
	open := map[cloud.HostName]*cloud.Recovery{}
	for _, rec := range store.All(v, tables.Recoveries) {
		if !rec.Status.Final() {
			open[rec.Host] = rec
		}
	}
	var errs []error
	for _, verdict := range store.All(v, tables.HostVerdicts) {
		if verdict.Verdict == string(liveness.Alive) {
			r.bmcs.forget(verdict.Host)
		}
		rec := open[verdict.Host]
		if rec == nil {
			if verdict.Verdict != string(liveness.Dead) || verdict.Silent.IsZero() {
				continue // a host that is heard is not recovered, whatever an operator says of it
			}
			if Excused(v, verdict.Host) != "" {
				continue
			}
			_, permitted := store.Lookup(v, tables.RecoveryPermits, verdict.Host)
			rec = &cloud.Recovery{ID: cloud.RecoveryID(uuid.NewString()), Host: verdict.Host, Status: cloud.RecoveryFencing, Evidence: verdict.Evidence, Silent: verdict.Silent,
				Allowed: permitted, Began: now.UTC(), Updated: now.UTC()}
		}
		if err := r.step(ctx, v, rec, verdict, now); err != nil {
			errs = append(errs, fmt.Errorf("recovery of host %s: %w", rec.Host, err))
		}
	}
	return errors.Join(errs...)
}

// step takes one recovery one step further.
func (r *recovering) step(ctx context.Context, v store.View, rec *cloud.Recovery, verdict *cloud.HostVerdict, now time.Time) error {
	host, ok := store.Lookup(v, tables.Hosts, rec.Host)
	if !ok {
		return nil
	}
	pulse := r.Pulses.Pulse(rec.Host)
	c := recovery.Case{
		Recovery: *rec, Host: *host, Life: r.life(v, verdict, pulse, now), Fence: r.bmcs.known(v, rec.Host), Servers: serversOf(v, rec), Names: namesOf(v),
		Moving: movingElsewhere(v, rec.ID), Told: pulse.Up && pulse.Told, Now: now.UTC(),
	}
	step := recovery.Next(r.Recovery, c)
	if step.Fence {
		r.bmcs.begin(ctx, rec.Host)
	}
	r.alarm(rec, step)
	_, recorded := store.Lookup(v, tables.Recoveries, rec.ID)
	if recorded && !step.Changed && !step.Enable && !step.Disable {
		return nil
	}
	return r.commit(ctx, rec, step, now.UTC())
}

// life puts together what is known of a host's life.
func (r *recovering) life(v store.View, verdict *cloud.HostVerdict, pulse Pulse, now time.Time) recovery.Life {
	out := recovery.Life{Verdict: verdict.Verdict, Evidence: verdict.Evidence, Silent: verdict.Silent, Reported: verdict.Reported}
	if !pulse.Last.IsZero() {
		out.Silence = now.Sub(pulse.Last)
	} else if !verdict.Silent.IsZero() {
		out.Silence = min(now.Sub(verdict.Silent), now.Sub(r.began)) // by this leader's own clock only
	}
	if report, ok := store.Lookup(v, tables.HostReports, verdict.Host); ok {
		out.Fencing = report.SelfFencing
	}
	if at := r.looks.lease(verdict.Host); !at.IsZero() {
		out.HasLease, out.LeaseAge = true, now.Sub(at)
	}
	return out
}

// serversOf gathers the servers on the host and those the record has.
func serversOf(v store.View, rec *cloud.Recovery) map[cloud.ServerID]recovery.Server {
	out := map[cloud.ServerID]recovery.Server{}
	shared := sharesDisks(v, rec.Host)
	for _, s := range store.By(v, tables.Servers, tables.ByHost, rec.Host) {
		out[s.ID] = recovery.Server{Record: s, Guarded: attachments.Guarded(v, s), Shared: shared && s.RootDevice() == nil}
	}
	for i := range rec.Servers {
		listed := &rec.Servers[i]
		known := out[listed.Server]
		if s, ok := store.Lookup(v, tables.Servers, listed.Server); ok && known.Record == nil {
			known = recovery.Server{Record: s, Guarded: attachments.Guarded(v, s), Shared: shared && s.RootDevice() == nil}
		}
		if m, ok := store.Lookup(v, tables.Migrations, listed.Migration); ok {
			known.Migration = m
		}
		_, seen := store.Lookup(v, tables.Observations, tables.ObservationKey(rec.Host, listed.Server))
		known.Leftover = seen && known.Record != nil && known.Record.Host != rec.Host
		out[listed.Server] = known
	}
	return out
}

// sharesDisks reports whether another host has the directory of the host's servers.
func sharesDisks(v store.View, host cloud.HostName) bool {
	mine, ok := store.Lookup(v, tables.HostReports, host)
	if !ok {
		return false
	}
	for _, other := range store.All(v, tables.HostReports) {
		if other.Host != host && placement.ResolvedKind(*mine, *other) == cloud.MigrateShared {
			return true
		}
	}
	return false
}

// namesOf finds servers by name, for dependencies. An ambiguous name is nobody's.
func namesOf(v store.View) func(cloud.ProjectID, string) cloud.ServerID {
	return func(project cloud.ProjectID, name string) cloud.ServerID {
		var found cloud.ServerID
		for _, s := range store.By(v, tables.Servers, tables.ByProject, project) {
			if s.Name == name {
				if found != "" {
					return ""
				}
				found = s.ID
			}
		}
		return found
	}
}

// movingElsewhere counts the servers that other recoveries move now.
func movingElsewhere(v store.View, except cloud.RecoveryID) int {
	n := 0
	for _, rec := range store.All(v, tables.Recoveries) {
		if rec.ID == except || rec.Status.Final() {
			continue
		}
		for i := range rec.Servers {
			if rec.Servers[i].Outcome == cloud.RecoveryMoving {
				n++
			}
		}
	}
	return n
}

// alarm says what a person must see to, once for each new text.
func (r *recovering) alarm(rec *cloud.Recovery, step recovery.Step) {
	if step.Alarm == "" {
		delete(r.alarms, rec.ID)
		return
	}
	if r.alarms[rec.ID] != step.Alarm {
		r.alarms[rec.ID] = step.Alarm
		r.log.Error("needs a person", "host", rec.Host, "recovery", rec.ID, "reason", step.Alarm)
	}
}

// commit writes the record, the host's state and the first evacuations in one transaction, and the others in further ones of bounded size.
func (r *recovering) commit(ctx context.Context, was *cloud.Recovery, step recovery.Step, now time.Time) error {
	orders := step.Orders
	for first := true; first || len(orders) > 0; first = false {
		batch := orders[:min(len(orders), ordersPerWrite)]
		orders = orders[len(batch):]
		next := step.Recovery
		if len(orders) > 0 {
			next = without(next, orders)
		}
		moves := map[cloud.ServerID]cloud.MigrationID{}
		for _, o := range batch {
			moves[o.Server] = cloud.MigrationID(uuid.NewString())
		}
		for i := range next.Servers {
			if id := moves[next.Servers[i].Server]; id != "" {
				next.Servers[i].Migration = id
			}
		}
		_, err := r.records.UpdateVisible(ctx, func(tx *store.Tx) error {
			held, err := store.Peek(tx, tables.Recoveries, was.ID)
			if err != nil {
				return err
			}
			if held != nil && !held.Updated.Equal(was.Updated) {
				return cloud.Errorf(cloud.KindStale, "somebody else wrote recovery %s", was.ID)
			}
			for _, o := range batch {
				if err := evacuateIn(tx, o, was.Host, moves[o.Server], now); err != nil {
					return err
				}
			}
			if err := switchHost(tx, was.Host, step, now); err != nil {
				return err
			}
			return store.Put(tx, tables.Recoveries, next.ID, next)
		})
		if err != nil {
			return err
		}
		was = &next
		step.Enable, step.Disable = false, false
	}
	r.Metrics.recovery(&step.Recovery)
	r.log.Info("recovery", "host", was.Host, "state", step.Recovery.Describe(), "fence", step.Recovery.Fence, "orders", len(step.Orders))
	return nil
}

// ordersPerWrite bounds one transaction: an order reads and writes five records.
const ordersPerWrite = 16

// without returns the record in which the orders are not given yet.
func without(rec cloud.Recovery, orders []recovery.Order) cloud.Recovery {
	late := map[cloud.ServerID]bool{}
	for _, o := range orders {
		late[o.Server] = true
	}
	out := rec
	out.Servers = append([]cloud.RecoveryServer(nil), rec.Servers...)
	for i := range out.Servers {
		if s := &out.Servers[i]; late[s.Server] {
			s.Outcome, s.Attempts = cloud.RecoveryWaiting, s.Attempts-1
		}
	}
	return out
}

// evacuateIn writes what the edge writes for an evacuation that an administrator asks for.
func evacuateIn(tx *store.Tx, o recovery.Order, host cloud.HostName, id cloud.MigrationID, now time.Time) error {
	s, err := store.Get(tx, tables.Servers, o.Server)
	if err != nil {
		return err
	}
	if s.Host != host || s.Task != cloud.TaskNone {
		return cloud.Errorf(cloud.KindStale, "server %s was changed meanwhile", s.ID)
	}
	number, err := tables.Next(tx, tables.CountMigrations)
	if err != nil {
		return err
	}
	if o.Intent == "" {
		o.Intent = cloud.IntentID(uuid.NewString())
	}
	events := []cloud.ActionEvent{}
	if o.Event != nil {
		events = append(events, *o.Event)
	}
	i := cloud.Intent{ID: o.Intent, Kind: cloud.IntentEvacuate, Server: s.ID, Migration: id, Rebuild: o.Rebuild, Proof: o.Proof,
		RequestID: "req-" + uuid.NewString(), Project: s.Project, User: s.User, Created: now}
	asked := cloud.MigrateAuto
	if o.Shared {
		asked = cloud.MigrateShared // a host without the directory has not the disk
	}
	m := cloud.Migration{ID: id, Number: number, Server: s.ID, Project: s.Project, User: s.User, Type: cloud.TypeEvacuation, Asked: asked, Source: host,
		Status: cloud.MigrationQueued, Intent: i.ID, Created: now, Updated: now}
	a := cloud.Action{Server: s.ID, RequestID: i.RequestID, Name: "evacuate", Project: s.Project, User: s.User, Events: events, Started: now, Updated: now}
	s.Task, s.Updated = cloud.TaskRebuilding, now
	return errors.Join(
		store.Put(tx, tables.Servers, s.ID, s),
		store.Create(tx, tables.Migrations, m.ID, m),
		store.Create(tx, tables.Intents, i.ID, i),
		store.Put(tx, tables.Actions, tables.ActionKey(s.ID, i.RequestID), a),
	)
}

// switchHost disables or enables the host.
func switchHost(tx *store.Tx, name cloud.HostName, step recovery.Step, now time.Time) error {
	if !step.Disable && !step.Enable {
		return nil
	}
	h, err := store.Get(tx, tables.Hosts, name)
	if err != nil {
		return err
	}
	switch {
	case step.Disable && !h.Disabled:
		h.Disabled, h.DisabledReason = true, recovery.DisabledReason
	case step.Enable && h.Disabled && h.DisabledReason == recovery.DisabledReason:
		h.Disabled, h.DisabledReason = false, ""
	}
	h.Updated = now
	return store.Put(tx, tables.Hosts, name, h)
}
