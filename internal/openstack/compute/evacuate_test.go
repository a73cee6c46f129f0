package compute

import (
	"fmt"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// evacuateAsk is a body of the action.
func evacuateAsk(ask m) m { return m{"evacuate": ask} }

func TestEvacuateWritesAnOrderByMicroversion(t *testing.T) {
	for _, c := range []struct {
		minor   int
		ask     m
		target  cloud.HostName
		force   bool
		rebuild bool
		stopped bool
	}{
		{1, m{"onSharedStorage": "False"}, "", false, true, false},
		{13, m{"host": "compute-2", "onSharedStorage": false}, "compute-2", true, true, false},
		{14, m{}, "", false, true, false},
		{14, m{"host": "compute-2"}, "compute-2", true, true, false},
		{29, m{"host": "compute-2"}, "compute-2", false, true, false},
		{29, m{"host": "compute-2", "force": true}, "compute-2", true, true, false},
		{68, m{"host": "compute-2"}, "compute-2", false, true, false},
		{95, m{}, "", false, true, true},
	} {
		w := newSite(t)
		s := w.addServer(1, "compute-1")
		w.down("compute-1")
		w.fenceable("compute-1")
		if r := w.want(200, "admin", c.minor, "POST", "/servers/"+string(s.ID)+"/action", evacuateAsk(c.ask)); len(r.text) != 0 {
			t.Errorf("2.%d answers %s", c.minor, r.text)
		}
		intents, moves := w.intents(s.ID), w.moves(s.ID)
		if len(intents) != 1 || len(moves) != 1 {
			t.Fatalf("2.%d: %d intents, %d migrations", c.minor, len(intents), len(moves))
		}
		i, mig := intents[0], moves[0]
		if i.Kind != cloud.IntentEvacuate || i.Migration != mig.ID || i.Rebuild != c.rebuild || i.Stopped != c.stopped {
			t.Errorf("2.%d: intent %+v", c.minor, i)
		}
		if mig.Type != "evacuation" || mig.Source != "compute-1" || mig.AskedTarget != c.target || mig.Force != c.force || mig.Status != cloud.MigrationQueued || mig.Intent != i.ID {
			t.Errorf("2.%d: migration %+v", c.minor, mig)
		}
		if got := w.server(s.ID); got.Task != cloud.TaskRebuilding {
			t.Errorf("2.%d: task %q", c.minor, got.Task)
		}
		if a, ok := store.Lookup(w.store, tables.Actions, tables.ActionKey(s.ID, i.RequestID)); !ok || a.Name != "evacuate" {
			t.Errorf("2.%d: action %+v", c.minor, a)
		}
	}
}

func TestEvacuateRefusesInNovasWords(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	w.refused(400, "Compute service of compute-1 is still in use.", "admin", 95, "POST", path, evacuateAsk(m{}))
	w.down("compute-1")
	for _, c := range []struct {
		as      string
		minor   int
		ask     any
		status  int
		message string
	}{
		{"ann", 95, m{}, 403, "Policy doesn't allow"},
		{"admin", 95, m{"host": "nowhere"}, 404, "Compute host nowhere not found."},
		{"admin", 95, m{"host": "compute-1"}, 400, "The target host can't be the same one."},
		{"admin", 13, m{}, 400, "'onSharedStorage' is a required property"},
		{"admin", 14, m{"onSharedStorage": true}, 400, "('onSharedStorage' was unexpected)"},
		{"admin", 28, m{"host": "compute-2", "force": true}, 400, "('force' was unexpected)"},
		{"admin", 29, m{"force": true}, 400, "Can't force to a non-provided destination"},
		{"admin", 68, m{"host": "compute-2", "force": true}, 400, "('force' was unexpected)"},
		{"admin", 95, m{"adminPass": "x"}, 400, "adminPass"},
		{"admin", 13, m{"onSharedStorage": true}, 400, "With onSharedStorage=False it is made anew from its image."},
		{"admin", 95, nil, 400, "None is not of type 'object'"},
	} {
		w.refused(c.status, c.message, c.as, c.minor, "POST", path, m{"evacuate": c.ask})
	}
	if got := w.server(s.ID); got.Task != cloud.TaskNone || len(w.moves(s.ID)) != 0 || len(w.intents(s.ID)) != 0 {
		t.Errorf("refusals left traces: task %q, %v, %v", got.Task, w.moves(s.ID), w.intents(s.ID))
	}
	w.refused(409, "nothing proves that host compute-1 is off, and it may still run the server", "admin", 95, "POST", path, evacuateAsk(m{}))
	w.fenceable("compute-1")
	w.want(200, "admin", 95, "POST", path, evacuateAsk(m{}))
	w.refused(409, fmt.Sprintf("Cannot 'evacuate' instance %s while it is in task_state rebuilding", s.ID), "admin", 95, "POST", path, evacuateAsk(m{}))
}

// fenceable says how the host is turned off.
func (w *site) fenceable(host cloud.HostName) {
	w.Helper()
	w.change(func(tx *store.Tx) error {
		return store.Put(tx, tables.BMCs, host, cloud.BMC{Host: host, Protocol: "ipmi", Address: "192.0.2.1:623"})
	})
}

// A forced-down host is down, whatever its agent says.
func TestAServerOfAForcedDownHostMayBeEvacuated(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	w.change(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, cloud.HostName("compute-1"))
		if err != nil {
			return err
		}
		h.ForcedDown = true
		return store.Put(tx, tables.Hosts, h.Name, h)
	})
	w.want(200, "admin", 95, "POST", "/servers/"+string(s.ID)+"/action", evacuateAsk(m{}))
}
