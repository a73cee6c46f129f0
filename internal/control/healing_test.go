package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/healing"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// quickHealing restarts twice with hardly a pause, then starts elsewhere.
func quickHealing(o *Options) {
	p := healing.Default()
	p.Rule, p.BackoffFirst = healing.Rule{InPlaceMax: 2, ElsewhereMax: 1}, time.Millisecond
	o.Healing = p
}

// fail reports the n-th failure of a server that has ended on its host, as an agent does. The fake host's process is left to the test.
func (w *world) fail(id cloud.ServerID, n int64) {
	w.t.Helper()
	s := w.server(id)
	state, err := w.fleet.Host(s.Host).Inspect(w.t.Context(), &hostpb.InspectRequest{ServerId: string(id)})
	if err != nil {
		w.t.Fatal(err)
	}
	state.Domain, state.Reason, state.Seq = hostpb.DomainState_DOMAIN_STATE_CRASHED, "crashed", state.Seq+1000*n
	state.Failure, state.FailureNumber, state.FailureDetail = hostpb.GuestFailure_GUEST_FAILURE_PANICKED, n, "the guest's kernel panicked"
	w.boxes[s.Host].PutObservation(state)
}

// runsAgain reports that the server runs on its host without a failure.
func (w *world) runsAgain(id cloud.ServerID, n int64) {
	w.t.Helper()
	s := w.server(id)
	state, err := w.fleet.Host(s.Host).Inspect(w.t.Context(), &hostpb.InspectRequest{ServerId: string(id)})
	if err != nil {
		w.t.Fatal(err)
	}
	state.Domain, state.FailureNumber, state.Seq = hostpb.DomainState_DOMAIN_STATE_RUNNING, n, state.Seq+1000*n+500
	w.boxes[s.Host].PutObservation(state)
}

func (w *world) healed(id cloud.ServerID, tries int) *cloud.Healing {
	w.t.Helper()
	var out *cloud.Healing
	w.until("the server is healed", func(v store.View) bool {
		h, ok := store.Lookup(v, tables.Healings, id)
		out = h
		return ok && h.Status == cloud.HealDone && len(h.Tries) == tries
	})
	return out
}

func TestAFailedGuestIsRestartedAndItsNotificationTellsTheStory(t *testing.T) {
	w := newWorld(t, "h1")
	w.control(quickHealing)
	w.boot("s1", 256)
	w.idle()
	w.fail("s1", 1)
	h := w.healed("s1", 1)
	if h.Tries[0].Elsewhere || h.Failure != cloud.FailurePanicked {
		t.Errorf("healed by %+v", h)
	}
	n, ok := store.Lookup(w.store.View(), tables.Notifications, h.Notification)
	if !ok || n.Status != cloud.NotificationFinished || n.Type != cloud.NotifyVM || n.Payload["generated_by"] != generatedBy || len(n.Details) < 2 {
		t.Errorf("notification %+v", n)
	}
	w.until("an instance action tells of it", func(v store.View) bool { // events are written behind what they tell of
		return slices.ContainsFunc(store.All(v, tables.Actions), func(a *cloud.Action) bool {
			return a.Server == "s1" && a.Name == "reboot" && len(a.Events) > 1 && a.Events[0].Name == "guest_failure"
		})
	})
	w.running("s1")
	w.sound()
}

func TestAGuestThatKeepsFailingIsStartedElsewhereAndNeverRunsTwice(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(quickHealing)
	w.boot("s1", 256)
	w.idle()
	s := w.server("s1")
	s.Metadata = map[string]string{cloud.MetaRecoveryRebuild: "on"}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, s.ID, s) })
	for n := range int64(2) {
		w.fail("s1", n+1)
		w.healed("s1", int(n)+1)
		w.runsAgain("s1", n+1)
		w.until("it is seen to run", func(v store.View) bool {
			o, ok := store.Lookup(v, tables.Observations, tables.ObservationKey(s.Host, "s1"))
			return ok && o.Failure == "" && o.FailureNumber == n+1
		})
	}
	w.fail("s1", 3)
	h := w.healed("s1", 3)
	if at := w.server("s1").Host; !h.Tries[2].Elsewhere || at == s.Host {
		t.Errorf("on %s after %+v", at, h.Tries)
	}
	w.running("s1")
	w.sound()
}

