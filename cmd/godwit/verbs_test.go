package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// furnished is a cloud with something to see.
func furnished(t *testing.T) (*testCloud, cloud.Server) {
	t.Helper()
	c := newTestCloud(t)
	c.hosts(3)
	c.volumeServices()
	c.put(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, cloud.HostName("compute-3"))
		if err != nil {
			return err
		}
		h.Disabled, h.DisabledReason = true, "new memory"
		return store.Put(tx, tables.Hosts, h.Name, h)
	})
	web := c.guest(1, "web", "compute-1", "")
	db := c.guest(2, "db", "compute-1", "")
	c.guest(3, "theirs", "compute-2", "another-project")
	c.moved(db, "compute-2", cloud.MigrationCompleted, "")
	c.moved(web, "compute-2", cloud.MigrationFailed, "operation failed: job 'migration out' failed: the target ran out of file descriptors while it connected")
	c.decided(web, "boot", epoch, "compute-1", cloud.Verdict{Host: "compute-1", Fits: true, Score: 2.5}, cloud.Verdict{Host: "compute-2", Fits: true, Score: 2.25},
		cloud.Verdict{Host: "compute-3", Reasons: []string{"state: the host is disabled (new memory)", "memory: needs 256 MiB, 0 MiB free of 15872 MiB (ratio 1.0)"}})
	c.healed(db)
	c.decided(web, "migrate", epoch.Add(2*time.Hour), "", cloud.Verdict{Host: "compute-1", Reasons: []string{"migration: the server runs on this host already"}})
	return c, web
}

func TestVerbsPrintTables(t *testing.T) {
	c, web := furnished(t)
	for name, args := range map[string][]string{
		"servers":             {"servers"},
		"servers-all":         {"servers", "--all-projects"},
		"servers-one":         {"servers", "web"},
		"hosts":               {"hosts"},
		"hosts-one":           {"hosts", "compute-1"},
		"hosts-disabled":      {"hosts", "compute-3"},
		"migrations":          {"migrations"},
		"migrations-one":      {"migrations", "db"},
		"migrations-running":  {"migrations", "--status", "unfinished"},
		"volumes-status":      {"volumes", "status"},
		"why":                 {"why", "web"},
		"why-all":             {"why", "--all", string(web.ID)},
		"why-nothing":         {"why", "theirs"},
		"why-healed":          {"why", "db", "--all"},
		"why-healed-last":     {"why", "db"},
		"dryrun":              {"migrate", "--dry-run", "web"},
		"dryrun-own-history":  {"migrate", "--dry-run", "db", "compute-2"},
		"servers-other-admin": {"servers", "theirs"},
	} {
		c.golden(name, c.must(args...))
	}
}

func TestVerbsPrintStableJSON(t *testing.T) {
	c, _ := furnished(t)
	for name, args := range map[string][]string{
		"servers.json":    {"servers"},
		"hosts.json":      {"hosts"},
		"host.json":       {"hosts", "compute-1"},
		"volumes.json":    {"volumes", "status"},
		"migrations.json": {"migrations"},
		"why.json":        {"why", "web", "--all"},
		"dryrun.json":     {"migrate", "--dry-run", "web"},
	} {
		out := c.must(append(args, "-o", "json")...)
		if !json.Valid([]byte(out)) {
			t.Errorf("%s: not JSON:\n%s", name, out)
		}
		c.golden(name, scrub(out))
	}
}

