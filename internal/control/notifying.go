package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// notificationsMax bounds how many notifications are kept; the oldest that are settled go first.
	notificationsMax = 2000
	// hostJudgedWithin is how long a monitor's word about a host waits for a verdict: longer than the judge takes to find a host dead.
	hostJudgedWithin = 30 * time.Second
	// healedRecently is how fresh a healing must be for a monitor's word to be about the same failure: monitors are slower than agents.
	healedRecently = time.Minute
)

// generatedBy is who made a notification, in its payload.
const generatedBy = "godwit"

// domainEvents are Masakari's words (libvirt's, in its instance monitor) for what hosts see of guests.
var domainEvents = map[cloud.GuestFailure][2]string{
	cloud.FailureCrashed:  {"LIFECYCLE", "STOPPED_FAILED"},
	cloud.FailurePanicked: {"LIFECYCLE", "CRASHED_PANICKED"},
	cloud.FailureWatchdog: {"WATCHDOG", "WATCHDOG_UNKNOWN"},
	cloud.FailureIOError:  {"IO_ERROR", "IO_ERROR_PAUSE"},
	cloud.FailureNoSpace:  {"IO_ERROR", "IO_ERROR_PAUSE"},
	cloud.FailureSilent:   {"QEMU_GUEST_AGENT_ERROR", "STOPPED_FAILED"},
}

var healStatuses = map[cloud.HealStatus]struct {
	status   cloud.NotificationStatus
	progress float64
}{
	cloud.HealWaiting:    {cloud.NotificationRunning, 0},
	cloud.HealRestarting: {cloud.NotificationRunning, 0.5},
	cloud.HealMoving:     {cloud.NotificationRunning, 0.5},
	cloud.HealDone:       {cloud.NotificationFinished, 1},
	cloud.HealLeft:       {cloud.NotificationIgnored, 1},
	cloud.HealGaveUp:     {cloud.NotificationFailed, 1},
}

// showHealing makes or changes the notification of a healing in its transaction.
func showHealing(tx *store.Tx, h *cloud.Healing, now time.Time) error {
	held, err := store.Peek(tx, tables.Notifications, h.Notification)
	if err != nil {
		return err
	}
	var n cloud.Notification
	if held != nil {
		n = *held
	} else {
		event := domainEvents[h.Failure]
		n = cloud.Notification{ID: h.Notification, Type: cloud.NotifyVM, Host: h.Host, Server: h.Server, Generated: h.Seen, ByCluster: true, Created: now,
			Payload: map[string]any{"event": event[0], "vir_domain_event": event[1], "instance_uuid": string(h.Server), "generated_by": generatedBy,
				cloud.PayloadFailure: string(h.Failure), cloud.PayloadDetail: h.Detail}}
		if err := introduceNotification(tx, &n); err != nil {
			return err
		}
	}
	to := healStatuses[h.Status]
	n.Note(to.status, h.Reason, to.progress, now)
	return store.Put(tx, tables.Notifications, n.ID, n)
}

// introduceNotification gives a new notification its number and its host's id.
func introduceNotification(tx *store.Tx, n *cloud.Notification) error {
	number, err := tables.Next(tx, tables.CountNotifications)
	if err != nil {
		return err
	}
	n.Number = number
	member, err := store.Peek(tx, tables.SegmentHosts, n.Host)
	if err == nil && member != nil {
		n.SourceHost = member.ID
	}
	return err
}

// reportedServers are the VM notifications of monitors that nobody has looked at, by server.
func reportedServers(v store.View) map[cloud.ServerID]*cloud.Notification {
	out := map[cloud.ServerID]*cloud.Notification{}
	for _, n := range store.All(v, tables.Notifications) {
		if n.Type == cloud.NotifyVM && n.Status == cloud.NotificationNew && !n.ByCluster && recoverable(n) && !actedUpon(v, n) {
			out[n.Server] = n
		}
	}
	return out
}

