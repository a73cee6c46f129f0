package control

import (
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/fence/fencetest"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// reports writes what a monitor says of a host.
func (w *world) reports(id cloud.NotificationID, host cloud.HostName, at time.Time) {
	w.t.Helper()
	n := cloud.Notification{ID: id, Type: cloud.NotifyHost, Host: host, Status: cloud.NotificationNew, Created: at, Generated: at,
		Payload: map[string]any{"event": "STOPPED", "cluster_status": "OFFLINE", "host_status": "NORMAL"}}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Notifications, id, n) })
}

// member returns a host's record in its segment.
func member(v store.View, host cloud.HostName) cloud.SegmentHost {
	held, ok := store.Lookup(v, tables.SegmentHosts, host)
	if !ok {
		return cloud.SegmentHost{}
	}
	return *held
}

// recoveryOf returns the host's only recovery, empty while there is none.
func recoveryOf(v store.View, host cloud.HostName) cloud.Recovery {
	all := store.By(v, tables.Recoveries, tables.ByHost, host)
	if len(all) != 1 {
		return cloud.Recovery{}
	}
	return *all[0]
}

// TestAMonitorsWordAboutAHostLeadsToItsRecoveryOnceItIsOff: the host has fallen silent and a monitor says so. Its BMC turns it off, its server starts elsewhere, and the
// notification tells of it until it is finished. The host is on maintenance meanwhile, and no longer when it is back.
func TestAMonitorsWordAboutAHostLeadsToItsRecoveryOnceItIsOff(t *testing.T) {
	w := newWorld(t, "h1", "h2", "h3")
	w.control(func(o *Options) { o.Pulses = w.heard })
	w.boot("s1", 512)
	w.idle()
	from := w.running("s1")
	bmc := fencetest.Start(t, "u", "p")
	w.write(func(tx *store.Tx) error {
		s, err := store.Get(tx, tables.Servers, cloud.ServerID("s1"))
		if err != nil {
			return err
		}
		s.Metadata = map[string]string{cloud.MetaRecoveryRebuild: "on"}
		if err := store.Put(tx, tables.Servers, s.ID, s); err != nil {
			return err
		}
		if err := store.Put(tx, tables.SegmentHosts, from, cloud.SegmentHost{ID: "m", Name: from, Segment: "seg"}); err != nil {
			return err
		}
		return store.Put(tx, tables.BMCs, from, cloud.BMC{Host: from, Protocol: "ipmi", Address: bmc.Address(), User: "u", Password: "p"})
	})
	w.cut(from)
	w.reports("news", from, time.Now().UTC())
	w.until("the notification is finished", func(v store.View) bool {
		n, _ := store.Lookup(v, tables.Notifications, cloud.NotificationID("news"))
		return n.Status == cloud.NotificationFinished
	})
	v := w.store.View()
	rec := recoveryOf(v, from)
	n, _ := store.Lookup(v, tables.Notifications, cloud.NotificationID("news"))
	if !rec.Fenced || n.Recovery != rec.ID || rec.Servers[0].Outcome != cloud.RecoveryRecovered {
		t.Errorf("recovery %+v, the notification is about %q", rec, n.Recovery)
	}
	if len(n.Details) < 2 || n.Details[len(n.Details)-1].Progress != 1 {
		t.Errorf("the notification says %+v", n.Details)
	}
	if m := member(v, from); !m.Maintenance || m.Recovering != rec.ID {
		t.Errorf("while its servers are elsewhere the host is %+v", m)
	}
	w.idle()
	if on := w.running("s1"); on == from {
		t.Errorf("it still runs on %s", on)
	}
	w.fleet.Host(from).Revive()
	agent, stop := w.wire.StartFake(t, w.fleet.Host(from))
	w.mute[from], w.boxes[from] = stop, agent.Outbox()
	w.until("the host is back and off maintenance", func(v store.View) bool {
		return recoveryOf(v, from).Status == cloud.RecoveryReturned && !member(v, from).Maintenance
	})
	if why := Excused(w.store.View(), from); why != "" {
		t.Errorf("the next failure of the host would be left: %s", why)
	}
	w.sound()
}

// TestAMonitorThatIsWrongAboutAHostHarmsNobody: the host is heard. It is neither dead nor on maintenance, and the news is ignored once it is old.
func TestAMonitorThatIsWrongAboutAHostHarmsNobody(t *testing.T) {
	w := newWorld(t, "h1", "h2", "h3")
	w.control(func(o *Options) { o.Pulses = w.heard })
	w.write(func(tx *store.Tx) error {
		return store.Put(tx, tables.SegmentHosts, "h1", cloud.SegmentHost{ID: "m", Name: "h1", Segment: "seg"})
	})
	w.reports("fresh", "h1", time.Now().UTC())
	w.reports("old", "h1", time.Now().UTC().Add(-hostJudgedWithin-time.Second))
	w.until("the old news is ignored, the fresh is looked into", func(v store.View) bool {
		old, _ := store.Lookup(v, tables.Notifications, cloud.NotificationID("old"))
		fresh, _ := store.Lookup(v, tables.Notifications, cloud.NotificationID("fresh"))
		return old.Status == cloud.NotificationIgnored && fresh.Status == cloud.NotificationRunning
	})
	v := w.store.View()
	if store.Count(v, tables.Recoveries) > 0 || member(v, "h1").Maintenance {
		t.Errorf("recoveries: %d, host %+v", store.Count(v, tables.Recoveries), member(v, "h1"))
	}
}

// TestWhatAPersonSaysOfMaintenanceStands: a recovery neither takes a person's maintenance away nor hides behind its own.
func TestWhatAPersonSaysOfMaintenanceStands(t *testing.T) {
	for name, c := range map[string]struct {
		before       cloud.SegmentHost
		begins, over bool
		want         cloud.SegmentHost
		excused      bool
	}{
		"it begins":                         {cloud.SegmentHost{}, true, false, cloud.SegmentHost{Maintenance: true, Recovering: "r"}, false},
		"a person took it off meanwhile":    {cloud.SegmentHost{}, false, false, cloud.SegmentHost{}, false},
		"the host is back":                  {cloud.SegmentHost{Maintenance: true, Recovering: "r"}, false, true, cloud.SegmentHost{}, false},
		"a person's, before":                {cloud.SegmentHost{Maintenance: true}, true, false, cloud.SegmentHost{Maintenance: true}, true},
		"a person's, since, and it is back": {cloud.SegmentHost{Maintenance: true}, false, true, cloud.SegmentHost{Maintenance: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "h1")
			rec := cloud.Recovery{ID: "r", Host: "h1", Status: cloud.RecoveryRunning}
			if c.over {
				rec.Status = cloud.RecoveryReturned
			}
			c.before.Name, c.want.Name = "h1", "h1"
			w.write(func(tx *store.Tx) error {
				if err := store.Put(tx, tables.SegmentHosts, "h1", c.before); err != nil {
					return err
				}
				return retreat(tx, &rec, c.begins, time.Now())
			})
			v := w.store.View()
			got := member(v, "h1")
			if got.Updated = (time.Time{}); got != c.want || (Excused(v, "h1") != "") != c.excused {
				t.Errorf("%+v, excused by %q; want %+v", got, Excused(v, "h1"), c.want)
			}
		})
	}
}