// TestHostsAndRecoverStatusSayWhenSpareRoomIsShort: below the table, with who would be without room and why; not a word when there is room.
func TestHostsAndRecoverStatusSayWhenSpareRoomIsShort(t *testing.T) {
	c, web := furnished(t)
	room := cloud.SpareRoom{Hosts: 1, Lost: []cloud.HostName{"compute-1"}, Servers: 2, Homeless: 1, Missing: cloud.Resources{VCPUs: 1, RAMMiB: 256, DiskGiB: 1}, Since: epoch,
		Named: []cloud.SpareServer{{Server: web.ID, Host: "compute-1", Reason: "compute-2: memory: needs 256 MiB, 0 MiB free"}}}
	for _, short := range []bool{true, false} {
		if !short {
			room.Homeless, room.Named = 0, nil
		}
		c.put(func(tx *store.Tx) error { return store.Put(tx, tables.SpareRooms, tables.SpareRoomKey, room) })
		for _, args := range [][]string{{"hosts"}, {"recover", "status"}} {
			out := c.must(args...)
			said := strings.Contains(out, "1 of the 2 servers of compute-1 would find no room elsewhere (256 MiB, 1 vCPUs, 1 GiB)") &&
				strings.Contains(out, string(web.ID)+" on compute-1: compute-2: memory")
			if said != short || !short && strings.Contains(out, "spare") {
				t.Errorf("%v, short %v:\n%s", args, short, out)
			}
		}
	}
}

