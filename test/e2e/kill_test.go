package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// A victim is what is killed with SIGKILL in the middle of a migration.
type victim struct {
	name string
	kill func(ctx context.Context, t *testing.T, g *running, source, target string)
}

var victims = []victim{
	{"destination QEMU", func(ctx context.Context, t *testing.T, g *running, _, target string) { killQEMU(ctx, t, target, g.id) }},
	{"destination libvirtd", func(ctx context.Context, t *testing.T, _ *running, _, target string) {
		killUnit(ctx, t, target, lab.UnitLibvirtd)
	}},
	{"destination agent", func(ctx context.Context, t *testing.T, _ *running, _, target string) {
		killUnit(ctx, t, target, lab.UnitAgent)
	}},
	{"source agent", func(ctx context.Context, t *testing.T, _ *running, source, _ string) {
		killUnit(ctx, t, source, lab.UnitAgent)
	}},
	{"server", func(ctx context.Context, t *testing.T, _ *running, _, _ string) {
		killUnit(ctx, t, lab.Controller, lab.UnitServer)
	}},
}

// A moment is when the blow falls.
type moment struct {
	name   string
	arrive func(ctx context.Context, t *testing.T, g *running, target string)
}

var moments = []moment{
	{"as soon as it was asked", func(context.Context, *testing.T, *running, string) {}},
	{"when the target receives", func(ctx context.Context, t *testing.T, g *running, target string) {
		awaitTarget(ctx, t, target, g.id)
	}},
	{"when half of it is copied", func(ctx context.Context, t *testing.T, g *running, _ string) {
		awaitCopied(ctx, t, g.id)
	}},
}

// killMax bounds one case: a libvirtd that was killed on the target is noticed by libvirt's keepalive after some seconds.
const killMax = 3 * time.Minute

// TestKillsInTheMiddleOfAMigration: whoever is killed, whenever: the guest goes on, one copy of it runs, the migration ends in a true final
// state, and the host that does not have the guest keeps nothing of it.
func TestKillsInTheMiddleOfAMigration(t *testing.T) {
	for _, v := range victims {
		for _, m := range moments {
			t.Run(v.name+" "+m.name, func(t *testing.T) { killOnce(t, v, m) })
		}
	}
}

func killOnce(t *testing.T, v victim, m moment) {
	ctx, cancel := context.WithTimeout(t.Context(), killMax)
	defer cancel()
	const source, target = "compute-1", "compute-2"
	g := boot(t, guestOptions{name: "victim", host: source, dirty: "24MiB"})
	before := g.status(t)
	if err := cloud.LiveMigrate(ctx, g.id, target); err != nil {
		t.Fatal(err)
	}
	m.arrive(ctx, t, g, target)
	v.kill(ctx, t, g, source, target)
	if err := cloud.Lab.WaitAPI(ctx); err != nil {
		t.Fatal(err)
	}
	end := awaitEnd(ctx, t, g.id)
	t.Logf("the migration ended %s", end.Status)
	if end.Status != "completed" && end.Status != "failed" && end.Status != "error" && end.Status != "cancelled" {
		t.Errorf("migration status %q is not final", end.Status)
	}
	s, err := cloud.WaitStatus(ctx, g.id, "ACTIVE")
	if err != nil {
		t.Fatal(err)
	}
	waitService(t, source, "up")
	waitService(t, target, "up")
	want, other := source, target
	if end.Status == "completed" {
		want, other = target, source
	}
	on := awaitOneCopy(ctx, t, g)
	if s.Host != want || on != want {
		t.Errorf("migration %s: the API says %s, the guest runs on %s, want %s", end.Status, s.Host, on, want)
	}
	g.goesOn(t, before)
	g.whole(t)
	leavesNothing(ctx, t, other, g.id)
	leavesNoTap(ctx, t, other)
}

// awaitEnd waits for the migration's end through a server that may be restarting.
func awaitEnd(ctx context.Context, t *testing.T, id string) labcloud.Migration {
	t.Helper()
	var last labcloud.Migration
	err := labcloud.Until(ctx, "migration ended", func() (bool, error) {
		list, err := cloud.Migrations(ctx, id)
		if err != nil || len(list) == 0 {
			return false, nil // the server was killed; its supervisor starts it again
		}
		last = list[0]
		return last.Final(), nil
	})
	if err != nil {
		t.Fatalf("%v; last seen %+v", err, last)
	}
	return last
}

// awaitOneCopy waits until libvirt, which may be restarting too, shows exactly one running copy.
func awaitOneCopy(ctx context.Context, t *testing.T, g *running) string {
	t.Helper()
	for _, node := range cloud.Lab.ComputeNodes() {
		if err := cloud.Lab.WaitLibvirt(ctx, node); err != nil {
			t.Fatal(err)
		}
	}
	return g.host(t)
}

func killUnit(ctx context.Context, t *testing.T, node, unit string) {
	t.Helper()
	if err := cloud.Lab.KillUnit(ctx, node, unit); err != nil {
		t.Fatal(err)
	}
}

// killQEMU kills the guest's QEMU on a node, waiting for it to exist.
func killQEMU(ctx context.Context, t *testing.T, node, id string) {
	t.Helper()
	err := labcloud.Until(ctx, "QEMU of "+id+" on "+node, func() (bool, error) {
		out, _ := cloud.Lab.Output(ctx, node, "sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q -- "^[^ ]*qemu-system.*$1" && kill -KILL "${p#/proc/}" && echo killed; done; true`, "sh", id)
		if strings.Contains(out, "killed") {
			return true, nil
		}
		list, err := cloud.Migrations(ctx, id)
		return err == nil && len(list) > 0 && list[0].Final(), nil // too late: it has ended already
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitTarget waits until the target's libvirt knows the domain.
func awaitTarget(ctx context.Context, t *testing.T, target, id string) {
	t.Helper()
	err := labcloud.Until(ctx, id+" arrives on "+target, func() (bool, error) {
		out, err := cloud.Lab.Output(ctx, target, "virsh", "-q", "list", "--all", "--uuid")
		return err == nil && strings.Contains(out, id), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitCopied waits until the API reports that at least half of the memory or of the disks has gone over, or that all is done.
func awaitCopied(ctx context.Context, t *testing.T, id string) {
	t.Helper()
	err := labcloud.Until(ctx, "half of "+id+" copied", func() (bool, error) {
		a := do(ctx, t, call{method: "GET", path: fmt.Sprintf("servers/%s/migrations", id), version: "2.23"})
		var out struct {
			Migrations []struct {
				MemoryTotal     int64 `json:"memory_total_bytes"`
				MemoryRemaining int64 `json:"memory_remaining_bytes"`
				DiskTotal       int64 `json:"disk_total_bytes"`
				DiskRemaining   int64 `json:"disk_remaining_bytes"`
			} `json:"migrations"`
		}
		if err := json.Unmarshal([]byte(a.body), &out); err != nil {
			return false, err
		}
		if len(out.Migrations) == 0 {
			list, err := cloud.Migrations(ctx, id)
			return err == nil && len(list) > 0 && list[0].Final(), nil
		}
		p := out.Migrations[0]
		return p.MemoryTotal > 0 && p.MemoryRemaining*2 <= p.MemoryTotal || p.DiskTotal > 0 && p.DiskRemaining*2 <= p.DiskTotal, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// leavesNoTap checks that a host without guests has no guest's tap.
func leavesNoTap(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	out, err := cloud.Lab.Output(ctx, node, "sh", "-c", "ls /sys/class/net | grep ^gwt; true")
	if err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("%s keeps taps: %s %v", node, out, err)
	}
}
