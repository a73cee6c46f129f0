package e2e

import (
	"context"
	"net/http"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// TestDeletedInTheMiddleOfAnything: a server that is deleted while something is being done with it is gone, with all it had on any host.
func TestDeletedInTheMiddleOfAnything(t *testing.T) {
	free := freeMemory(t, here)
	t.Run("as soon as it was asked for", func(t *testing.T) {
		s, err := cloud.Create(t.Context(), cloud.Guest("stillborn", "", nil))
		if err != nil {
			t.Fatal(err)
		}
		remove(t, s.ID)
		portless(t, s.ID)
	})
	t.Run("while it is started", func(t *testing.T) {
		ctx := t.Context()
		thaw := freeze(ctx, t, here, lab.UnitLibvirtd)
		defer thaw()
		s, err := cloud.Create(ctx, cloud.Guest("nipped", here, nil))
		if err != nil {
			t.Fatal(err)
		}
		awaitTask(ctx, t, s.ID, "spawning")
		if err := servers.Delete(ctx, cloud.Compute, s.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		thaw()
		awaitGone(t, s.ID)
		portless(t, s.ID)
	})
	t.Run("while it moves", func(t *testing.T) {
		ctx := t.Context()
		g := bootMortal(t, travelling("fallen", here))
		tr := depart(ctx, t, g, crawl)
		m := awaitRunning(ctx, t, g.id)
		awaitDomain(ctx, t, tr.to, g.id, "paused")
		remove(t, g.id)
		portless(t, g.id)
		record, err := cloud.Record(ctx, m.UUID)
		if err != nil || record.Status != "cancelled" {
			t.Errorf("the migration of the deleted server is %s: %v", record.Status, err)
		}
	})
	t.Run("in the cut-over", func(t *testing.T) {
		ctx := t.Context()
		g := bootMortal(t, travelling("lost", here))
		tr := depart(ctx, t, g, crawl)
		release := inCutOver(ctx, t, []*traveller{tr})
		err := servers.Delete(ctx, cloud.Compute, g.id).ExtractErr()
		release()
		if err != nil {
			t.Fatal(err)
		}
		awaitGone(t, g.id)
		portless(t, g.id)
	})
	ctx, cancel := context.WithTimeout(t.Context(), cleanMax)
	defer cancel()
	err := labcloud.Until(ctx, "", func() (bool, error) { return freeMemory(t, here) == free, nil })
	if err != nil {
		t.Errorf("%s had %d MiB to give and has %d after all servers are gone", here, free, freeMemory(t, here))
	}
}

// bootMortal boots a guest that the test itself deletes.
func bootMortal(t *testing.T, o guestOptions) *running {
	t.Helper()
	s, err := cloud.BootGuest(t.Context(), o.name, o.host, o.orders())
	if err != nil {
		t.Fatal(err)
	}
	g := connect(t, s)
	awaitConsole(t, s.ID, "filled disk=")
	return g
}

// awaitTask waits until a server is at a task.
func awaitTask(ctx context.Context, t *testing.T, id, task string) {
	t.Helper()
	err := labcloud.Until(ctx, id+" "+task, func() (bool, error) {
		s, err := cloud.Server(ctx, id)
		return err == nil && s.TaskState == task, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// portless checks that a deleted server keeps no port.
func portless(t *testing.T, id string) {
	t.Helper()
	if left := sockets(t.Context(), t, id); len(left) > 0 {
		t.Errorf("server %s is gone and keeps ports %v", id, left)
	}
}

// hostStatus is what the API says to administrators of the host of a server.
func hostStatus(ctx context.Context, t *testing.T, id string) string {
	t.Helper()
	var out struct {
		Server struct {
			HostStatus string `json:"host_status"`
		} `json:"server"`
	}
	a := do(ctx, t, call{method: http.MethodGet, path: "servers/" + id, version: "2.16"})
	a.into(t, &out)
	return out.Server.HostStatus
}