// scrub replaces what no two runs have alike.
func scrub(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		for _, field := range []string{`"intent": "`, `"project": "`, `"revision": `} {
			if at := strings.Index(line, field); at >= 0 && !strings.Contains(line, `""`) {
				line = line[:at+len(field)] + "...\n"
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestDryRunOfAnImpossibleMoveFails(t *testing.T) {
	c, _ := furnished(t)
	r := c.run("migrate", "--dry-run", "web", "compute-3")
	if r.code != exitCodes[cloud.KindNoValidHost] {
		t.Errorf("exit code %d", r.code)
	}
	c.golden("dryrun-refused", r.out)
}

func TestRefusalsSayWhatToDoAndHaveTheirCodes(t *testing.T) {
	c, _ := furnished(t)
	c.guest(4, "twin", "compute-1", "")
	c.guest(5, "twin", "compute-1", "")
	tests := []struct {
		args []string
		code int
		text string
	}{
		{[]string{"servers", "nobody"}, 4, "servers --all-projects"},
		{[]string{"servers", "twin"}, 5, "use an id (" + id(3, 5) + ", " + id(3, 4) + ")"},
		{[]string{"hosts", "nowhere"}, 4, "host nowhere does not exist"},
		{[]string{"why", "00000000-0000-4000-8000-000000000000"}, 4, "does not exist"},
		{[]string{"migrate", "web", "nowhere"}, 2, "nowhere"},
		{[]string{"migrate", "web", "compute-1"}, 2, "current host"},
		{[]string{"migrate", "web", "compute-3"}, 6, "the host is disabled (new memory)"},
		{[]string{"migrate", "web", "--watch", "compute-3"}, 6, "the host is disabled (new memory)"},
		{[]string{"migrate", "web", "--block", "maybe"}, 2, "want auto, true or false"},
		{[]string{"migrate", "web", "--dry-run", "--watch"}, 2, "dry-run"},
		{[]string{"migrations", "--status", "over"}, 2, "none of unfinished, queued"},
		{[]string{"migrations", "--limit", "0"}, 2, "want 1 or more"},
		{[]string{"abort", "web"}, 5, "is not moving"},
		{[]string{"servers", "--os-cloud", "nocloud"}, 2, "nocloud"},
	}
	for _, tt := range tests {
		r := c.run(tt.args...)
		if r.err == nil || r.code != tt.code || !strings.Contains(r.err.Error(), tt.text) {
			t.Errorf("godwit %v: code %d, %v; want %d with %q", tt.args, r.code, r.err, tt.code, tt.text)
		}
	}
}

func TestCredentialsThatAreRefusedOrMissing(t *testing.T) {
	c := newTestCloud(t)
	t.Setenv("OS_PASSWORD", "wrong")
	if r := c.run("servers"); r.code != 3 || !strings.Contains(r.err.Error(), "log in at "+c.server.URL) {
		t.Errorf("a wrong password: code %d, %v", r.code, r.err)
	}
	t.Setenv("OS_AUTH_URL", "http://127.0.0.1:1/identity/v3")
	if r := c.run("servers"); r.code != 7 || !strings.Contains(r.err.Error(), "does not answer") {
		t.Errorf("no server: code %d, %v", r.code, r.err)
	}
	t.Setenv("OS_AUTH_URL", "")
	if r := c.run("servers"); r.code != 3 || !strings.Contains(r.err.Error(), "OS_CLOUD") || !strings.Contains(r.err.Error(), "godwit lab status") {
		t.Errorf("no credentials: code %d, %v", r.code, r.err)
	}
}

func TestCloudsYAMLIsHonoured(t *testing.T) {
	c := newTestCloud(t)
	t.Setenv("OS_AUTH_URL", "")
	t.Setenv("OS_CLIENT_CONFIG_FILE", filepath.Join(filepath.Dir(c.openrc), "clouds.yaml"))
	c.must("hosts", "--os-cloud", "godwit")
	t.Setenv("OS_CLOUD", "godwit")
	c.must("hosts")
}

func TestLabOnThisMachineServesWithoutCredentialsAndSaysSo(t *testing.T) {
	c := newTestCloud(t)
	t.Setenv("OS_AUTH_URL", "")
	a := &access{lab: func() (string, bool) { return c.openrc, true }}
	var notes strings.Builder
	connected, err := a.connect(t.Context(), &notes)
	if err != nil || !strings.Contains(notes.String(), "source "+c.openrc) {
		t.Fatalf("got %v, said %q", err, notes.String())
	}
	if _, err := connected.Hosts(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(c.openrc); err != nil {
		t.Fatal(err)
	}
	if _, err := a.connect(t.Context(), &notes); err == nil {
		t.Error("an openrc that is gone went unnoticed")
	}
}

func TestOrdinaryUsersSeeTheirProject(t *testing.T) {
	c, _ := furnished(t)
	c.member("kim", "shop")
	out := c.must("servers")
	if strings.Contains(out, "web") || !strings.Contains(out, "ID") {
		t.Errorf("got\n%s", out)
	}
	for _, args := range [][]string{{"servers", "-a"}, {"hosts"}, {"migrations"}} {
		if r := c.run(args...); r.code != 3 {
			t.Errorf("godwit %v: code %d, %v", args, r.code, r.err)
		}
	}
	if r := c.run("servers", "web"); r.code != 4 {
		t.Errorf("another project's server: code %d, %v", r.code, r.err)
	}
}

// member makes a user with the role member of a new project, by the identity API, and puts it into the environment.
func (c *testCloud) member(user, project string) {
	c.Helper()
	var token string
	call := func(method, path string, body any) map[string]map[string]any {
		c.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			c.Fatal(err)
		}
		req, err := http.NewRequestWithContext(c.Context(), method, c.server.URL+"/identity/v3"+path, strings.NewReader(string(text)))
		if err != nil {
			c.Fatal(err)
		}
		req.Header.Set("X-Auth-Token", token)
		resp, err := c.server.Client().Do(req)
		if err != nil {
			c.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			c.Fatalf("%s %s: %s", method, path, resp.Status)
		}
		if t := resp.Header.Get("X-Subject-Token"); t != "" {
			token = t
		}
		out := map[string]map[string]any{}
		if resp.StatusCode != http.StatusNoContent {
			if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
				c.Fatal(err)
			}
		}
		return out
	}
	type m = map[string]any
	call("POST", "/auth/tokens", m{"auth": m{
		"identity": m{"methods": []string{"password"}, "password": m{"user": m{"name": "admin", "domain": m{"id": "default"}, "password": os.Getenv("OS_PASSWORD")}}},
		"scope":    m{"project": m{"name": "admin", "domain": m{"id": "default"}}}}})
	p := call("POST", "/projects", m{"project": m{"name": project}})["project"]["id"].(string)
	u := call("POST", "/users", m{"user": m{"name": user, "password": "secret", "default_project_id": p}})["user"]["id"].(string)
	role, ok := store.One(c.store, tables.Roles, tables.ByName, "member")
	if !ok {
		c.Fatal("there is no role member")
	}
	call("PUT", "/projects/"+p+"/users/"+u+"/roles/"+string(role.ID), nil)
	c.Setenv("OS_USERNAME", user)
	c.Setenv("OS_PASSWORD", "secret")
	c.Setenv("OS_PROJECT_NAME", project)
}

func TestCompletionOffersServersAndHosts(t *testing.T) {
	c, _ := furnished(t)
	for args, want := range map[string]string{
		"servers|": "theirs\tACTIVE on compute-2\ndb\tACTIVE on compute-1\nweb\tACTIVE on compute-1\n:4\n",
		"hosts|c":  "compute-1\tup\ncompute-2\tup\ncompute-3\tup\n:4\n", // without a letter the verbs below hosts come first
		"why|web|": ":4\n", "migrate|web|": "compute-1\tup\ncompute-2\tup\ncompute-3\tup\n:4\n",
		"migrate|--block|": "auto\ntrue\nfalse\n:4\n",
	} {
		r := c.run(append([]string{"__complete"}, strings.Split(args, "|")...)...)
		if r.err != nil || r.out != want {
			t.Errorf("completing %s: %v, got %q, want %q", args, r.err, r.out, want)
		}
	}
}

func TestCompletionIsSilentAndBoundedWhenTheCloudIsNot(t *testing.T) {
	clearEnviron(t)
	nothing := func(why string) {
		t.Helper()
		if r := runIn(t.Context(), "__complete", "servers", ""); r.err != nil || r.out != ":4\n" || strings.Contains(strings.ToLower(r.notes), "error") {
			t.Errorf("%s: %v, got %q and %q", why, r.err, r.out, r.notes)
		}
	}
	nothing("without credentials")
	stuck := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(stuck)
	for name, value := range map[string]string{"OS_AUTH_URL": server.URL + "/identity/v3", "OS_USERNAME": "a", "OS_PASSWORD": "b", "OS_PROJECT_NAME": "c"} {
		t.Setenv(name, value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*completeMax)
	defer cancel()
	began := time.Now()
	nothing("with a cloud that does not answer")
	if ctx.Err() != nil {
		t.Errorf("completion took %v", time.Since(began))
	}
}

func TestEveryShellGetsItsCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := runIn(t.Context(), "completion", shell); r.err != nil || !strings.Contains(r.out, "__complete") {
			t.Errorf("%s: %v", shell, r.err)
		}
	}
}

func TestMigrateAnswersWithTheMigration(t *testing.T) {
	c, web := furnished(t)
	out := c.must("migrate", "web", "compute-2")
	if out != "migration 3 of web is queued; `godwit migrations web` shows how it goes\n" {
		t.Errorf("got %q", out)
	}
	if r := c.run("migrate", "web"); r.code != 5 || !strings.Contains(r.err.Error(), "migrating") {
		t.Errorf("a second move: code %d, %v", r.code, r.err)
	}
	m, ok := store.One(c.store, tables.Migrations, tables.ByNumber, "3")
	if !ok || m.Server != web.ID || m.AskedTarget != "compute-2" || m.Force || m.Asked != cloud.MigrateAuto {
		t.Errorf("written: %+v", m)
	}
	var shown operator.Migration
	if err := json.Unmarshal([]byte(c.must("migrate", "db", "--block", "true", "-o", "json")), &shown); err != nil || shown.Number != 4 || shown.Asked != cloud.MigrateBlock {
		t.Errorf("got %+v, %v", shown, err)
	}
}

func TestAbortTellsTheRunningMove(t *testing.T) {
	c, _ := furnished(t)
	c.must("migrate", "web")
	if out := c.must("abort", "web"); out != "migration 3 of web was told to stop\n" {
		t.Errorf("got %q", out)
	}
	if m, _ := store.One(c.store, tables.Migrations, tables.ByNumber, "3"); !m.AbortAsked {
		t.Errorf("written: %+v", m)
	}
}
