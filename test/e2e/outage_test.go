package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// outageMax bounds one test of this file.
const outageMax = 4 * time.Minute

// TestAHostLosesPowerAndReturns: its service is shown down, what ran there can be deleted meanwhile, and when it is back it cleans up what was deleted
// and the rest can be started again with its disk whole.
func TestAHostLosesPowerAndReturns(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), outageMax)
	defer cancel()
	deleted := bootMortal(t, travelling("doomed", there))
	kept := boot(t, guestOptions{name: "survivor", host: there})
	last, err := kept.talk.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { powerOn(t, there) })
	if err := cloud.Lab.PowerOff(ctx, there); err != nil {
		t.Fatal(err)
	}
	waitService(t, there, "down")
	if status := hostStatus(ctx, t, kept.id); status != "UNKNOWN" {
		t.Errorf("host_status of a server whose host is silent is %q", status)
	}
	a := do(ctx, t, call{method: "POST", path: "servers/" + kept.id + "/action", version: "2.30", body: migrateBody(here, nil)})
	if name, _ := a.fault(); a.code != http.StatusBadRequest || name != "badRequest" {
		t.Errorf("live migration away from a host that is down: %d %s", a.code, a.body)
	}
	if err := servers.Delete(ctx, cloud.Compute, deleted.id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	if err := cloud.WaitGone(ctx, deleted.id); err != nil {
		t.Fatal(err)
	}
	powerOn(t, there)
	leavesNothing(ctx, t, there, deleted.id)
	if _, err := cloud.WaitStatus(ctx, kept.id, "SHUTOFF"); err != nil {
		t.Fatal(err)
	}
	if a := do(ctx, t, call{method: "POST", path: "servers/" + kept.id + "/action", body: `{"os-start": null}`}); a.code != http.StatusAccepted {
		t.Fatalf("start: %d %s", a.code, a.body)
	}
	kept.reconnect(t)
	if r, err := kept.talk.Verify(ctx); err != nil || !r.OK || r.Last < last {
		t.Errorf("the disk after the loss of power: %+v %v, record %d was acknowledged before", r, err, last)
	}
	bound(ctx, t, kept.id, there)
}

// TestDaemonsRestartUnderRunningGuests: agent, libvirtd and server come and go; the guest, its connection and what is shown of it stay.
func TestDaemonsRestartUnderRunningGuests(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), outageMax)
	defer cancel()
	g := boot(t, guestOptions{name: "rock", host: here})
	flow := pour(ctx, t, g.ip)
	restarts := []struct {
		name, node, unit string
		how              func(ctx context.Context, node, unit string) error
	}{
		{"agent in order", here, lab.UnitAgent, cloud.Lab.RestartUnit},
		{"agent killed", here, lab.UnitAgent, cloud.Lab.KillUnit},
		{"libvirtd in order", here, lab.UnitLibvirtd, cloud.Lab.RestartUnit},
		{"libvirtd killed", here, lab.UnitLibvirtd, cloud.Lab.KillUnit},
		{"server in order", lab.Controller, lab.UnitServer, cloud.Lab.RestartUnit},
		{"server killed", lab.Controller, lab.UnitServer, cloud.Lab.KillUnit},
	}
	for _, r := range restarts {
		before := g.status(t)
		if err := r.how(ctx, r.node, r.unit); err != nil {
			t.Fatal(err)
		}
		settled(ctx, t)
		s, err := cloud.Server(ctx, g.id)
		if err != nil {
			t.Fatal(err)
		}
		if s.Status != "ACTIVE" || s.TaskState != "" || s.PowerState != servers.RUNNING || s.Host != here {
			t.Errorf("%s: the server is %s, task %q, %s on %s", r.name, s.Status, s.TaskState, s.PowerState, s.Host)
		}
		flow.past(ctx, t, pourChunk)
		g.untouched(t, before)
	}
	moveTo(ctx, t, g, there) // everything still does what it is for
	flow.past(ctx, t, pourChunk)
	if sent, back, err := flow.stop(); err != nil || sent != back {
		t.Errorf("of %d bytes sent through the guest %d came back: %v", sent, back, err)
	}
	g.whole(t)
}

// TestAGuestThatEndsWhileNobodyLooksIsShownStopped: its agent was away when it happened.
func TestAGuestThatEndsWhileNobodyLooksIsShownStopped(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), outageMax)
	defer cancel()
	g := boot(t, guestOptions{name: "sleeper", host: here})
	undo := powerOff(here)(t)
	_, err := on(ctx, here, "virsh", "-q", "shutdown", g.id) // its power button
	if err == nil {
		err = labcloud.Until(ctx, "the guest's end", func() (bool, error) {
			state := domainState(ctx, here, g.id)
			return state == "shut off (shutdown)", nil
		})
	}
	undo()
	if err != nil {
		t.Fatal(err)
	}
	s, err := cloud.WaitStatus(ctx, g.id, "SHUTOFF")
	if err != nil || s.PowerState != servers.SHUTDOWN {
		t.Errorf("server is %+v: %v", s, err)
	}
}
