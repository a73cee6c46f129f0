package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// TestRefusals: bad requests get the status code and the message shape that Nova documents, and the guest notices nothing.
func TestRefusals(t *testing.T) {
	ctx := t.Context()
	g := boot(t, guestOptions{name: "refuse", host: "compute-1"})
	action := "servers/" + g.id + "/action"
	old := func(host any, block bool) map[string]any {
		return map[string]any{"os-migrateLive": map[string]any{"host": host, "block_migration": block, "disk_over_commit": false}}
	}
	member := memberToken(t)

	cases := []struct {
		name    string
		before  func(t *testing.T) (undo func())
		call    call
		code    int
		fault   string // the key of Nova's fault body
		message string // part of the message
	}{
		{name: "unknown host",
			call: call{method: "POST", path: action, version: "2.30", body: migrateBody("no-such-host", nil)},
			code: 400, fault: "badRequest", message: "no-such-host"},
		{name: "unknown host, first microversion",
			call: call{method: "POST", path: action, version: "2.1", body: old("no-such-host", true)},
			code: 400, fault: "badRequest", message: "no-such-host"},
		{name: "same host",
			call: call{method: "POST", path: action, version: "2.30", body: migrateBody("compute-1", nil)},
			code: 400, fault: "badRequest", message: "Unable to migrate instance (" + g.id + ") to current host (compute-1)."},
		{name: "disabled host", before: disable("compute-3"),
			call: call{method: "POST", path: action, version: "2.30", body: migrateBody("compute-3", nil)},
			code: 400, fault: "badRequest"},
		{name: "host that is down", before: powerOff("compute-3"),
			call: call{method: "POST", path: action, version: "2.25", body: migrateBody("compute-3", nil)},
			code: 400, fault: "badRequest", message: "compute-3"},
		{name: "host without room", before: fill("compute-3"),
			call: call{method: "POST", path: action, version: "2.30", body: migrateBody("compute-3", nil)},
			code: 400, fault: "badRequest"},
		{name: "shared storage asked of a local disk",
			call: call{method: "POST", path: action, version: "2.1", body: old("compute-2", false)},
			code: 400, fault: "badRequest", message: "shared storage"},
		{name: "unknown microversion",
			call: call{method: "POST", path: action, version: "2.999", body: migrateBody("compute-2", nil)},
			code: 406},
		{name: "malformed microversion",
			call: call{method: "GET", path: "servers", version: "two"},
			code: 400},
		{name: "force after 2.68",
			call: call{method: "POST", path: action, version: "2.68", body: migrateBody("compute-2", map[string]any{"force": true})},
			code: 400, fault: "badRequest", message: "force"},
		{name: "bad JSON",
			call: call{method: "POST", path: action, version: "2.30", body: `{"os-migrateLive": {`},
			code: 400, fault: "badRequest"},
		{name: "wrong type",
			call: call{method: "POST", path: action, version: "2.30", body: migrateBody(5, nil)},
			code: 400, fault: "badRequest", message: "Invalid input for field/attribute host"},
		{name: "unknown property",
			call: call{method: "POST", path: action, version: "2.30", body: migrateBody("compute-2", map[string]any{"wings": 2})},
			code: 400, fault: "badRequest", message: "wings"},
		{name: "unknown action",
			call: call{method: "POST", path: action, version: "2.30", body: map[string]any{"os-fly": nil}},
			code: 400, fault: "badRequest"},
		{name: "ten megabytes",
			call: call{method: "POST", path: action, version: "2.30", body: `{"os-migrateLive": {"host": "` + strings.Repeat("x", 10<<20) + `"}}`},
			code: 413},
		{name: "no token",
			call: call{method: "GET", path: "servers", token: "-"},
			code: 401},
		{name: "wrong token",
			call: call{method: "GET", path: "servers", token: "not-a-token"},
			code: 401},
		{name: "revoked token",
			call: call{method: "GET", path: "servers", token: revokedToken(t)},
			code: 401},
		{name: "not an administrator",
			call: call{method: "POST", path: action, version: "2.30", token: member, body: migrateBody("compute-2", nil)},
			code: 404, fault: "itemNotFound"}, // another project's server does not exist for a member
		{name: "hypervisors are for administrators",
			call: call{method: "GET", path: "os-hypervisors", version: "2.53", token: member},
			code: 403, fault: "forbidden", message: "Policy doesn't allow os_compute_api:os-hypervisors"},
		{name: "unknown server",
			call: call{method: "POST", path: "servers/11111111-2222-4333-8444-555555555555/action", version: "2.30", body: migrateBody("compute-2", nil)},
			code: 404, fault: "itemNotFound", message: "could not be found"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := g.status(t)
			if c.before != nil {
				defer c.before(t)()
			}
			got := do(ctx, t, c.call)
			if got.code != c.code {
				t.Errorf("status %d, want %d: %.300s", got.code, c.code, got.body)
			}
			name, message := got.fault()
			if c.fault != "" && name != c.fault {
				t.Errorf("fault %q, want %q: %.300s", name, c.fault, got.body)
			}
			if !strings.Contains(message, c.message) {
				t.Errorf("message %q does not contain %q", message, c.message)
			}
			if got.header.Get("X-Openstack-Request-Id") == "" {
				t.Error("no request id to report the problem with")
			}
			g.untouched(t, before)
		})
	}
	refusedByState(t, g)
}

// refusedByState: a server that already moves, or is not ACTIVE, is not moved.
func refusedByState(t *testing.T, g *running) {
	ctx := t.Context()
	ask := func(t *testing.T, target, reason string) {
		t.Helper()
		a := do(ctx, t, call{method: "POST", path: "servers/" + g.id + "/action", version: "2.30", body: migrateBody(target, nil)})
		name, message := a.fault()
		if a.code != http.StatusConflict || name != "conflictingRequest" || !strings.Contains(message, reason) {
			t.Errorf("%d %s", a.code, a.body)
		}
	}
	t.Run("moving", func(t *testing.T) {
		tr := depart(ctx, t, g, crawl)
		ask(t, "compute-3", "while it is in task_state migrating")
		if err := setPace(ctx, tr.from, g.id, sprint); err != nil {
			t.Fatal(err)
		}
		if m, err := cloud.WaitMigration(ctx, g.id, tr.known); err != nil || m.Status != "completed" {
			t.Fatalf("the first migration ended %q: %v", m.Status, err)
		}
		g.whole(t)
	})
	t.Run("stopped", func(t *testing.T) {
		if a := do(ctx, t, call{method: "POST", path: "servers/" + g.id + "/action", body: `{"os-stop": null}`}); a.code != http.StatusAccepted {
			t.Fatalf("stop: %d %s", a.code, a.body)
		}
		if _, err := cloud.WaitStatus(ctx, g.id, "SHUTOFF"); err != nil {
			t.Fatal(err)
		}
		ask(t, "compute-3", "while it is in vm_state stopped")
	})
}
