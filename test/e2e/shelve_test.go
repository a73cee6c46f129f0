package e2e

import (
	"context"
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
	t.Cleanup(func() { dropImage(t, "shelf-shelved") })

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

// dropImage deletes an image by its name, which no other test uses.
func dropImage(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), removeMax)
	defer cancel()
	if out, err := cloud.Client(ctx, "openstack", "image", "delete", name); err != nil {
		t.Errorf("image %s: %v %s", name, err, out)
	}
}