// recoverable reports whether a monitor's news of a VM is one that Masakari's engine acts on; of other events it only takes note.
func recoverable(n *cloud.Notification) bool {
	event, _ := n.Payload["event"].(string)
	domain, _ := n.Payload["vir_domain_event"].(string)
	return event == "LIFECYCLE" && domain == "STOPPED_FAILED" || event == "IO_ERROR" && domain == "IO_ERROR_REPORT"
}

// saysStopped reports whether the news is that something stopped.
func saysStopped(n *cloud.Notification) bool {
	event, _ := n.Payload["event"].(string)
	return strings.EqualFold(event, "STOPPED")
}

// stoppedProcess reports whether the news is that a process which a host needs has ended and could not be started again.
func stoppedProcess(n *cloud.Notification) bool {
	return n.Type == cloud.NotifyProcess && saysStopped(n)
}

// retireHost does what Masakari's engine does when a process stopped: the host is on maintenance and takes no new servers, until a person says otherwise. What
// runs there goes on.
func (h *healer) retireHost(ctx context.Context, news *cloud.Notification) error {
	_, err := h.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		n, err := store.Get(tx, tables.Notifications, news.ID)
		if err != nil || n.Status.Final() {
			return ignore(err, cloud.KindNotFound)
		}
		now := time.Now().UTC()
		if member, err := store.Peek(tx, tables.SegmentHosts, n.Host); err != nil {
			return err
		} else if member != nil && (!member.Maintenance || member.Recovering != "") {
			kept := *member
			kept.Maintenance, kept.Recovering, kept.Updated = true, "", now
			if err := store.Put(tx, tables.SegmentHosts, kept.Name, kept); err != nil {
				return err
			}
		}
		host, err := store.Peek(tx, tables.Hosts, n.Host)
		if err != nil {
			return err
		}
		process, _ := n.Payload["process_name"].(string)
		switch {
		case host == nil:
			n.Note(cloud.NotificationIgnored, "there is no such host", 1, now)
		case host.Disabled:
			n.Note(cloud.NotificationFinished, fmt.Sprintf("Skipping recovery for process: %s as it is already disabled.", process), 1, now)
		default:
			kept := *host
			kept.Disabled, kept.DisabledReason = true, fmt.Sprintf("process %s stopped (notification %s)", process, n.ID)
			if err := store.Put(tx, tables.Hosts, kept.Name, kept); err != nil {
				return err
			}
			n.Note(cloud.NotificationFinished, fmt.Sprintf("Disabled compute service on host: '%s'", n.Host), 1, now)
		}
		return store.Put(tx, tables.Notifications, n.ID, n)
	})
	return err
}

// actedUpon reports whether the cluster has seen the failure itself, a moment ago, and does or did something about it.
func actedUpon(v store.View, n *cloud.Notification) bool {
	h, ok := store.Lookup(v, tables.Healings, n.Server)
	return ok && h.Notification != n.ID && (h.Status == cloud.HealWaiting || h.Status == cloud.HealRestarting || h.Status == cloud.HealMoving ||
		n.Created.Sub(h.Updated) < healedRecently && h.Status != cloud.HealLeft)
}

// notify brings the notifications up to date that healings do not: monitors' words, and the recoveries of hosts.
func (h *healer) notify(ctx context.Context, v store.View, now time.Time) error {
	var errs []error
	all := store.All(v, tables.Notifications)
	for _, n := range all {
		if n.Status.Final() || n.Recovery != "" {
			continue
		}
		if stoppedProcess(n) {
			errs = append(errs, h.retireHost(ctx, n))
			continue
		}
		if rec := recoveryAbout(v, n); rec != nil {
			errs = append(errs, h.follow(ctx, n.ID, rec, now))
			continue
		}
		if status, why := h.judgeNotification(ctx, v, n, now); status != n.Status {
			errs = append(errs, h.note(ctx, n.ID, status, why))
		}
	}
	for _, rec := range store.All(v, tables.Recoveries) {
		errs = append(errs, h.showRecovery(ctx, v, rec, now))
	}
	for _, n := range all {
		if rec, ok := store.Lookup(v, tables.Recoveries, n.Recovery); ok && cloud.NotificationID(rec.ID) != n.ID && !shows(n, rec) {
			errs = append(errs, h.follow(ctx, n.ID, rec, now))
		}
	}
	return errors.Join(append(errs, h.prune(ctx, all))...)
}

