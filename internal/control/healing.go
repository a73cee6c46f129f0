package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/healing"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/reconcile"
	"github.com/godwit-cloud/godwit/internal/recovery"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// healPeriod bounds how late a pause between attempts ends.
	healPeriod = time.Second
	// endMax bounds how long a host may take to end what is left of a guest before it is started elsewhere; the next round tries again.
	endMax = 30 * time.Second
)

// healer carries out what package healing decides, for every server whose guest fails, and keeps the notifications that show it and the recoveries of
// hosts (notifying.go). Records are all the memory there is.
type healer struct {
	*leader
	alarms map[cloud.ServerID]string // said last
}

// heal runs until ctx ends.
func (l *leader) heal(ctx context.Context) error {
	h := &healer{leader: l, alarms: map[cloud.ServerID]string{}}
	defer l.Metrics.forgetHealings()
	watch := l.Store.Watch(ctx, tables.Observations, tables.Servers, tables.Intents, tables.Healings, tables.Notifications, tables.Recoveries, tables.HostVerdicts)
	return l.loop(ctx, "healing", healPeriod, watch, h.round)
}

// round looks at every server that fails or did, and at the notifications.
func (h *healer) round(ctx context.Context) error {
	v, now := h.Store.View(), time.Now().UTC()
	h.Metrics.healings(v)
	reported := reportedServers(v)
	concerned := map[cloud.ServerID]bool{}
	for id := range reported {
		concerned[id] = true
	}
	for _, o := range store.All(v, tables.Observations) {
		if o.Failure != cloud.FailureNone {
			concerned[o.Server] = true
		}
	}
	var errs []error
	for _, record := range store.All(v, tables.Healings) {
		if _, there := store.Lookup(v, tables.Servers, record.Server); !there {
			errs = append(errs, h.forget(ctx, record))
		}
		concerned[record.Server] = true
	}
	var busy map[cloud.ServerID]bool
	if len(concerned) > 0 {
		busy = reconcile.Busy(store.All(v, tables.Intents), store.All(v, tables.Migrations))
	}
	for id := range concerned {
		s, ok := store.Lookup(v, tables.Servers, id)
		if !ok {
			continue
		}
		if err := h.step(ctx, h.caseOf(v, s, reported[id], busy[id], now)); err != nil {
			errs = append(errs, fmt.Errorf("healing of server %s: %w", id, err))
		}
	}
	return errors.Join(append(errs, h.notify(ctx, v, now))...)
}

// caseOf gathers what is known of one server.
func (h *healer) caseOf(v store.View, s *cloud.Server, reported *cloud.Notification, busy bool, now time.Time) healing.Case {
	c := healing.Case{Server: *s, Busy: busy, Reported: reported, Excused: Excused(v, s.Host), Now: now}
	if seen, ok := store.Lookup(v, tables.Observations, tables.ObservationKey(s.Host, s.ID)); ok && tables.Connected(v, s.Host) {
		c.Seen = seen
	}
	c.Healing, _ = store.Lookup(v, tables.Healings, s.ID)
	shared := s.RootDevice() == nil && sharesDisks(v, s.Host)
	c.Portable = attachments.Guarded(v, s) || shared || s.RootDevice() == nil && s.Image != "" && s.RecoveryPolicy().Rebuild
	if !c.Portable {
		c.Why = fmt.Sprintf("its disks are on host %s alone, and nobody said that they may be made anew from its image (%s=on)", s.Host, cloud.MetaRecoveryRebuild)
	}
	return c
}

// Excused returns why failures on a host are not recovered; empty when they are.
func Excused(v store.Reader, host cloud.HostName) string {
	member, ok := store.Lookup(v, tables.SegmentHosts, host)
	if !ok {
		return ""
	}
	segment, ok := store.Lookup(v, tables.Segments, member.Segment)
	switch {
	case member.Maintenance && member.Recovering == "":
		return "host " + string(host) + " is on maintenance"
	case ok && !segment.Enabled:
		return "segment " + segment.Name + " is disabled"
	}
	return ""
}

// step takes one server one step further.
func (h *healer) step(ctx context.Context, c healing.Case) error {
	step := healing.Next(h.Healing, c)
	h.alarm(c.Server.ID, step.Alarm)
	if !step.Changed {
		return nil
	}
	proof := ""
	if step.Act == healing.Elsewhere {
		var err error
		if proof, err = h.end(ctx, &c.Server); err != nil {
			return err
		}
	}
	next := step.Healing
	if next.Notification == "" {
		next.Notification = cloud.NotificationID(uuid.NewString())
	}
	intent := cloud.IntentID("")
	if step.Act != healing.Nothing {
		intent = cloud.IntentID(uuid.NewString())
		next.Intent, next.Tries[len(next.Tries)-1].Intent = intent, intent
	}
	_, err := h.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		held, err := store.Peek(tx, tables.Healings, c.Server.ID)
		if err != nil {
			return err
		}
		if (held == nil) != (c.Healing == nil) || held != nil && !held.Updated.Equal(c.Healing.Updated) {
			return cloud.Errorf(cloud.KindStale, "somebody else wrote the healing of server %s", c.Server.ID)
		}
		if err := h.attempt(tx, &c.Server, step, intent, proof); err != nil {
			return err
		}
		if err := showHealing(tx, &next, c.Now); err != nil {
			return err
		}
		return store.Put(tx, tables.Healings, c.Server.ID, next)
	})
	if cloud.Is(err, cloud.KindStale) && !errors.Is(err, store.ErrDeposed) {
		return nil // the next round sees what is
	}
	if err == nil {
		h.Metrics.healed(c.Healing, &next)
		h.log.Info("healing", "server", c.Server.ID, "host", next.Host, "failure", next.Failure, "status", next.Status, "reason", next.Reason)
	}
	return err
}

