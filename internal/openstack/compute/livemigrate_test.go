package compute

import (
	"fmt"
	"sync"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// moveBody is the body of os-migrateLive as its microversion wants it.
func moveBody(minor int, host, block any, more ...m) m {
	b := m{"host": host, "block_migration": block}
	if minor < 25 {
		b["disk_over_commit"] = false
	}
	for _, add := range more {
		for k, v := range add {
			b[k] = v
		}
	}
	return m{"os-migrateLive": b}
}

func (w *site) moves(id cloud.ServerID) []*cloud.Migration {
	return store.By(w.store, tables.Migrations, tables.ByServer, id)
}

func TestLiveMigrateWritesMigrationIntentAndTask(t *testing.T) {
	w := newSite(t)
	for i, c := range []struct {
		minor int
		body  m
		kind  cloud.MigrationKind
		host  cloud.HostName
		force bool
	}{
		{1, moveBody(1, "compute-2", true), cloud.MigrateBlock, "compute-2", true},
		{1, moveBody(1, nil, "True"), cloud.MigrateBlock, "", false},
		{25, moveBody(25, "compute-2", "auto"), cloud.MigrateAuto, "compute-2", true},
		{30, moveBody(30, "compute-2", true), cloud.MigrateBlock, "compute-2", false},
		{30, moveBody(30, "compute-2", true, m{"force": true}), cloud.MigrateBlock, "compute-2", true},
		{34, moveBody(34, nil, "auto"), cloud.MigrateAuto, "", false},
		{68, moveBody(68, "compute-3", "auto"), cloud.MigrateAuto, "compute-3", false},
		{95, moveBody(95, nil, false), cloud.MigrateShared, "", false},
	} {
		s := w.addServer(i+1, "compute-1")
		r := w.want(202, "admin", c.minor, "POST", "/servers/"+string(s.ID)+"/action", c.body)
		if len(r.text) != 0 {
			t.Errorf("body %s", r.text)
		}
		moves, intents := w.moves(s.ID), w.intents(s.ID)
		if len(moves) != 1 || len(intents) != 1 {
			t.Fatalf("2.%d: migrations %+v, intents %+v", c.minor, moves, intents)
		}
		mig := moves[0]
		if mig.Asked != c.kind || mig.AskedTarget != c.host || mig.Force != c.force || mig.Source != "compute-1" || mig.Status != cloud.MigrationQueued ||
			mig.Number != i+1 || mig.Type != "live-migration" || mig.Intent != intents[0].ID || intents[0].Migration != mig.ID || intents[0].Kind != cloud.IntentMigrate {
			t.Errorf("2.%d: migration %+v, intent %+v", c.minor, mig, intents[0])
		}
		if w.server(s.ID).Task != cloud.TaskMigrating {
			t.Errorf("task %s", w.server(s.ID).Task)
		}
		if a, ok := store.Lookup(w.store, tables.Actions, tables.ActionKey(s.ID, r.header.Get("X-Compute-Request-Id"))); !ok || a.Name != "live-migration" {
			t.Errorf("action %+v", a)
		}
	}
}

func TestLiveMigrateRefusesInNovasWords(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	w.down("compute-3")
	w.change(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, cloud.HostName("compute-2"))
		if err != nil {
			return err
		}
		h.Disabled, h.DisabledReason = true, "maintenance"
		return store.Put(tx, tables.Hosts, h.Name, h)
	})
	for _, c := range []struct {
		minor   int
		body    m
		status  int
		message string
	}{
		{1, moveBody(1, "nowhere", true), 400, "Compute host nowhere could not be found."},
		{34, moveBody(34, "nowhere", true), 400, "Compute host nowhere could not be found."},
		{95, moveBody(95, "nowhere", true), 400, "Compute host nowhere could not be found."},
		{1, moveBody(1, "compute-1", true), 400, fmt.Sprintf("Unable to migrate instance (%s) to current host (compute-1).", s.ID)},
		{25, moveBody(25, "compute-3", true), 400, "Compute service of compute-3 is unavailable at this time."},
		{30, moveBody(30, "compute-2", true), 400, "No valid host was found."},
		{25, moveBody(25, nil, true), 400, "No valid host was found."},
		{25, moveBody(25, "compute-2", false), 400, "compute-1 is not on shared storage: Shared storage live-migration requires either shared storage or boot-from-volume with no local disks."},
		{25, moveBody(25, nil, false), 400, "compute-1 is not on shared storage"},
		{24, moveBody(24, nil, "auto"), 400, "'auto' is not one of [True, 'True'"},
		{25, moveBody(24, nil, true), 400, "Additional properties are not allowed ('disk_over_commit' was unexpected)"},
		{24, moveBody(25, nil, true), 400, "'disk_over_commit' is a required property"},
		{29, moveBody(29, "compute-2", true, m{"force": true}), 400, "('force' was unexpected)"},
		{30, moveBody(30, nil, true, m{"force": true}), 400, "Can't force to a non-provided destination"},
		{67, moveBody(67, nil, true, m{"force": "maybe"}), 400, "'maybe' is not one of"},
		{68, moveBody(68, "compute-2", true, m{"force": true}), 400, "Additional properties are not allowed ('force' was unexpected)"},
		{95, m{"os-migrateLive": m{"host": nil}}, 400, "'block_migration' is a required property"},
		{95, m{"os-migrateLive": m{"block_migration": true}}, 400, "'host' is a required property"},
		{95, moveBody(95, 7, true), 400, "7 is not of type 'string'"},
		{95, moveBody(95, "a b", true), 400, "'a b' does not match"},
		{95, moveBody(95, nil, "sometimes"), 400, "'sometimes' is not one of"},
		{95, m{"os-migrateLive": nil}, 400, "None is not of type 'object'"},
	} {
		w.refused(c.status, c.message, "admin", c.minor, "POST", path, c.body)
	}
	if got := w.server(s.ID); got.Task != cloud.TaskNone || len(w.moves(s.ID)) != 0 || len(w.intents(s.ID)) != 0 {
		t.Errorf("refusals left traces: task %q, %v, %v", got.Task, w.moves(s.ID), w.intents(s.ID))
	}
	// A named host is taken at the caller's word until 2.29, disabled or not.
	w.want(202, "admin", 25, "POST", path, moveBody(25, "compute-2", true))
	w.refused(409, fmt.Sprintf("Cannot 'os-migrateLive' instance %s while it is in task_state migrating", s.ID), "admin", 95, "POST", path, moveBody(95, nil, "auto"))
	w.settle(s.ID, func(s *cloud.Server) { s.VMState = cloud.VMStopped })
	w.refused(409, fmt.Sprintf("Cannot 'os-migrateLive' instance %s while it is in vm_state stopped", s.ID), "admin", 95, "POST", path, moveBody(95, nil, "auto"))
	// From 2.34 on what only a check can find out is found out in the background.
	other := w.addServer(2, "compute-1")
	w.want(202, "admin", 34, "POST", "/servers/"+string(other.ID)+"/action", moveBody(34, "compute-1", true))
}

