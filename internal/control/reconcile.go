package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/reconcile"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// reconcilePeriod bounds how late a difference is noticed that only time makes one: what Outcome.Again asks for is rounded up to it.
	reconcilePeriod = 2 * time.Second
	// alarmAgainAfter is how often the same alarm is repeated in the log while its reason stands.
	alarmAgainAfter = 10 * time.Minute
)

// reconciler compares records with what hosts see, and acts on the difference.
type reconciler struct {
	*leader
	alarms map[string]time.Time // said when
}

// reconcile runs until ctx ends.
func (l *leader) reconcile(ctx context.Context) error {
	r := &reconciler{leader: l, alarms: map[string]time.Time{}}
	watch := l.Store.Watch(ctx, tables.Observations, tables.HostSessions, tables.Servers, tables.HostReports)
	return l.loop(ctx, "reconciling", reconcilePeriod, watch, r.round)
}

// round looks at everything once. A thousand servers are a few milliseconds of map work, so nothing narrower is worth its code.
func (r *reconciler) round(ctx context.Context) error {
	v, now := r.Store.View(), time.Now().UTC()
	busy := reconcile.Busy(store.All(v, tables.Intents), store.All(v, tables.Migrations))
	var errs []error
	for _, c := range serverCases(v, busy) {
		errs = append(errs, r.act(ctx, reconcile.Server(c, now).Actions, now))
	}
	for _, c := range hostCases(v, busy) {
		errs = append(errs, r.act(ctx, reconcile.Host(c).Actions, now))
	}
	for key, at := range r.alarms {
		if now.Sub(at) > alarmAgainAfter {
			delete(r.alarms, key)
		}
	}
	return errors.Join(errs...)
}

// serverCases gathers a case for each server that has a record or is seen by a host.
func serverCases(v store.View, busy map[cloud.ServerID]bool) []reconcile.ServerCase {
	sessions := map[cloud.HostName]time.Time{}
	for _, s := range store.All(v, tables.HostSessions) {
		sessions[s.Host] = s.Since
	}
	seen := map[cloud.ServerID][]cloud.ServerObservation{}
	for _, o := range store.All(v, tables.Observations) {
		seen[o.Server] = append(seen[o.Server], *o)
	}
	var out []reconcile.ServerCase
	for _, s := range store.All(v, tables.Servers) {
		out = append(out, reconcile.ServerCase{ID: s.ID, Server: s, Busy: busy[s.ID], Seen: seen[s.ID], Sessions: sessions, Evacuated: evacuatedFrom(v, s, seen[s.ID])})
		delete(seen, s.ID)
	}
	for id, observations := range seen {
		grave, _ := store.Lookup(v, tables.Graves, id)
		out = append(out, reconcile.ServerCase{ID: id, Grave: grave, Busy: busy[id], Seen: observations, Sessions: sessions})
	}
	return out
}

// evacuatedFrom returns the hosts that were given up with the server on them; nil when only its own host sees it, which is nearly always.
func evacuatedFrom(v store.View, s *cloud.Server, seen []cloud.ServerObservation) map[cloud.HostName]bool {
	if !slices.ContainsFunc(seen, func(o cloud.ServerObservation) bool { return o.Host != s.Host }) {
		return nil
	}
	out := map[cloud.HostName]bool{}
	for _, m := range store.By(v, tables.Migrations, tables.ByServer, s.ID) {
		if m.Type == cloud.TypeEvacuation && m.Status == cloud.MigrationCompleted {
			out[m.Source] = true
		}
	}
	return out
}

// hostCases gathers a case for each host that has reported.
func hostCases(v store.View, busy map[cloud.ServerID]bool) []reconcile.HostCase {
	var out []reconcile.HostCase
	for _, report := range store.All(v, tables.HostReports) {
		c := reconcile.HostCase{Name: report.Host, Reported: true, Busy: busy, Servers: map[cloud.ServerID]*cloud.Server{}}
		c.Host, _ = store.Lookup(v, tables.Hosts, report.Host)
		if u, ok := store.Lookup(v, tables.Usages, report.Host); ok {
			c.Usage = *u
		}
		for _, claim := range c.Usage.Claims {
			if s, ok := store.Lookup(v, tables.Servers, claim.Server); ok {
				c.Servers[s.ID] = s
			}
		}
		for _, s := range store.By(v, tables.Servers, tables.ByHost, report.Host) {
			c.Servers[s.ID] = s
		}
		out = append(out, c)
	}
	return out
}

