package e2e

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

// disk is where the lab's storage node has the directories of its back ends.
const disk = "/var/lib/godwit/disk"

// volumeType makes a volume type with extra specs, and removes it when the test ends.
func volumeType(t *testing.T, name string, specs ...string) {
	t.Helper()
	stock(t, "cinder", "type-create", name)
	later(t, "cinder", "type-delete", name)
	stock(t, append([]string{"cinder", "type-key", name, "set"}, specs...)...)
}

// typed makes a volume of a type, from an image unless that is empty, and removes it when the test ends.
func typed(t *testing.T, name, kind, image string) string {
	t.Helper()
	argv := []string{"openstack", "volume", "create", "--size", "1", "--type", kind}
	if image != "" {
		argv = append(argv, "--image", image)
	}
	id := fieldOf(t, stock(t, append(argv, name)...), "id")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), removeMax)
		defer cancel()
		if err := cloud.RemoveVolume(ctx, id); err != nil {
			t.Error(err)
		}
	})
	if _, err := cloud.WaitVolume(t.Context(), id, "available"); err != nil {
		t.Fatal(err)
	}
	return id
}

// sum is the checksum of what a guest uses of a volume's data on a back end, "" when it is not there.
func sum(t *testing.T, backend, volume string) string {
	t.Helper()
	file := disk + "/" + backend + "/volumes/" + volume + "/data"
	out, err := on(t.Context(), storage, "sh", "-c", `[ ! -e "$1" ] || head -c 64M "$1" | sha256sum`, "sh", file)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAVolumeChangesItsBackEndAndGoesBackInTime: what a type says decides where a volume is made; another type moves its data, every bit of it, and the
// volume boots there; a snapshot brings back what was before.
func TestAVolumeChangesItsBackEndAndGoesBackInTime(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	volumeType(t, "usual", "volume_backend_name=main")
	volumeType(t, "elsewhere", "volume_backend_name=second")
	made := typed(t, "made-there", "elsewhere", "")
	if sum(t, "second", made) == "" || sum(t, "main", made) != "" {
		t.Error("a volume of a type with a back end was not made on it")
	}
	root := typed(t, "wanders-root", "usual", cloud.ImageID)
	before := sum(t, "main", root)
	if out, err := cloud.Client(ctx, "cinder", "retype", "--migration-policy", "never", root, "elsewhere"); err == nil {
		t.Errorf("a retype that must not move data was accepted:\n%s", out)
	}
	stock(t, "cinder", "retype", "--migration-policy", "on-demand", root, "elsewhere")
	awaitVolume(t, root, func(v *volumes.Volume) bool { return v.Status == "available" && v.VolumeType == "elsewhere" })
	if after, left := sum(t, "second", root), sum(t, "main", root); before == "" || after != before || left != "" {
		t.Errorf("the data was %q; after the retype it is %q, and %q where it was", before, after, left)
	}

	stock(t, "cinder", "snapshot-create", "--name", "before-boot", root)
	snapshotGoes(t, "before-boot")
	until(t, "available", "openstack", "volume", "snapshot", "show", "before-boot", "-c", "status", "-f", "value")
	settler := cloud.Guest("wanders", here, guestOptions{}.orders())
	settler.Volume = root
	s, err := cloud.Boot(ctx, settler)
	if err != nil {
		t.Fatal(err)
	}
	g := connect(t, s)
	g.whole(t)
	remove(t, g.id)
	awaitVolume(t, root, func(v *volumes.Volume) bool { return v.Status == "available" })
	if sum(t, "second", root) == before {
		t.Fatal("a guest that ran has left no trace on its volume")
	}
	stock(t, "cinder", "--os-volume-api-version", "3.40", "revert-to-snapshot", "before-boot")
	awaitVolume(t, root, func(v *volumes.Volume) bool { return v.Status == "available" })
	if now := sum(t, "second", root); now != before {
		t.Errorf("reverted to its snapshot the volume is %s, was %s", now, before)
	}
}

// awaitVolume waits until a volume is as it should be, and fails early when it is in error.
func awaitVolume(t *testing.T, id string, met func(v *volumes.Volume) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), changeMax)
	defer cancel()
	var last *volumes.Volume
	err := labcloud.Until(ctx, "volume "+id, func() (bool, error) {
		v, err := volumes.Get(ctx, cloud.Volume, id).Extract()
		last = v
		return err == nil && (met(v) || strings.HasPrefix(v.Status, "error")), err
	})
	if err != nil || !met(last) {
		t.Fatalf("volume is %+v: %v", last, err)
	}
}