// judgeNotification says where a monitor's notification stands that no record of ours follows.
func (h *healer) judgeNotification(ctx context.Context, v store.View, n *cloud.Notification, now time.Time) (cloud.NotificationStatus, string) {
	switch n.Type {
	case cloud.NotifyVM:
		return h.judgeVM(v, n)
	case cloud.NotifyProcess:
		return cloud.NotificationFinished, "the process is said to run again; somebody enables the host's compute service and takes it off maintenance"
	}
	if !saysStopped(n) {
		return cloud.NotificationFinished, "the host is said to run again; the cluster hears that from its agent"
	}
	if why := Excused(v, n.Host); why != "" {
		return cloud.NotificationIgnored, why
	}
	verdict, judged := store.Lookup(v, tables.HostVerdicts, n.Host)
	switch {
	case judged && (verdict.Verdict == string(liveness.Dead) || verdict.Brake != ""): // its recovery begins in a moment, or when a person has said so
		return cloud.NotificationRunning, "the host is silent"
	case now.Sub(n.Created) > hostJudgedWithin:
		return cloud.NotificationIgnored, "the host lives, whatever a monitor says of it: it is heard, others reach it, or it uses its storage"
	case n.Status == cloud.NotificationNew:
		h.looks.hint(ctx, v)
		return cloud.NotificationRunning, "the host is looked at"
	}
	return n.Status, ""
}

// shownAs is how a recovery's notifications stand: their status, their last line, and how much is behind it.
func shownAs(rec *cloud.Recovery) (status cloud.NotificationStatus, line string, share float64) {
	status = recoveryStatuses[rec.Status]
	if status == cloud.NotificationFinished && anyFailed(rec) {
		status = cloud.NotificationFailed
	}
	return status, rec.Describe(), settledShare(rec)
}

// shows reports whether a notification says what there is to say of the recovery.
func shows(n *cloud.Notification, rec *cloud.Recovery) bool {
	status, line, _ := shownAs(rec)
	return n.Recovery == rec.ID && n.Status == status && len(n.Details) > 0 && n.Details[len(n.Details)-1].Message == line
}

func (h *healer) judgeVM(v store.View, n *cloud.Notification) (cloud.NotificationStatus, string) {
	record, healed := store.Lookup(v, tables.Healings, n.Server)
	switch s, ok := store.Lookup(v, tables.Servers, n.Server); {
	case !ok:
		return cloud.NotificationIgnored, "there is no such server"
	case healed && record.Notification == n.ID, n.ByCluster:
		return n.Status, "" // healing follows it
	case !recoverable(n):
		return cloud.NotificationIgnored, "nothing is done about this event: the cluster sees failures of guests itself"
	case s.Host != n.Host:
		return cloud.NotificationIgnored, fmt.Sprintf("the server is on host %s", s.Host)
	case actedUpon(v, n):
		return cloud.NotificationIgnored, "the cluster saw this failure itself: notification " + string(record.Notification)
	}
	return n.Status, ""
}

func (h *healer) note(ctx context.Context, id cloud.NotificationID, status cloud.NotificationStatus, why string) error {
	_, err := h.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		n, err := store.Get(tx, tables.Notifications, id)
		if err != nil || n.Status.Final() {
			return ignore(err, cloud.KindNotFound)
		}
		progress := 0.0
		if status.Final() {
			progress = 1
		}
		n.Note(status, why, progress, time.Now().UTC())
		return store.Put(tx, tables.Notifications, id, n)
	})
	return err
}

var recoveryStatuses = map[cloud.RecoveryStatus]cloud.NotificationStatus{
	cloud.RecoveryFencing: cloud.NotificationRunning, cloud.RecoveryBlocked: cloud.NotificationError, cloud.RecoveryRunning: cloud.NotificationRunning,
	cloud.RecoveryDone: cloud.NotificationFinished, cloud.RecoveryReturned: cloud.NotificationFinished, cloud.RecoveryCalled: cloud.NotificationIgnored,
}

