package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

// coldMax bounds a test of moves with the power off: each stops and boots a guest several times.
const coldMax = 8 * time.Minute

// awaitVerify waits until the server has been moved and its owner may decide, and talks to it there.
func (g *running) awaitVerify(ctx context.Context, t *testing.T) *servers.Server {
	t.Helper()
	g.talk.Close()
	s, err := cloud.WaitStatus(ctx, g.id, "VERIFY_RESIZE")
	if err != nil {
		t.Fatal(err)
	}
	if g.talk, err = cloud.Talk(ctx, s); err != nil {
		t.Fatal(err)
	}
	if ip := labcloud.Address(s); ip != g.ip {
		t.Errorf("the server had %s and has %s now", g.ip, ip)
	}
	if on := g.host(t); on != s.Host {
		t.Errorf("the server runs on %s, its record says %s", on, s.Host)
	}
	return s
}

// holds checks that the guest's disk log is whole and goes at least as far as a record.
func (g *running) holds(ctx context.Context, t *testing.T, last uint64) {
	t.Helper()
	if r, err := g.talk.Verify(ctx); err != nil || !r.OK || r.Last < last {
		t.Errorf("the disk log: %+v %v, record %d was acknowledged", r, err, last)
	}
}

func (g *running) sync(ctx context.Context, t *testing.T) uint64 {
	t.Helper()
	last, err := g.talk.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// TestAServerMovesWithItsPowerOff: cold migration and resize of a server with a local disk, with the stock clients. What was acknowledged before the
// move is there after it; a confirmation leaves nothing on the source, a revert gives the server back as it was.
func TestAServerMovesWithItsPowerOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), coldMax)
	defer cancel()
	g := boot(t, guestOptions{name: "cold", host: here})
	last := g.sync(ctx, t)
	stock(t, "nova", "--os-compute-api-version", "2.56", "migrate", "--host", there, "cold")
	if s := g.awaitVerify(ctx, t); s.Host != there {
		t.Fatalf("asked for %s, is on %s", there, s.Host)
	}
	g.holds(ctx, t, last)
	if out := remains(ctx, here, g.id); !strings.Contains(out, g.id) {
		t.Errorf("the way back is gone from %s: %q", here, out)
	}
	stock(t, "nova", "resize-confirm", "cold")
	g.reconnect(t)
	leavesNothing(ctx, t, here, g.id)
	bound(ctx, t, g.id, there)

	flavor, err := cloud.Flavor(ctx, "cold-large", 2, 192, 2)
	if err != nil {
		t.Fatal(err)
	}
	last = g.sync(ctx, t)
	stock(t, "openstack", "server", "resize", "--flavor", "cold-large", "cold")
	large := g.awaitVerify(ctx, t)
	g.holds(ctx, t, last)
	if out, err := on(ctx, large.Host, "virsh", "-q", "dominfo", "instance-"+g.id); err != nil || !strings.Contains(out, "CPU(s):         2") {
		t.Errorf("resized to two processors (%s): %v\n%s", flavor, err, out)
	}
	stock(t, "openstack", "server", "resize", "revert", "cold")
	g.reconnect(t)
	g.holds(ctx, t, last)
	if now := g.host(t); now != there {
		t.Errorf("reverted to %s, it came from %s", now, there)
	}
	leavesNothing(ctx, t, large.Host, g.id)
	out := stock(t, "nova", "migration-list", "--instance-uuid", g.id)
	for _, word := range []string{"confirmed", "reverted", "resize"} {
		if !strings.Contains(out, word) {
			t.Errorf("migrations do not show %s:\n%s", word, out)
		}
	}
}

// TestAServerOnAVolumeMovesWithItsPowerOff: the volume follows, and what was written on the target is there after the revert.
func TestAServerOnAVolumeMovesWithItsPowerOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), coldMax)
	defer cancel()
	g := bootFromVolume(t, guestOptions{name: "cold-volume", host: here})
	last := g.sync(ctx, t)
	stock(t, "openstack", "server", "migrate", "cold-volume")
	moved := g.awaitVerify(ctx, t)
	g.holds(ctx, t, last)
	last = g.sync(ctx, t)
	stock(t, "nova", "resize-revert", "cold-volume")
	g.reconnect(t)
	g.holds(ctx, t, last)
	if now := g.host(t); now != here {
		t.Errorf("reverted to %s", now)
	}
	leavesNothing(ctx, t, moved.Host, g.id)
}