func TestAMonitorsWordIsFollowedOnlyWhereItIsTrue(t *testing.T) {
	w := newWorld(t, "h1")
	w.control(quickHealing)
	w.boot("s1", 256)
	w.idle()
	now := time.Now().UTC()
	note := func(id cloud.NotificationID, n cloud.Notification) {
		n.ID, n.Host, n.Status, n.Created, n.Generated = id, "h1", cloud.NotificationNew, now, now
		w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Notifications, id, n) })
	}
	ends := func(id cloud.NotificationID, as cloud.NotificationStatus) {
		t.Helper()
		w.until(string(id)+" is "+string(as), func(v store.View) bool {
			n, _ := store.Lookup(v, tables.Notifications, id)
			return n.Status == as
		})
	}
	stopped := map[string]any{"event": "LIFECYCLE", "vir_domain_event": "STOPPED_FAILED"}
	note("started", cloud.Notification{Type: cloud.NotifyHost, Payload: map[string]any{"event": "STARTED"}})
	ends("started", cloud.NotificationFinished)
	note("restarted", cloud.Notification{Type: cloud.NotifyProcess, Payload: map[string]any{"event": "STARTED", "process_name": "libvirtd"}})
	ends("restarted", cloud.NotificationFinished)
	note("unknown", cloud.Notification{Type: cloud.NotifyVM, Server: "nobody", Payload: stopped})
	ends("unknown", cloud.NotificationIgnored)
	w.runsAgain("s1", 0)
	note("rebooted", cloud.Notification{Type: cloud.NotifyVM, Server: "s1", Payload: map[string]any{"event": "REBOOT", "vir_domain_event": "REBOOT"}})
	ends("rebooted", cloud.NotificationIgnored)
	note("vm", cloud.Notification{Type: cloud.NotifyVM, Server: "s1", Payload: stopped})
	ends("vm", cloud.NotificationFinished)
	if h, _ := store.Lookup(w.store.View(), tables.Healings, "s1"); h.Failure != cloud.FailureReported || h.Notification != "vm" {
		t.Errorf("healing %+v", h)
	}
	w.running("s1")
	w.sound()
}

func TestAHostOnMaintenanceIsLeftAlone(t *testing.T) {
	w := newWorld(t, "h1")
	w.control(quickHealing)
	w.boot("s1", 256)
	w.idle()
	w.write(func(tx *store.Tx) error {
		return store.Put(tx, tables.SegmentHosts, "h1", cloud.SegmentHost{ID: "m", Name: "h1", Segment: "seg", Maintenance: true})
	})
	w.fail("s1", 1)
	w.until("it is left", func(v store.View) bool {
		h, ok := store.Lookup(v, tables.Healings, "s1")
		return ok && h.Status == cloud.HealLeft && len(h.Tries) == 0
	})
}

func TestAHostWhoseProcessStoppedTakesNoNewServersAndIsOnMaintenance(t *testing.T) {
	w := newWorld(t, "h1")
	w.control(quickHealing)
	w.boot("s1", 256)
	w.idle()
	w.write(func(tx *store.Tx) error {
		return store.Put(tx, tables.SegmentHosts, "h1", cloud.SegmentHost{ID: "m", Name: "h1", Segment: "seg"})
	})
	for _, id := range []cloud.NotificationID{"first", "again"} {
		n := cloud.Notification{ID: id, Type: cloud.NotifyProcess, Host: "h1", Status: cloud.NotificationNew, Created: time.Now(), Generated: time.Now(),
			Payload: map[string]any{"event": "STOPPED", "process_name": "libvirtd"}}
		w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Notifications, id, n) })
		w.until(string(id)+" is dealt with", func(v store.View) bool {
			n, _ := store.Lookup(v, tables.Notifications, id)
			return n.Status == cloud.NotificationFinished
		})
	}
	host, _ := store.Lookup(w.store.View(), tables.Hosts, cloud.HostName("h1"))
	member, _ := store.Lookup(w.store.View(), tables.SegmentHosts, cloud.HostName("h1"))
	again, _ := store.Lookup(w.store.View(), tables.Notifications, cloud.NotificationID("again"))
	if !host.Disabled || !member.Maintenance || len(again.Details) != 1 || !strings.Contains(again.Details[0].Message, "libvirtd as it is already disabled") {
		t.Errorf("host %+v, member %+v, the same news again: %+v", host, member, again.Details)
	}
	w.running("s1")
}