// attempt writes what the edge writes for a hard reboot, or what a recovery writes for an evacuation.
func (h *healer) attempt(tx *store.Tx, was *cloud.Server, step healing.Step, intent cloud.IntentID, proof string) error {
	if step.Act == healing.Nothing {
		return nil
	}
	s, err := store.Get(tx, tables.Servers, was.ID)
	if err != nil {
		return err
	}
	if err := unasked(tx, s.ID); err != nil {
		return err
	}
	if s.Task != cloud.TaskNone || s.Generation != was.Generation || s.Host != was.Host {
		return cloud.Errorf(cloud.KindStale, "server %s was changed meanwhile", s.ID)
	}
	now := step.Healing.Tries[len(step.Healing.Tries)-1].At
	event := cloud.ActionEvent{Name: "guest_failure", Host: s.Host, Result: "Error", Details: step.Healing.Detail + "; " + step.Healing.Reason, Started: step.Healing.Seen, Finished: now}
	s.Fault = nil // of the failure; what the attempt leaves behind is the attempt's
	if step.Act == healing.Elsewhere {
		s.VMState = cloud.VMActive // it is to run: an evacuation leaves a stopped server stopped
		if err := store.Put(tx, tables.Servers, s.ID, s); err != nil {
			return err
		}
		rebuild := s.RootDevice() == nil && !sharesDisks(h.Store.View(), s.Host)
		order := recovery.Order{Server: s.ID, Proof: proof, Rebuild: rebuild, Intent: intent, Event: &event}
		return evacuateIn(tx, order, s.Host, cloud.MigrationID(uuid.NewString()), now)
	}
	s.Task, s.Updated = cloud.TaskRebootingHard, now
	i := cloud.Intent{ID: intent, Kind: cloud.IntentReboot, Server: s.ID, Hard: true, RequestID: "req-" + uuid.NewString(), Project: s.Project, User: s.User, Created: now}
	a := cloud.Action{Server: s.ID, RequestID: i.RequestID, Name: "reboot", Project: s.Project, User: s.User, Events: []cloud.ActionEvent{event}, Started: now, Updated: now}
	return errors.Join(
		store.Put(tx, tables.Servers, s.ID, s),
		store.Create(tx, tables.Intents, i.ID, i),
		store.Put(tx, tables.Actions, tables.ActionKey(s.ID, i.RequestID), a),
	)
}

// end has the server's host end what is left of the guest, and returns what proves that it did.
func (h *healer) end(ctx context.Context, s *cloud.Server) (proof string, err error) {
	host, err := h.Hosts.Host(s.Host)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, endMax)
	defer cancel()
	state, err := host.Stop(ctx, &hostpb.StopRequest{Call: &hostpb.Call{ServerId: string(s.ID), Generation: s.Generation, RunId: "healing"}, Grace: durationpb.New(0)})
	if err != nil {
		return "", err
	}
	switch state.GetDomain() {
	case hostpb.DomainState_DOMAIN_STATE_SHUTOFF, hostpb.DomainState_DOMAIN_STATE_CRASHED, hostpb.DomainState_DOMAIN_STATE_ABSENT:
		return fmt.Sprintf("host %s says that its process has ended", s.Host), nil
	default:
		return "", cloud.Errorf(cloud.KindConflict, "server %s is still %s on host %s", s.ID, state.GetDomain(), s.Host)
	}
}

// forget removes the record of a server that is gone.
func (h *healer) forget(ctx context.Context, record *cloud.Healing) error {
	delete(h.alarms, record.Server)
	_, err := h.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		if n, err := store.Peek(tx, tables.Notifications, record.Notification); err != nil {
			return err
		} else if n != nil && !n.Status.Final() {
			gone := *n
			gone.Note(cloud.NotificationIgnored, "the server was deleted", 1, time.Now().UTC())
			if err := store.Put(tx, tables.Notifications, gone.ID, gone); err != nil {
				return err
			}
		}
		return store.Delete(tx, tables.Healings, record.Server)
	})
	return err
}

// alarm says what a person must see to, once for each new text.
func (h *healer) alarm(id cloud.ServerID, text string) {
	if text != "" && h.alarms[id] != text {
		h.alarms[id] = text
		h.log.Error("needs a person", "server", id, "reason", text)
	}
}
