package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// askers is how many requests for one volume each server makes at the same time.
const askers = 4

// TestOneServerWinsARaceForAVolume: servers on different hosts ask for one volume at the same time, through the API, while it is free, being taken from
// another, while the server that has it moves, and while its service dies. One has it in the end, and no guest notices anything on its own disk.
func TestOneServerWinsARaceForAVolume(t *testing.T) {
	ctx := t.Context()
	volume := volumeOf(t, "coveted", "")
	rivals := bootAll(t, guestOptions{name: "rival-1", host: here}, guestOptions{name: "rival-2", host: there}, guestOptions{name: "rival-3", host: "compute-3"})
	free := func() {
		if v := rested(t, volume); len(v.Attachments) == 1 {
			if err := cloud.DetachVolume(ctx, v.Attachments[0].ServerID, volume); err != nil {
				t.Fatal(err)
			}
		}
	}
	nothing := func(*running) error { return nil }
	for _, c := range []struct {
		name   string
		taken  bool                     // the first of them has it
		during func(has *running) error // what happens beside the race
		wins   int                      // requests that must be granted; -1: at most one
	}{
		{"free", false, nothing, 1},
		{"while another gives it back", true, func(has *running) error {
			return volumeattach.Delete(ctx, cloud.Compute, has.id, volume).ExtractErr()
		}, -1},
		{"while the server that has it moves", true, func(has *running) error {
			m, err := cloud.Move(ctx, has.id, "")
			if err == nil && m.Status != "completed" {
				err = fmt.Errorf("the migration ended %s", m.Status)
			}
			return err
		}, 0},
		{"while its service dies", false, func(*running) error { return cloud.Lab.KillUnit(ctx, storage, lab.UnitVolumes) }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			free()
			var holder *running
			if c.taken {
				holder = rivals[0]
				if _, err := cloud.AttachVolume(ctx, holder.id, volume); err != nil {
					t.Fatal(err)
				}
			}
			beside := make(chan error, 1)
			go func() { beside <- c.during(holder) }()
			granted := race(ctx, rivals, volume)
			if err := <-beside; err != nil {
				t.Error(err)
			}
			if c.wins >= 0 && granted != c.wins || granted > 1 {
				t.Errorf("%d of the requests for one volume were granted", granted)
			}
			owned(t, rivals, volume, holder, granted)
		})
	}
	for _, g := range rivals {
		if now := g.status(t); now.LogErrors != 0 {
			t.Errorf("%s met %d errors on its disk", g.id, now.LogErrors)
		}
		g.whole(t)
	}
}

// race has every server ask for the volume several times at once, and counts the requests that were granted.
func race(ctx context.Context, rivals []*running, volume string) (granted int) {
	start := make(chan struct{})
	yes := make(chan bool, len(rivals)*askers)
	for _, g := range rivals {
		for range askers {
			go func() {
				<-start
				_, err := volumeattach.Create(ctx, cloud.Compute, g.id, volumeattach.CreateOpts{VolumeID: volume}).Extract()
				yes <- err == nil
			}()
		}
	}
	close(start)
	for range cap(yes) {
		if <-yes {
			granted++
		}
	}
	return granted
}

// rested waits until nothing is being done with the volume.
func rested(t *testing.T, volume string) *volumes.Volume {
	t.Helper()
	var out *volumes.Volume
	awaitVolume(t, volume, func(v *volumes.Volume) bool {
		out = v
		return v.Status == "in-use" && len(v.Attachments) == 1 || v.Status == "available" && len(v.Attachments) == 0
	})
	return out
}

// owned checks that after a race everybody who knows says the same about whose the volume is: its own record, every server's, and every host's libvirt.
func owned(t *testing.T, rivals []*running, volume string, before *running, granted int) {
	t.Helper()
	ctx := t.Context()
	v := rested(t, volume)
	owner := ""
	if len(v.Attachments) == 1 {
		owner = v.Attachments[0].ServerID
	}
	if owner == "" && (granted == 1 || before == nil) {
		t.Errorf("nobody has the volume, and %d requests were granted", granted)
	}
	for _, g := range rivals {
		err := labcloud.Until(ctx, "", func() (bool, error) {
			s, err := servers.Get(ctx, cloud.Compute, g.id).Extract()
			return err == nil && (len(s.AttachedVolumes) == 1) == (g.id == owner), err
		})
		if err != nil {
			t.Errorf("server %s and the volume, which is %s's, do not agree: %v", g.id, owner, err)
		}
		out, err := on(ctx, g.host(t), "sh", "-c", `virsh -q domblklist "$1" | grep -c "$2"; true`, "sh", g.id, volume)
		if err != nil || (out == "1") != (g.id == owner) {
			t.Errorf("the guest of server %s has the volume %s times: %v; it is %s's", g.id, out, err, owner)
		}
	}
}
