package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

// TestAServerIsShelvedKeptAsAnImageAndRebuilt: with the stock clients. What was acknowledged before the server was shelved is on its disk when it is back,
// an image of it is made while it runs, and a rebuild makes its disk anew.
func TestAServerIsShelvedKeptAsAnImageAndRebuilt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), coldMax)
	defer cancel()
	g := boot(t, guestOptions{name: "shelf", host: here})
	last := g.sync(ctx, t)
	stock(t, "openstack", "server", "shelve", "shelf")
	if _, err := cloud.WaitStatus(ctx, g.id, "SHELVED_OFFLOADED"); err != nil {
		t.Fatal(err)
	}
	leavesNothing(ctx, t, here, g.id)
	stock(t, "nova", "unshelve", "shelf")
	g.reconnect(t)
	g.holds(ctx, t, last)
	if out := stock(t, "openstack", "image", "list", "--name", "shelf-shelved", "-f", "value"); strings.TrimSpace(out) != "" {
		t.Errorf("the image that the server was kept as is there still: %s", out)
	}
	if s, err := cloud.Server(ctx, g.id); err != nil || s.Image["id"] != cloud.ImageID {
		t.Errorf("it was booted from %s and shows %v now: %v", cloud.ImageID, s.Image, err)
	}

	before := g.status(t)
	stock(t, "openstack", "server", "image", "create", "--name", "shelf-image", "shelf")
	t.Cleanup(func() { dropImage(t, "shelf-image") })
	var seen string
	err := labcloud.Until(ctx, "an image of the server", func() (bool, error) {
		var err error
		seen, err = cloud.Client(ctx, "openstack", "image", "show", "-c", "status", "-c", "size", "-f", "value", "shelf-image")
		return strings.Contains(seen, "active"), err
	})
	if err != nil {
		t.Fatalf("%v: %s", err, seen)
	}
	g.goesOn(t, before)
	g.whole(t)

	stock(t, "openstack", "server", "rebuild", "--image", cloud.ImageID, "shelf")
	if err := labcloud.Until(ctx, "rebuilt", func() (bool, error) {
		s, err := cloud.Server(ctx, g.id)
		return err == nil && s.Status == "ACTIVE" && s.TaskState == "" && s.Image["id"] == cloud.ImageID, err
	}); err != nil {
		t.Fatal(err)
	}
	g.reconnect(t)
	if now := g.status(t); now.BootID == before.BootID {
		t.Error("the server was not started anew")
	}
}

// TestAServerOnAVolumeIsKeptAsAnImageShelvedAndRebuilt: the image is a snapshot of its volume, which a further server boots from and goes on where the
// first one was; shelving and a rebuild of before 2.93 keep the volume's data, one of 2.93 gives it the image's. The stock clients of Debian 12 end at 2.92.
func TestAServerOnAVolumeIsKeptAsAnImageShelvedAndRebuilt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), coldMax)
	defer cancel()
	g := bootFromVolume(t, guestOptions{name: "keeper", host: here, logPeriod: "1h"}) // so that records are those that are asked for
	for range 5 {
		g.sync(ctx, t)
	}
	last := g.sync(ctx, t)
	stock(t, "openstack", "server", "image", "create", "--wait", "--name", "keeper-image", "keeper")
	t.Cleanup(func() { dropVolumeImage(t, "keeper-image") })
	twin := fieldOf(t, stock(t, "nova", "boot", "--image", "keeper-image", "--flavor", cloud.FlavorID, "--nic", "net-id="+cloud.NetworkID, "--config-drive", "true",
		"--meta", "godwit.log=1h", "keeper-twin"), "id")
	t.Cleanup(func() { retireWithVolumes(t, "keeper-twin", twin) })

	stock(t, "openstack", "server", "shelve", "keeper")
	if _, err := cloud.WaitStatus(ctx, g.id, "SHELVED_OFFLOADED"); err != nil {
		t.Fatal(err)
	}
	leavesNothing(ctx, t, here, g.id)
	stock(t, "openstack", "server", "unshelve", "keeper")
	g.reconnect(t)
	g.holds(ctx, t, last)

	s, err := cloud.WaitStatus(ctx, twin, "ACTIVE")
	if err != nil {
		t.Fatal(err)
	}
	second := connect(t, s)
	second.holds(ctx, t, last)
	if next := second.sync(ctx, t); next > last+10 {
		t.Errorf("the twin's log goes on at %d, the image was made at %d", next, last)
	}

	last = g.sync(ctx, t)
	stock(t, "nova", "--os-compute-api-version", "2.92", "rebuild", "keeper", cloud.ImageID)
	g.rebuilt(ctx, t)
	g.holds(ctx, t, last)
	a := do(ctx, t, call{method: "POST", path: "/servers/" + g.id + "/action", version: "2.93", body: map[string]any{"rebuild": map[string]any{"imageRef": cloud.ImageID}}})
	if a.code != http.StatusAccepted {
		t.Fatalf("%d %s", a.code, a.body)
	}
	g.rebuilt(ctx, t)
	if next := g.sync(ctx, t); next > 3 {
		t.Errorf("after a rebuild from the image the log goes on at %d", next)
	}
}

// rebuilt waits until the server runs again and talks to it.
func (g *running) rebuilt(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := labcloud.Until(ctx, "rebuilt", func() (bool, error) {
		s, err := cloud.Server(ctx, g.id)
		return err == nil && s.Status == "ACTIVE" && s.TaskState == "", err
	}); err != nil {
		t.Fatal(err)
	}
	g.reconnect(t)
}

// retireWithVolumes deletes a server and the volumes that were made for it.
func retireWithVolumes(t *testing.T, name, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), removeMax)
	defer cancel()
	s, err := cloud.Server(ctx, id)
	if err != nil {
		t.Error(err)
		return
	}
	retire(t, name, id)
	for _, v := range s.AttachedVolumes {
		if err := cloud.RemoveVolume(ctx, v.ID); err != nil {
			t.Error(err)
		}
	}
}

// dropVolumeImage deletes an image that is made of snapshots, and those, which outlive it as with Nova.
func dropVolumeImage(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), removeMax)
	defer cancel()
	dropImage(t, name)
	if out, err := cloud.Client(ctx, "openstack", "volume", "snapshot", "delete", "snapshot for "+name); err != nil {
		t.Errorf("snapshot of %s: %v %s", name, err, out)
		return
	}
	err := labcloud.Until(ctx, "no snapshot of "+name, func() (bool, error) {
		out, err := cloud.Client(ctx, "openstack", "volume", "snapshot", "list", "-f", "value")
		return !strings.Contains(out, name), err
	})
	if err != nil {
		t.Error(err)
	}
}

// dropImage deletes an image by its name, which no other test uses.
func dropImage(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), removeMax)
	defer cancel()
	if out, err := cloud.Client(ctx, "openstack", "image", "delete", name); err != nil {
		t.Errorf("image %s: %v %s", name, err, out)
	}
}