// TestForceNeverReachesAHostThatCannotTakeTheGuest: the flow trusts force, so the edge must not.
func TestForceNeverReachesAHostThatCannotTakeTheGuest(t *testing.T) {
	w := newSite(t)
	w.down("compute-3")
	for i, body := range []m{
		moveBody(34, "compute-1", true, m{"force": true}), moveBody(34, "compute-3", true, m{"force": true}), moveBody(67, "compute-2", false, m{"force": true}),
	} {
		s := w.addServer(i+1, "compute-1")
		w.want(202, "admin", 34, "POST", "/servers/"+string(s.ID)+"/action", body)
		if mig := w.moves(s.ID)[0]; mig.Force {
			t.Errorf("%v: %+v", body, mig)
		}
	}
}

func TestLiveMigrateSaysWhichRoomIsShort(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	full := func(r cloud.Resources) {
		put(w, tables.Usages, cloud.HostName("compute-2"), cloud.Usage{Host: "compute-2", Claims: map[string]cloud.Claim{"x": {Server: "x", Resources: r}}})
	}
	full(cloud.Resources{RAMMiB: 7500})
	w.refused(400, fmt.Sprintf("Migration pre-check error: Unable to migrate %s to compute-2: Lack of memory(host:180 <= instance:512)", s.ID), "admin", 1, "POST",
		"/servers/"+string(s.ID)+"/action", moveBody(1, "compute-2", true))
	full(cloud.Resources{DiskGiB: 100})
	w.refused(400, fmt.Sprintf("Migration pre-check error: Unable to migrate %s: Disk of instance is too large(available on destination host:0 < need:1073741824)", s.ID), "admin", 1, "POST",
		"/servers/"+string(s.ID)+"/action", moveBody(1, "compute-2", true))
}

func TestOfManyLiveMigrationsAtOnceOneIsAccepted(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	var wg sync.WaitGroup
	codes := make([]int, 8)
	for i := range codes {
		wg.Go(func() {
			codes[i] = w.send("admin", 95, "POST", "/servers/"+string(s.ID)+"/action", moveBody(95, nil, "auto")).status
		})
	}
	wg.Wait()
	count := map[int]int{}
	for _, c := range codes {
		count[c]++
	}
	if count[202] != 1 || count[409] != 7 || len(w.moves(s.ID)) != 1 || len(w.intents(s.ID)) != 1 {
		t.Errorf("answers %v, migrations %d, intents %d", count, len(w.moves(s.ID)), len(w.intents(s.ID)))
	}
}

