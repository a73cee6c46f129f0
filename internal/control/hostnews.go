package control

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// What a monitor says of a host (Masakari's COMPUTE_HOST notification, STOPPED) is evidence for the judge, never a verdict:
//
//	notification, new --> running: witnesses look at once; silent as well: dead by the word, and turned off --> a recovery, which it follows
//	                          |                                                                                  |
//	                          '-- heard, reached or living on storage, for half a minute: ignored                '--> finished, failed, or error while it is blocked
//
// From its recovery's beginning until it is back the host is on maintenance, as Masakari's engine has it. That engine leaves it so until a person says otherwise, and
// starts servers elsewhere on the word alone; here a host comes back by itself, and nothing starts before a proof.

// reported are the hosts of which monitors say that they stopped, with when this instance learned of it, by its own clock: news that is new, and news that an open
// recovery follows.
func (j *judging) reported(v store.View, now time.Time) map[cloud.HostName]time.Time {
	known, out := j.news, map[cloud.HostName]time.Time{}
	j.news = map[cloud.NotificationID]time.Time{}
	for _, n := range store.All(v, tables.Notifications) {
		if n.Type != cloud.NotifyHost || n.ByCluster || n.Status.Final() && n.Recovery == "" || !saysStopped(n) {
			continue
		}
		seen, ok := known[n.ID]
		if !ok {
			seen = now
		}
		stands := now.Sub(seen) <= hostJudgedWithin && now.Sub(n.Created).Abs() <= hostJudgedWithin
		if rec, ok := store.Lookup(v, tables.Recoveries, n.Recovery); ok {
			stands = !rec.Status.Final()
		}
		if !stands {
			continue
		}
		j.news[n.ID] = seen
		if seen.After(out[n.Host]) {
			out[n.Host] = seen
		}
	}
	return out
}

// recoveryAbout is the open recovery that is the answer to a monitor's news of a host; nil: there is none.
func recoveryAbout(v store.View, n *cloud.Notification) *cloud.Recovery {
	if n.Type != cloud.NotifyHost || !saysStopped(n) {
		return nil
	}
	for _, rec := range store.By(v, tables.Recoveries, tables.ByHost, n.Host) {
		if !rec.Status.Final() {
			return rec
		}
	}
	return nil
}

// follow has a monitor's notification tell of the recovery.
func (h *healer) follow(ctx context.Context, id cloud.NotificationID, rec *cloud.Recovery, now time.Time) error {
	status, line, share := shownAs(rec)
	_, err := h.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		n, err := store.Get(tx, tables.Notifications, id)
		if err != nil || shows(&n, rec) {
			return ignore(err, cloud.KindNotFound)
		}
		n.Recovery = rec.ID
		n.Note(status, line, share, now)
		return store.Put(tx, tables.Notifications, id, n)
	})
	return err
}

// retreat has a host be on maintenance, as Masakari's engine has it, from the beginning of its recovery until it is back. What a person said of it stands.
func retreat(tx *store.Tx, rec *cloud.Recovery, begins bool, now time.Time) error {
	member, err := store.Peek(tx, tables.SegmentHosts, rec.Host)
	if err != nil || member == nil {
		return err
	}
	kept := *member
	switch over := rec.Status.Final(); {
	case begins && !over && !kept.Maintenance:
		kept.Maintenance, kept.Recovering = true, rec.ID
	case over && kept.Recovering == rec.ID:
		kept.Maintenance, kept.Recovering = false, ""
	default:
		return nil
	}
	kept.Updated = now
	return store.Put(tx, tables.SegmentHosts, kept.Name, kept)
}
