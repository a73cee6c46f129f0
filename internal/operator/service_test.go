package operator

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// routes are all that need a token, with an administrator's path.
var routes = []struct{ method, path, body string }{
	{"GET", "/migrations", ""},
	{"GET", "/migrations/1", ""},
	{"GET", "/servers/x/decisions", ""},
	{"POST", "/servers/x/migrate-plan", "{}"},
	{"GET", "/hosts", ""},
	{"GET", "/hosts/a", ""},
	{"GET", "/events", ""},
}

func TestOnlyAdministratorsComeIn(t *testing.T) {
	w := newWorld(t)
	for _, route := range routes {
		for _, token := range []string{"", "forged"} {
			w.refused(http.StatusUnauthorized, route.method, Root+route.path, token, route.body)
		}
		f := w.refused(http.StatusForbidden, route.method, Root+route.path, memberToken, route.body)
		if f.Error.Kind != "forbidden" || !strings.Contains(f.Error.Message, "admin") || !strings.HasPrefix(f.Error.RequestID, "req-") {
			t.Errorf("%s %s: %+v", route.method, route.path, f)
		}
	}
	w.refused(http.StatusUnauthorized, "GET", Root+"/version", "", "")
	if code, text := w.call("GET", Root+"/version", memberToken, ""); code != http.StatusOK {
		t.Errorf("everybody with a token may know the version: %d %s", code, text)
	}
}

func TestFaultsAreOfOneShape(t *testing.T) {
	w := newWorld(t)
	w.hosts("a")
	s := w.guest("web", "a")
	plan := Root + "/servers/" + string(s.ID) + "/migrate-plan"
	tests := []struct {
		code               int
		kind               string
		method, path, body string
	}{
		{404, "not found", "GET", Root + "/migrations/7", ""},
		{404, "not found", "GET", Root + "/hosts/nowhere", ""},
		{404, "not found", "GET", Root + "/servers/nobody/decisions", ""},
		{404, "not found", "POST", Root + "/servers/nobody/migrate-plan", "{}"},
		{404, "not found", "POST", plan, `{"host": "nowhere"}`},
		{404, "not found", "GET", Root + "/nothing", ""},
		{405, "method not allowed", "DELETE", Root + "/hosts", ""},
		{400, "invalid", "GET", Root + "/migrations?status=done", ""},
		{400, "invalid", "GET", Root + "/migrations?sever=x", ""},
		{400, "invalid", "GET", Root + "/migrations?marker=x", ""},
		{400, "bad request", "GET", Root + "/migrations?limit=-1", ""},
		{400, "invalid", "GET", Root + "/hosts?limit=1", ""},
		{400, "invalid", "POST", plan, ""},
		{400, "invalid", "POST", plan, `{"kind": "volume"}`},
		{400, "invalid", "POST", plan, `{"hsot": "a"}`},
		{413, "too large", "POST", plan, `{"host": "` + strings.Repeat("x", 2<<20) + `"}`},
	}
	for _, tt := range tests {
		if f := w.refused(tt.code, tt.method, tt.path, adminToken, tt.body); f.Error.Kind != tt.kind {
			t.Errorf("%s %s %.40s: %+v, want kind %q", tt.method, tt.path, tt.body, f, tt.kind)
		}
	}
}

func TestIndexIsForEverybodyAndSaysWhatThisIs(t *testing.T) {
	w := newWorld(t)
	code, text := w.call("GET", "/godwit", "", "")
	if code != http.StatusOK || !strings.Contains(string(text), `"name":"godwit"`) || !strings.Contains(string(text), w.server.URL+"/godwit/v1/hosts") {
		t.Errorf("%d %s", code, text)
	}
}

func TestVersion(t *testing.T) {
	w := newWorld(t)
	got := get[map[string]Version](w, Root+"/version")["version"]
	if got.Version != "1.2.3" || got.API != "v1" || got.Go == "" || got.Revision == 0 {
		t.Errorf("got %+v", got)
	}
}

func numbers(list []Migration) (out []int) {
	for _, m := range list {
		out = append(out, m.Number)
	}
	return out
}

