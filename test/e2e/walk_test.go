package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// another stands for a host on which the guest is not, which only the moves before decide.
const another = "HOST"

// blackoutMax is what a user would call a blink on a busy machine; an idle one needs a tenth of it.
const blackoutMax = 3 * time.Second

// blinked checks for how long nobody reached a guest in each of several moves. The shortest counts: what godwit does wrong it does in every move, and
// one long blackout is that of a machine with too much to do.
func blinked(t *testing.T, blackouts []time.Duration) {
	t.Helper()
	if len(blackouts) == 0 || slices.Min(blackouts) > blackoutMax {
		t.Errorf("nobody reached the guest for %v", blackouts)
	}
}

// TestBlockMigrationWalkThroughWithStockClients is the seed of this project: a running server is moved with the clients operators have, to
// a named host and to one that placement picks, and its user notices a blink.
func TestBlockMigrationWalkThroughWithStockClients(t *testing.T) {
	ctx := t.Context()
	g := boot(t, guestOptions{name: "vm-live-migration", host: "compute-1"})
	begin := g.status(t)
	run := func(argv ...string) string {
		t.Helper()
		out, err := cloud.Client(ctx, argv...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := run("nova", "list"); !strings.Contains(out, "vm-live-migration") || !strings.Contains(out, "ACTIVE") || !strings.Contains(out, "ncep-net="+g.ip) {
		t.Errorf("nova list:\n%s", out)
	}
	if out := run("openstack", "host", "list"); !strings.Contains(out, "compute-1") || !strings.Contains(out, "compute-2") {
		t.Errorf("openstack host list:\n%s", out)
	}
	moves := []struct {
		argv []string
		to   string // "" when placement picks
	}{
		{[]string{"nova", "live-migration", "--block-migrate", "vm-live-migration", "compute-2"}, "compute-2"},
		{[]string{"nova", "live-migration", "--block-migrate", "vm-live-migration"}, ""},
		{[]string{"openstack", "server", "migrate", "--live-migration", "--block-migration", "vm-live-migration"}, ""},
		{[]string{"openstack", "--os-compute-api-version", "2.30", "server", "migrate", "--live-migration", "--host", another, "--block-migration", "vm-live-migration"}, another},
	}
	var blackouts []time.Duration
	for i, m := range moves {
		from := g.host(t)
		if m.to == another {
			m.to = map[string]string{"compute-1": "compute-2"}[from]
			if m.to == "" {
				m.to = "compute-1"
			}
			m.argv[slices.Index(m.argv, another)] = m.to
		}
		known, err := cloud.Migrations(ctx, g.id)
		if err != nil {
			t.Fatal(err)
		}
		trace, err := cloud.Peer.StartTrace(ctx, netip.MustParseAddr(g.ip), time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if err := trace.AwaitReply(ctx); err != nil {
			t.Fatal(err)
		}
		run(m.argv...)
		end, err := cloud.WaitMigration(ctx, g.id, len(known))
		if err != nil {
			t.Fatal(err)
		}
		if end.Status != "completed" {
			t.Fatalf("move %d ended %s", i, end.Status)
		}
		shown := run("nova", "show", "vm-live-migration")
		to := g.host(t)
		if to == from || m.to != "" && to != m.to || !strings.Contains(shown, to) || !strings.Contains(shown, "ACTIVE") {
			t.Errorf("move %d from %s to %s, asked for %q; nova show:\n%s", i, from, to, m.to, shown)
		}
		before := g.status(t)
		g.goesOn(t, before)
		report, err := trace.Stop()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s to %s, blackout %v", strings.Join(m.argv, " "), from, to, report.Blackout)
		blackouts = append(blackouts, report.Blackout)
		leavesNothing(ctx, t, from, g.id)
	}
	blinked(t, blackouts)
	if now := g.status(t); now.BootID != begin.BootID {
		t.Error("the guest rebooted on its way")
	}
	g.whole(t)
	out := run("nova", "migration-list", "--instance-uuid", g.id)
	if strings.Count(out, "completed") != len(moves) || strings.Count(out, "live-migration") < len(moves) {
		t.Errorf("nova migration-list after %d moves:\n%s", len(moves), out)
	}
	events := run("openstack", "server", "event", "list", "vm-live-migration")
	if strings.Count(events, "live-migration") != len(moves) || !strings.Contains(events, "create") {
		t.Errorf("openstack server event list after %d moves:\n%s", len(moves), events)
	}
}
