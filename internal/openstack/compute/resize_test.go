package compute

import (
	"fmt"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestColdMigrationWritesAnOrderByMicroversion(t *testing.T) {
	for _, c := range []struct {
		minor  int
		ask    any
		target cloud.HostName
	}{
		{1, nil, ""}, {55, m{"host": "compute-2"}, ""}, {56, nil, ""}, {56, m{"host": "compute-2"}, "compute-2"}, {95, m{"host": "compute-2"}, "compute-2"},
	} {
		w := newSite(t)
		s := w.addServer(1, "compute-1")
		w.want(202, "admin", c.minor, "POST", "/servers/"+string(s.ID)+"/action", m{"migrate": c.ask})
		moves, intents := w.moves(s.ID), w.intents(s.ID)
		if len(moves) != 1 || len(intents) != 1 {
			t.Fatalf("2.%d: %d migrations, %d intents", c.minor, len(moves), len(intents))
		}
		mig, i, got := moves[0], intents[0], w.server(s.ID)
		if mig.Type != "migration" || mig.AskedTarget != c.target || mig.Source != "compute-1" || mig.NewFlavor.ID != s.Flavor.ID || mig.SameHost {
			t.Errorf("2.%d: migration %+v", c.minor, mig)
		}
		if i.Kind != cloud.IntentColdMove || i.Migration != mig.ID || got.Task != cloud.TaskResizePrep || got.Resize == nil || got.Resize.OldState != cloud.VMActive {
			t.Errorf("2.%d: intent %+v, server %q %+v", c.minor, i, got.Task, got.Resize)
		}
		if a, ok := store.Lookup(w.store, tables.Actions, tables.ActionKey(s.ID, i.RequestID)); !ok || a.Name != "migrate" {
			t.Errorf("2.%d: action %+v", c.minor, a)
		}
	}
}

func TestColdMovesAreRefusedInNovasWords(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	for _, c := range []struct {
		as      string
		minor   int
		body    m
		status  int
		message string
	}{
		{"ann", 95, m{"migrate": nil}, 403, "Policy doesn't allow"},
		{"admin", 56, m{"migrate": m{"host": "nowhere"}}, 400, "Compute host nowhere could not be found."},
		{"admin", 56, m{"migrate": m{"host": "compute-1"}}, 400, "Cannot migrate to the host where the server exists."},
		{"admin", 56, m{"migrate": m{}}, 400, "'host' is a required property"},
		{"ann", 95, m{"resize": m{"flavorRef": "99"}}, 400, "Flavor 99 could not be found."},
		{"ann", 95, m{"resize": m{"flavorRef": string(s.Flavor.ID)}}, 400, "When resizing, instances must change flavor!"},
		{"ann", 95, m{"resize": m{}}, 400, "'flavorRef' is a required property"},
		{"ann", 95, m{"confirmResize": nil}, 409, fmt.Sprintf("Cannot 'confirmResize' instance %s while it is in vm_state active", s.ID)},
		{"ann", 95, m{"revertResize": nil}, 409, fmt.Sprintf("Cannot 'revertResize' instance %s while it is in vm_state active", s.ID)},
	} {
		w.refused(c.status, c.message, c.as, c.minor, "POST", path, c.body)
	}
	w.settle(s.ID, func(s *cloud.Server) { s.VMState = cloud.VMError })
	w.refused(409, fmt.Sprintf("Cannot 'migrate' instance %s while it is in vm_state error", s.ID), "admin", 95, "POST", path, m{"migrate": nil})
	w.settle(s.ID, func(s *cloud.Server) { s.VMState, s.Locked = cloud.VMActive, true })
	w.refused(409, "is locked", "ann", 95, "POST", path, m{"resize": m{"flavorRef": "2"}})
	w.settle(s.ID, func(s *cloud.Server) { s.Locked = false })
	w.down("compute-1")
	w.refused(409, "Service is unavailable at this time.", "admin", 95, "POST", path, m{"migrate": nil})
	if got := w.server(s.ID); got.Task != cloud.TaskNone || got.Resize != nil || len(w.moves(s.ID)) != 0 {
		t.Errorf("refusals left traces: task %q, %+v", got.Task, got.Resize)
	}
}

func TestAResizeIsChargedWithTheGreaterFlavorAndMayBeDecidedOnce(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	large := cloud.Flavor{ID: "77", Name: "wide", VCPUs: s.Flavor.VCPUs + 3, RAMMiB: s.Flavor.RAMMiB, RootGiB: s.Flavor.RootGiB, Public: true}
	w.change(func(tx *store.Tx) error { return store.Put(tx, tables.Flavors, large.ID, large) })
	used := func() int {
		u, ok := store.Lookup(w.store, tables.QuotaUsages, s.Project)
		if !ok {
			return 0
		}
		return u.Cores
	}
	before := used()
	w.want(202, "ann", 95, "POST", path, m{"resize": m{"flavorRef": "77"}})
	if used() != before+3 {
		t.Errorf("%d cores are charged, %d were before", used(), before)
	}
	w.refused(409, "task_state resize_prep", "ann", 95, "POST", path, m{"resize": m{"flavorRef": "77"}})
	mig := w.moves(s.ID)[0]
	w.settle(s.ID, func(s *cloud.Server) { s.VMState, s.Task = cloud.VMResized, cloud.TaskNone })
	w.refused(400, "Instance has not been resized.", "ann", 95, "POST", path, m{"confirmResize": nil})
	w.change(func(tx *store.Tx) error {
		done := *mig
		done.Status = cloud.MigrationFinished
		return store.Put(tx, tables.Migrations, done.ID, done)
	})
	if got := statusOf(w.server(s.ID)); got != "VERIFY_RESIZE" {
		t.Errorf("its owner sees %s", got)
	}
	w.want(204, "ann", 95, "POST", path, m{"confirmResize": nil})
	w.refused(409, "task_state resize_confirming", "ann", 95, "POST", path, m{"revertResize": nil})
}

func TestAResizeBeyondTheQuotaIsForbidden(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	huge := cloud.Flavor{ID: "78", Name: "huge", VCPUs: 4000, RAMMiB: s.Flavor.RAMMiB, RootGiB: s.Flavor.RootGiB, Public: true}
	w.change(func(tx *store.Tx) error { return store.Put(tx, tables.Flavors, huge.ID, huge) })
	w.refused(403, "Quota exceeded for cores", "ann", 95, "POST", "/servers/"+string(s.ID)+"/action", m{"resize": m{"flavorRef": "78"}})
}