func TestMigrationsAreListedNewestFirstAndFiltered(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b", "c")
	one, two := w.guest("one", "a"), w.guest("two", "b")
	var ids []string
	for i, status := range []cloud.MigrationStatus{cloud.MigrationCompleted, cloud.MigrationFailed, cloud.MigrationCompleted} {
		ids = append(ids, string(w.move(i+1, one, "b", status).ID))
	}
	running := w.move(4, two, "c", cloud.MigrationRunning)
	w.put(func(tx *store.Tx) error {
		return store.Put(tx, tables.Progress, running.ID, cloud.MigrationProgress{Migration: running.ID, Server: two.ID, Seq: 9})
	})
	type page struct {
		Migrations []Migration
		More       bool
	}
	tests := []struct {
		query string
		want  string
		more  bool
	}{
		{"", "[4 3 2 1]", false},
		{"?server=" + string(one.ID), "[3 2 1]", false},
		{"?server=" + string(one.ID) + "&status=completed", "[3 1]", false},
		{"?status=unfinished", "[4]", false},
		{"?host=a", "[3 2 1]", false},
		{"?host=b", "[4 3 2 1]", false},
		{"?host=c&server=" + string(one.ID), "[]", false},
		{"?limit=2", "[4 3]", true},
		{"?limit=2&marker=" + ids[2], "[2 1]", false},
		{"?server=nobody", "[]", false},
	}
	for _, tt := range tests {
		got := get[page](w, Root+"/migrations"+tt.query)
		if text, _ := json.Marshal(numbers(got.Migrations)); strings.ReplaceAll(strings.ReplaceAll(string(text), ",", " "), "null", "[]") != tt.want || got.More != tt.more {
			t.Errorf("%s: got %s, more %v; want %s", tt.query, text, got.More, tt.want)
		}
	}
	if got := get[page](w, Root+"/migrations?limit=1").Migrations[0]; got.Progress == nil || got.Progress.Seq != 9 || got.ServerName != "two" {
		t.Errorf("a running migration comes with its figures: %+v", got)
	}
}

func TestMigrationIsShownAsTheRecordItself(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b")
	m := w.move(5, w.guest("web", "a"), "b", cloud.MigrationCompleted)
	m.Phases = []cloud.Phase{{Name: "copy", Began: epoch, Took: time.Second}}
	w.save(m)
	for _, id := range []string{string(m.ID), "5"} {
		got := get[struct{ Migration cloud.Migration }](w, Root+"/migrations/"+id).Migration
		if got.ID != m.ID || got.Totals == nil || *got.Totals != *m.Totals || len(got.Phases) != 1 || got.Phases[0].Took != time.Second || !got.Finished.Equal(m.Finished) {
			t.Errorf("%s: got %+v", id, got)
		}
	}
}

func TestDecisionsComeNewestFirstAndOutliveTheServer(t *testing.T) {
	w := newWorld(t)
	w.hosts("a")
	s := w.guest("web", "a")
	type page struct{ Decisions []cloud.Decision }
	path := Root + "/servers/" + string(s.ID) + "/decisions"
	if got := get[page](w, path).Decisions; got == nil || len(got) != 0 {
		t.Errorf("a server without decisions: %v", got)
	}
	w.put(func(tx *store.Tx) error {
		for i, purpose := range []string{"boot", "migrate", "migrate"} {
			d := cloud.Decision{Server: s.ID, Intent: cloud.IntentID(uuid.NewString()), Purpose: purpose, Chosen: "a", At: epoch.Add(time.Duration(i) * time.Hour),
				Verdicts: []cloud.Verdict{{Host: "a", Fits: true, Score: 2.5}}}
			if err := store.Put(tx, tables.Decisions, tables.DecisionKey(s.ID, d.Intent), d); err != nil {
				return err
			}
		}
		return nil
	})
	w.put(func(tx *store.Tx) error { return store.Delete(tx, tables.Servers, s.ID) })
	got := get[page](w, path).Decisions
	if len(got) != 3 || got[2].Purpose != "boot" || !got[0].At.After(got[1].At) || got[0].Verdicts[0].Score != 2.5 {
		t.Errorf("got %+v", got)
	}
	if got := get[page](w, path+"?limit=1").Decisions; len(got) != 1 || !got[0].At.Equal(epoch.Add(2*time.Hour)) {
		t.Errorf("the newest: %+v", got)
	}
}

