package gluster

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// storageMax covers building, a lab with GlusterFS, two boots and a move on a machine that is busy with other things.
const storageMax = 10 * time.Minute

// farVolume makes a volume of the type that is kept on GlusterFS and waits until it is there.
func farVolume(ctx context.Context, t *testing.T, f *labcloud.Fixture, o volumes.CreateOpts) string {
	t.Helper()
	o.Size = 1
	if o.SnapshotID == "" {
		o.VolumeType = "far"
	}
	v, err := volumes.Create(ctx, f.Volume, o, nil).Extract()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WaitVolume(ctx, v.ID, "available"); err != nil {
		t.Fatal(err)
	}
	return v.ID
}

// bootOn boots a guest whose disk is the volume.
func bootOn(ctx context.Context, t *testing.T, f *labcloud.Fixture, name, volume, host string) (*servers.Server, *guest.Client) {
	t.Helper()
	g := f.Guest(name, host, map[string]string{"tick": "100ms", "log": "20ms"})
	g.Volume = volume
	s, err := f.Boot(ctx, g)
	if err != nil {
		t.Fatal(err)
	}
	talk, err := f.Talk(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	return s, talk
}

// keeps has the guest write a record, and read all it ever wrote.
func keeps(ctx context.Context, t *testing.T, talk *guest.Client) {
	t.Helper()
	last, err := talk.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := talk.Verify(ctx); err != nil || !r.OK || r.Last < last {
		t.Fatalf("disk log: %+v, %v; record %d was synced", r, err, last)
	}
}

// TestVolumesOnGlusterFS: a volume type puts a volume on a GlusterFS; a guest boots from it, writes, moves without it, outlives the volume service, and is copied
// by a snapshot while it writes.
func TestVolumesOnGlusterFS(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root and a lab")
	}
	ctx, cancel := context.WithTimeout(t.Context(), storageMax)
	defer cancel()
	began := time.Now()
	step := func(name string) { t.Logf("%v: %s", time.Since(began).Round(time.Second), name) }
	f := bringUp(ctx, t, 1)
	step("there is a cloud")
	for _, argv := range [][]string{{"cinder", "type-create", "far"}, {"cinder", "type-key", "far", "set", "volume_backend_name=" + lab.FarBackend}} {
		if out, err := f.Client(ctx, argv...); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	node := lab.StorageName(1)
	data := func(volume string) string { return lab.FarInside + "/volumes/volumes/" + volume + "/data" }
	root := farVolume(ctx, t, f, volumes.CreateOpts{Name: "root", ImageID: f.ImageID})
	if out, err := f.Lab.Output(ctx, node, "stat", "-f", "-c", "%T", data(root)); err != nil || !strings.Contains(out, "fuse") {
		t.Fatalf("the volume's data lies on %q, %v", out, err)
	}
	step("the volume is made of the image")
	s, talk := bootOn(ctx, t, f, "far-away", root, "compute-1")
	defer func() { _ = talk.Close() }()
	keeps(ctx, t, talk)

	step("the guest writes")
	m, err := f.Move(ctx, s.ID, "compute-2")
	if err != nil || m.Status != "completed" {
		t.Fatalf("the move: %+v, %v", m, err)
	}
	if r, err := f.Record(ctx, m.UUID); err != nil || r.Kind != "volume" || r.Totals.DiskTotal != 0 {
		t.Errorf("the move: %+v, %v", r, err)
	}
	keeps(ctx, t, talk)

	step("it has moved")
	if err := f.Lab.KillUnit(ctx, node, lab.UnitVolumes); err != nil {
		t.Fatal(err)
	}
	keeps(ctx, t, talk) // once the service is back
	step("its service was killed")

	if out, err := f.Client(ctx, "cinder", "snapshot-create", "--force", "True", "--name", "moment", root); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	snapshot := ""
	err = labcloud.Until(ctx, "snapshot available", func() (bool, error) {
		out, err := f.Client(ctx, "openstack", "volume", "snapshot", "show", "moment", "-f", "value", "-c", "id", "-c", "status")
		snapshot = strings.Fields(out + " -")[0]
		return strings.Contains(out, "available"), err
	})
	if err != nil {
		t.Fatal(err)
	}
	keeps(ctx, t, talk)
	step("its volume is kept in a snapshot")
	copied := farVolume(ctx, t, f, volumes.CreateOpts{Name: "copy", SnapshotID: snapshot})
	if out, err := f.Lab.Output(ctx, node, "stat", "-c", "%b %B", data(copied)); err != nil {
		t.Errorf("a volume of a snapshot is not where the snapshot is: %s, %v", out, err)
	}
	step("a volume is made of that")
	twin, other := bootOn(ctx, t, f, "twin", copied, "compute-1")
	keeps(ctx, t, other)
	_ = other.Close()
	step("a guest runs on the copy")

	for _, id := range []string{twin.ID, s.ID} {
		if err := f.Remove(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.RemoveVolume(ctx, copied); err != nil {
		t.Fatal(err)
	}
	if out, err := f.Client(ctx, "cinder", "snapshot-delete", "moment"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	err = labcloud.Until(ctx, "snapshot gone", func() (bool, error) {
		_, err := f.Client(ctx, "openstack", "volume", "snapshot", "show", "moment")
		return err != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveVolume(ctx, root); err != nil {
		t.Fatal(err)
	}
	if out, err := f.Lab.Output(ctx, node, "sh", "-c", "find "+lab.FarInside+"/volumes/volumes -name data"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("what is deleted is still there: %s, %v", out, err)
	}
}