func TestMigrationsAreShownSteeredAndAborted(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	w.want(202, "admin", 95, "POST", "/servers/"+string(s.ID)+"/action", moveBody(95, "compute-2", "auto"))
	id := w.moves(s.ID)[0].ID
	path := "/servers/" + string(s.ID) + "/migrations"
	set := func(status cloud.MigrationStatus) {
		w.change(func(tx *store.Tx) error {
			mig, err := store.Get(tx, tables.Migrations, id)
			if err != nil {
				return err
			}
			mig.Status = status
			return store.Put(tx, tables.Migrations, id, mig)
		})
	}
	r := w.want(200, "admin", 95, "GET", path+"/1", nil)
	if r.at("migration", "memory_total_bytes") != nil || r.str("migration", "status") != "queued" || r.at("migration", "dest_compute") != nil {
		t.Errorf("queued: %s", r.text)
	}
	w.refused(400, fmt.Sprintf("Migration 1 state of instance %s is queued. Cannot abort live migration while the migration is in this state.", s.ID), "admin", 64, "DELETE", path+"/1", nil)
	w.refused(400, "Cannot force complete while the migration is in this state.", "admin", 95, "POST", path+"/1/action", m{"force_complete": nil})
	set(cloud.MigrationRunning)
	w.want(202, "admin", 22, "POST", path+"/1/action", m{"force_complete": nil})
	w.want(202, "admin", 24, "DELETE", path+"/1", nil)
	if mig := w.moves(s.ID)[0]; !mig.AbortAsked || !mig.CompleteAsked {
		t.Errorf("wishes %+v", mig)
	}
	set(cloud.MigrationPostCopy)
	w.refused(400, "is running (post-copy). Cannot abort live migration", "admin", 95, "DELETE", path+"/1", nil)
	w.refused(400, "{} is not of type 'null'", "admin", 22, "POST", path+"/1/action", m{"force_complete": m{}})
	w.refused(404, "Migration 9 not found for instance", "admin", 95, "DELETE", path+"/9", nil)
	w.refused(400, "Migration 9 not found for instance", "admin", 95, "POST", path+"/9/action", m{"force_complete": nil})
	w.refused(403, "Policy doesn't allow os_compute_api:servers:migrations:index", "ann", 95, "GET", path, nil)
	set(cloud.MigrationCompleted)
	w.refused(404, fmt.Sprintf("Live migration 1 for server %s is not in progress.", s.ID), "admin", 95, "GET", path+"/1", nil)
	w.refused(404, fmt.Sprintf("In-progress live migration x is not found for server %s.", s.ID), "admin", 95, "GET", path+"/x", nil)
	w.settle(s.ID)
	w.refused(409, fmt.Sprintf("Cannot 'abort live migration' instance %s while it is in task_state None", s.ID), "admin", 95, "DELETE", path+"/1", nil)
	if r := w.want(200, "admin", 95, "GET", path, nil); len(r.list("migrations")) != 0 {
		t.Errorf("in progress: %s", r.text)
	}
}

func TestMigrationListFiltersAndPages(t *testing.T) {
	w := newSite(t)
	for i := 1; i <= 5; i++ {
		s := w.addServer(i, hostNameOf(i%2+1))
		w.want(202, "admin", 95, "POST", "/servers/"+string(s.ID)+"/action", moveBody(95, nil, "auto"))
	}
	count := func(minor int, query string) int {
		return len(w.want(200, "admin", minor, "GET", "/os-migrations?"+query, nil).list("migrations"))
	}
	for _, c := range []struct {
		minor int
		query string
		want  int
	}{
		{1, "", 5}, {1, "host=compute-1", 2}, {1, "source_compute=compute-2", 3}, {1, "status=queued", 5}, {1, "status=done", 0}, {1, "hidden=1", 0},
		{1, "instance_uuid=" + string(serverID(3)), 1}, {1, "migration_type=resize", 0}, {1, "limit=2", 5}, {59, "limit=2", 2},
		{59, "changes-since=2030-01-01", 0}, {66, "changes-before=2030-01-01", 5}, {80, "user_id=admin", 5}, {80, "project_id=" + annProject, 0}, {1, "user_id=x", 5},
	} {
		if got := count(c.minor, c.query); got != c.want {
			t.Errorf("%s at 2.%d: %d, want %d", c.query, c.minor, got, c.want)
		}
	}
	r := w.want(200, "admin", 59, "GET", "/os-migrations?limit=2", nil)
	if r.list("migrations")[0]["id"] != 5.0 || r.body["migrations_links"] == nil {
		t.Errorf("first page %s", r.text)
	}
	last := fmt.Sprint(r.list("migrations")[1]["uuid"])
	if r := w.want(200, "admin", 59, "GET", "/os-migrations?limit=9&marker="+last, nil); len(r.list("migrations")) != 3 || r.list("migrations")[0]["id"] != 3.0 {
		t.Errorf("second page %s", r.text)
	}
	w.refused(400, "Marker none could not be found.", "admin", 59, "GET", "/os-migrations?marker=none", nil)
	w.refused(400, "must be less than or equal to changes-before", "admin", 66, "GET", "/os-migrations?changes-since=2026-03-05&changes-before=2026-03-04", nil)
}