// showRecovery makes or changes the notification of a host's recovery, which has the recovery's id, and takes reserved hosts that were used out of reserve.
func (h *healer) showRecovery(ctx context.Context, v store.View, rec *cloud.Recovery, now time.Time) error {
	id := cloud.NotificationID(rec.ID)
	status, line, share := shownAs(rec)
	used := reservedUsed(v, rec)
	held, shown := store.Lookup(v, tables.Notifications, id)
	if !shown && now.Sub(rec.Updated) > time.Hour {
		return nil // pruned
	}
	if shown && shows(held, rec) && len(used) == 0 {
		return nil
	}
	_, err := h.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		begins := false // fn may run more than once
		n, err := store.Get(tx, tables.Notifications, id)
		if cloud.Is(err, cloud.KindNotFound) {
			n = cloud.Notification{ID: id, Type: cloud.NotifyHost, Host: rec.Host, Generated: rec.Began, Recovery: rec.ID, ByCluster: true, Created: now, Payload: map[string]any{
				"event": "STOPPED", "host_status": "NORMAL", "cluster_status": "OFFLINE", "generated_by": generatedBy, "detail": strings.Join(rec.Evidence, "; ")}}
			err = introduceNotification(tx, &n)
			begins = true
		}
		if err == nil {
			err = retreat(tx, rec, begins, now)
		}
		if err != nil {
			return err
		}
		for _, name := range used {
			member, err := store.Get(tx, tables.SegmentHosts, name)
			if err != nil {
				return ignore(err, cloud.KindNotFound)
			}
			member.Reserved, member.Updated = false, now
			if err := store.Put(tx, tables.SegmentHosts, name, member); err != nil {
				return err
			}
			n.Note(status, "reserved host "+string(name)+" was needed and is an ordinary host now", share, now)
		}
		n.Note(status, line, share, now)
		return store.Put(tx, tables.Notifications, id, n)
	})
	return err
}

// settledShare is how much of a recovery is behind it.
func settledShare(rec *cloud.Recovery) float64 {
	if len(rec.Servers) == 0 {
		return 0
	}
	n := 0
	for i := range rec.Servers {
		if rec.Servers[i].Settled() {
			n++
		}
	}
	return float64(n) / float64(len(rec.Servers))
}

func anyFailed(rec *cloud.Recovery) bool {
	for i := range rec.Servers {
		if rec.Servers[i].Outcome == cloud.RecoveryFailed {
			return true
		}
	}
	return false
}

// reservedUsed are the reserved hosts that a recovery has put servers on.
func reservedUsed(v store.View, rec *cloud.Recovery) []cloud.HostName {
	var out []cloud.HostName
	seen := map[cloud.HostName]bool{}
	for i := range rec.Servers {
		s := &rec.Servers[i]
		if member, ok := store.Lookup(v, tables.SegmentHosts, s.Target); ok && member.Reserved && s.Outcome == cloud.RecoveryRecovered && !seen[s.Target] {
			seen[s.Target] = true
			out = append(out, s.Target)
		}
	}
	return out
}

// prune removes the oldest settled notifications beyond notificationsMax.
func (h *healer) prune(ctx context.Context, all []*cloud.Notification) error {
	over := len(all) - notificationsMax
	if over <= 0 {
		return nil
	}
	const atOnce = 64 // bounds the transaction; the next round goes on
	var oldest []*cloud.Notification
	for _, n := range all {
		if n.Status.Final() {
			oldest = append(oldest, n)
		}
	}
	slices.SortFunc(oldest, func(a, b *cloud.Notification) int { return a.Created.Compare(b.Created) })
	oldest = oldest[:min(len(oldest), over, atOnce)]
	_, err := h.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		for _, n := range oldest {
			if err := store.Delete(tx, tables.Notifications, n.ID); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}