// act carries actions out. One that has become pointless meanwhile is dropped: the next round sees what is.
func (r *reconciler) act(ctx context.Context, actions []reconcile.Action, now time.Time) error {
	var errs []error
	for _, a := range actions {
		if a.Kind != reconcile.Alarm {
			r.log.Info("reconciling", "action", a.String())
		}
		err := r.carryOut(ctx, a, now)
		if cloud.Is(err, cloud.KindStale) && ctx.Err() == nil && !errors.Is(err, store.ErrDeposed) {
			continue
		}
		if err != nil && !cloud.Is(err, cloud.KindUnavailable) { // an unreachable host is asked when it is back
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

func (r *reconciler) alarm(a reconcile.Action, now time.Time) {
	if _, said := r.alarms[a.String()]; said {
		return
	}
	r.alarms[a.String()] = now
	r.log.Error("needs a person", "server", a.Server, "host", a.Host, "reason", a.Reason)
}

func (r *reconciler) carryOut(ctx context.Context, a reconcile.Action, now time.Time) error {
	switch a.Kind {
	case reconcile.Alarm:
		r.alarm(a, now)
		return nil
	case reconcile.SetState:
		return r.write(ctx, func(tx *store.Tx) error {
			s, err := store.Get(tx, tables.Servers, a.Server)
			if err != nil {
				return ignore(err, cloud.KindNotFound)
			}
			if err := unasked(tx, a.Server); err != nil {
				return err
			}
			if err := a.Apply(&s, now); err != nil {
				return err
			}
			return store.Put(tx, tables.Servers, s.ID, s)
		})
	case reconcile.Discard, reconcile.DiscardDeleted, reconcile.DiscardEvacuated, reconcile.DiscardShelved:
		return r.discard(ctx, a)
	case reconcile.CreateHost:
		return r.write(ctx, func(tx *store.Tx) error { return introduce(tx, a.Host, now) })
	case reconcile.ReleaseClaim, reconcile.RestoreClaim:
		return r.claim(ctx, a)
	}
	return cloud.Errorf(cloud.KindInternal, "reconcile asks for %q, which control does not know", a.Kind)
}

func (r *reconciler) write(ctx context.Context, fn func(tx *store.Tx) error) error {
	_, err := r.records.UpdateVisible(ctx, fn)
	return err
}

// unasked returns cloud.KindStale when somebody has asked something of the server since the decision was made.
func unasked(tx *store.Tx, id cloud.ServerID) error {
	intents, err := store.PeekList(tx, tables.Intents, "")
	if err != nil {
		return err
	}
	for _, i := range intents {
		if i.Server == id {
			return cloud.E(cloud.KindStale, "reconcile", "server "+string(id), fmt.Errorf("intent %s concerns it", i.ID))
		}
	}
	return nil
}

func (r *reconciler) discard(ctx context.Context, a reconcile.Action) error {
	host, err := r.Hosts.Host(a.Host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, discardMax)
	defer cancel()
	_, err = host.Discard(ctx, &hostpb.DiscardRequest{
		Call:           &hostpb.Call{ServerId: string(a.Server), Generation: a.Generation, RunId: "reconcile"},
		DestroyRunning: a.Kind != reconcile.Discard,
	})
	return ignore(err, cloud.KindNotFound)
}

// discardMax bounds removing a leftover; the next round tries again.
const discardMax = 30 * time.Second

// claim corrects a host's claims, unless somebody has begun to work on the server.
func (r *reconciler) claim(ctx context.Context, a reconcile.Action) error {
	return r.write(ctx, func(tx *store.Tx) error {
		if err := unasked(tx, a.Server); err != nil {
			return err
		}
		s, err := store.Get(tx, tables.Servers, a.Server)
		if err != nil && !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		if err == nil && (s.Generation != a.Generation || s.Task != cloud.TaskNone) {
			return cloud.E(cloud.KindStale, string(a.Kind), "server "+string(a.Server), nil)
		}
		usage, err := store.Get(tx, tables.Usages, a.Host)
		if err != nil && !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		usage.Host = a.Host
		var group *cloud.ServerGroup
		if g, err := store.Get(tx, tables.ServerGroups, s.Group); err == nil && s.Group != "" {
			group = &g
		}
		if a.Kind == reconcile.RestoreClaim {
			placement.Claim(&usage, group, a.Claim)
		} else if !placement.Release(&usage, group, a.Server) {
			return nil
		}
		if group != nil {
			if err := store.Put(tx, tables.ServerGroups, group.ID, *group); err != nil {
				return err
			}
		}
		return store.Put(tx, tables.Usages, a.Host, usage)
	})
}
