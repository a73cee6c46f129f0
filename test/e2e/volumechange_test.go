package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// changeMax bounds each change of a volume: an image of 2 GiB is hashed twice on a busy machine.
const changeMax = 3 * time.Minute

// until waits for a stock client to say something.
func until(t *testing.T, text string, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), changeMax)
	defer cancel()
	said := ""
	err := labcloud.Until(ctx, strings.Join(argv, " ")+" says "+text, func() (bool, error) {
		out, err := cloud.Client(ctx, argv...)
		said = out
		return strings.Contains(out, text), err
	})
	if err != nil {
		t.Fatalf("%v; it says\n%s", err, said)
	}
}

// later removes what a stock client made when the test ends, however it ends.
func later(t *testing.T, argv ...string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), removeMax)
		defer cancel()
		if out, err := cloud.Client(ctx, argv...); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestAVolumeInUseGrowsAndIsKept: the guest goes on while its volume grows, is kept in a snapshot, copied into a volume and read into an image. With
// its next connection, made by a move, QEMU knows the new size.
func TestAVolumeInUseGrowsAndIsKept(t *testing.T) {
	ctx := t.Context()
	g := bootFromVolume(t, guestOptions{name: "grows", host: here})
	volume := fieldOf(t, stock(t, "openstack", "volume", "show", "grows-root"), "id")
	before := g.status(t)

	stock(t, "cinder", "extend", volume, fmt.Sprint(bootableGiB+1))
	if v, err := cloud.WaitVolume(ctx, volume, "in-use"); err != nil || v.Size != bootableGiB+1 {
		t.Fatalf("after it grew: %+v, %v", v, err)
	}
	// The connection that QEMU makes now finds another size than the first one did.
	grown := g.status(t)
	killUnit(ctx, t, storage, lab.UnitVolumes)
	g.goesOn(t, grown)
	moveTo(ctx, t, g, there)
	if out, err := on(ctx, there, "virsh", "domblkinfo", g.id, "vda"); err != nil || !strings.Contains(out, fmt.Sprint((bootableGiB+1)<<30)) {
		t.Errorf("after the move QEMU does not know the new size: %s, %v", out, err)
	}

	stock(t, "cinder", "snapshot-create", "--name", "moment", "--force", "True", volume)
	later(t, "cinder", "snapshot-delete", "moment")
	until(t, "available", "openstack", "volume", "snapshot", "show", "moment", "-c", "status", "-f", "value")
	snapshot := strings.TrimSpace(stock(t, "openstack", "volume", "snapshot", "show", "moment", "-c", "id", "-f", "value"))
	copied := fieldOf(t, stock(t, "cinder", "create", "--snapshot-id", snapshot, "--name", "copy"), "id")
	later(t, "cinder", "delete", copied)
	if v, err := cloud.WaitVolume(ctx, copied, "available"); err != nil || v.Bootable != "true" || v.Size != bootableGiB+1 {
		t.Errorf("copy is %+v, %v", v, err)
	}

	stock(t, "cinder", "upload-to-image", "--force", "True", volume, "of-the-guest")
	later(t, "openstack", "image", "delete", "of-the-guest")
	until(t, "active", "openstack", "image", "show", "of-the-guest", "-c", "status", "-f", "value")
	if _, err := cloud.WaitVolume(ctx, volume, "in-use"); err != nil {
		t.Error(err)
	}
	g.goesOn(t, before)
	g.whole(t)

	if out, err := cloud.Client(ctx, "cinder", "delete", volume); err == nil {
		t.Errorf("a volume in use was deleted:\n%s", out)
	}
}