func TestHostsShowEverythingInOneRow(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b", "c", "d")
	s := w.guest("web", "a")
	m := w.move(1, s, "b", cloud.MigrationRunning)
	w.move(2, s, "c", cloud.MigrationFailed)
	w.put(func(tx *store.Tx) error {
		if err := store.Delete(tx, tables.HostSessions, cloud.HostName("c")); err != nil {
			return err
		}
		forced, err := store.Get(tx, tables.Hosts, cloud.HostName("d"))
		if err != nil {
			return err
		}
		forced.ForcedDown = true
		return store.Put(tx, tables.Hosts, forced.Name, forced)
	})
	list := get[struct{ Hosts []Host }](w, Root+"/hosts").Hosts
	if len(list) != 4 {
		t.Fatalf("got %d hosts", len(list))
	}
	a := list[0]
	if a.Name != "a" || a.State != HostUp || a.AvailabilityZone != "nova" || a.Report == nil || a.Session == nil || a.Servers != 1 || a.MovesOut != 1 || a.MovesIn != 0 {
		t.Errorf("got %+v", a)
	}
	want := Room{Capacity: cloud.Resources{VCPUs: 32, RAMMiB: 15872, DiskGiB: 100}, Claimed: cloud.Resources{VCPUs: 1, RAMMiB: 256, DiskGiB: 1},
		Free: cloud.Resources{VCPUs: 31, RAMMiB: 15616, DiskGiB: 99}}
	if a.Room != want {
		t.Errorf("room: got %+v, want %+v", a.Room, want)
	}
	if b := list[1]; b.MovesIn != 1 || b.MovesOut != 0 || b.Servers != 0 {
		t.Errorf("the target: %+v", b)
	}
	if c, d := list[2], list[3]; c.State != HostDown || c.Session != nil || d.State != HostForcedDown || d.Session == nil || c.MovesIn != 0 {
		t.Errorf("down %+v, forced down %+v", c, d)
	}
	detail := get[struct{ Host HostDetail }](w, Root+"/hosts/a").Host
	if detail.Name != "a" || detail.Claims[string(s.ID)].Resources.RAMMiB != 256 || len(detail.Migrations) != 1 || detail.Migrations[0].ID != m.ID {
		t.Errorf("detail: %+v", detail)
	}
}

// TestSpareRoomIsShownAsTheLeaderJudgedIt, and a stream that begins while the fleet is short says so first.
func TestSpareRoomIsShownAsTheLeaderJudgedIt(t *testing.T) {
	w := newWorld(t)
	type answer struct {
		Room cloud.SpareRoom `json:"spare_room"`
	}
	if got := get[answer](w, Root+"/spare-room").Room; got.Hosts != 0 || got.Short() {
		t.Errorf("before anything was judged: %+v", got)
	}
	noon := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	room := cloud.SpareRoom{Hosts: 1, Lost: []cloud.HostName{"a"}, Servers: 3, Homeless: 1, Missing: cloud.Resources{VCPUs: 1, RAMMiB: 512}, Since: noon,
		Named: []cloud.SpareServer{{Server: "s", Host: "a", Reason: "b: memory"}}}
	put := func() {
		w.put(func(tx *store.Tx) error { return store.Put(tx, tables.SpareRooms, tables.SpareRoomKey, room) })
	}
	put()
	if got := get[answer](w, Root+"/spare-room").Room; got.Homeless != 1 || len(got.Named) != 1 || !got.Since.Equal(noon) {
		t.Errorf("%+v", got)
	}
	in := w.listen("", adminToken)
	first := in.until(EventReady)
	if got := names(first); got != "spare-room ready" {
		t.Fatalf("a stream began with %q", got)
	}
	room.Homeless, room.Named = 0, nil
	put()
	if got := decode[cloud.SpareRoom](in, in.until(EventSpareRoom)[0]); got.Short() {
		t.Errorf("there is room again: %+v", got)
	}
}