// hog takes all room of the storage node's disk, to the last block, without writing it.
const hog = `avail=$(df -B1 --output=avail "$1" | tail -1)
i=0; size=$avail
while [ $size -ge 4096 ]; do
  if fallocate -l $size "$1/hog.$i" 2>/dev/null; then i=$((i+1)); else rm -f "$1/hog.$i"; size=$((size/2)); fi
done`

const (
	// iopsMax is a volume's limit: far below what the guest asks for and any machine gives.
	iopsMax = 20
	// iopsSlack is how much more may pass in a while: what was saved up before, and that the guest counts by another clock.
	iopsSlack = 1.25
	// counted is how long, in the guest's time, records are counted for.
	counted = 4 * time.Second
)

// TestAVolumeKeepsToItsRoomAndItsLimit, which a guest sees as time, never as an error.
func TestAVolumeKeepsToItsRoomAndItsLimit(t *testing.T) {
	ctx := t.Context()
	volumeType(t, "slow", "godwit:iops_max="+strconv.Itoa(iopsMax)) // before the volume, so that it is deleted after it
	g := bootFromVolume(t, guestOptions{name: "squeezed", host: here, logPeriod: "1ms"})
	free := func() {
		if _, err := on(context.Background(), storage, "sh", "-c", "rm -f "+disk+"/hog.*"); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(free)
	t.Run("a full back end holds the guest up, and it goes on by itself once there is room", func(t *testing.T) {
		before := g.status(t)
		if _, err := on(ctx, storage, "sh", "-c", hog, "sh", disk); err != nil {
			t.Fatal(err)
		}
		awaitDomain(ctx, t, here, g.id, "paused (I/O error)")
		if s, err := cloud.Server(ctx, g.id); err != nil || s.Status == "ERROR" {
			t.Errorf("a guest that waits for room is shown as %+v, %v", s, err)
		}
		g.toldOfNoRoom(ctx, t)
		awaitStatus(t, "no room: volume", "(squeezed-root), server "+g.id+" stands still since")
		free()
		g.goesOn(t, before)
		g.whole(t)
		awaitStatus(t, "") // it is over
	})
	t.Run("a type's limit counts from the retype on", func(t *testing.T) {
		unlimited := g.rate(t)
		stock(t, "cinder", "retype", "squeezed-root", "slow")
		s, err := cloud.Server(ctx, g.id)
		if err != nil {
			t.Fatal(err)
		}
		awaitVolume(t, s.AttachedVolumes[0].ID, func(v *volumes.Volume) bool { return v.Status == "in-use" && v.VolumeType == "slow" })
		g.writes(t, 2*iopsMax) // what had been saved up is used up
		limited := g.rate(t)
		t.Logf("records a second: %.0f with a limit of %d requests, %.0f without", limited, iopsMax, unlimited)
		if limited > iopsMax*iopsSlack || limited == 0 {
			t.Errorf("with a limit of %d requests a second the guest writes %.1f records a second", iopsMax, limited)
		}
		if unlimited < 2*limited {
			t.Errorf("the guest wrote %.1f records a second without a limit and %.1f with one: nothing was limited", unlimited, limited)
		}
	})
	if now := g.status(t); now.LogErrors != 0 {
		t.Errorf("the guest met %d errors", now.LogErrors)
	}
}

// awaitStatus waits until `godwit volumes status` has a row with all the texts; "" waits until nothing is said to be out of room.
func awaitStatus(t *testing.T, texts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), changeMax)
	defer cancel()
	said := ""
	err := labcloud.Until(ctx, "volumes status says "+strings.Join(texts, " "), func() (bool, error) {
		cmd := exec.CommandContext(ctx, godwit, "volumes", "status")
		cmd.Env = append(os.Environ(), cloud.Env...)
		out, err := cmd.Output()
		if said = string(out); texts[0] == "" {
			return err == nil && !strings.Contains(said, "no room"), err
		}
		for row := range strings.Lines(said) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(row, text) }) {
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		t.Fatalf("%v; it says\n%s", err, said)
	}
}

// rate is how many records the guest writes in a second.
func (g *running) rate(t *testing.T) float64 {
	t.Helper()
	first := g.status(t)
	last := first
	err := labcloud.Until(t.Context(), "records", func() (bool, error) {
		var err error
		last, err = g.talk.Status(t.Context())
		return last.UptimeMS-first.UptimeMS >= counted.Milliseconds(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return float64(last.LogLast-first.LogLast) * 1000 / float64(last.UptimeMS-first.UptimeMS)
}
