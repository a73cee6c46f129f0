package e2e

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// storage is the node of the lab's volume service.
var storage = lab.StorageName(1)

// bootableGiB is the size of the volumes that guests boot from; the image needs a fraction of it.
const bootableGiB = 1

// bootable makes a volume from the guest's image, and removes it when the test ends.
func bootable(t *testing.T, name string) string {
	t.Helper()
	return volumeOf(t, name, cloud.ImageID)
}

func volumeOf(t *testing.T, name, image string) string {
	t.Helper()
	id, err := cloud.CreateVolume(t.Context(), name, image, bootableGiB)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), removeMax)
		defer cancel()
		if err := cloud.RemoveVolume(ctx, id); err != nil {
			t.Error(err)
		}
	})
	return id
}

// bootFromVolume boots a guest whose only writable disk is a volume.
func bootFromVolume(t *testing.T, o guestOptions) *running {
	t.Helper()
	o.volume = bootable(t, o.name+"-root")
	return boot(t, o)
}

// stock runs a stock client.
func stock(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := cloud.Client(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fieldOf returns a value of a stock client's table.
func fieldOf(t *testing.T, table, name string) string {
	t.Helper()
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 2 && strings.TrimSpace(cells[1]) == name {
			return strings.TrimSpace(cells[2])
		}
	}
	t.Fatalf("no %s in\n%s", name, table)
	return ""
}

// TestVolumeWalkThroughWithStockClients is the seed's second walk-through: a server boots from a volume and moves without its disk. The option's name has
// dashes: the clients of Debian 12 no longer know it with underscores.
func TestVolumeWalkThroughWithStockClients(t *testing.T) {
	ctx := t.Context()
	volume := fieldOf(t, stock(t, "cinder", "create", "--image-id", cloud.ImageID, "--display-name", "bootable-vol", "5"), "id")
	other := fieldOf(t, stock(t, "openstack", "volume", "create", "--image", cloud.ImageID, "--size", "5", "bootable-too"), "id")
	for _, v := range []string{volume, other} {
		t.Cleanup(func() {
			if err := cloud.RemoveVolume(context.Background(), v); err != nil {
				t.Error(err)
			}
		})
		if made, err := cloud.WaitVolume(ctx, v, "available"); err != nil || made.Bootable != "true" {
			t.Fatalf("volume %+v, %v", made, err)
		}
	}
	id := fieldOf(t, stock(t, "nova", "boot", "--image", cloud.ImageID, "--flavor", cloud.FlavorID, "--nic", "net-id="+cloud.NetworkID, "--config-drive", "true",
		"--meta", "godwit.tick=100ms", "--meta", "godwit.log=20ms", "--block-device-mapping", "vda="+volume+":::0", "vm-boot-from-vol"), "id")
	gone := false
	t.Cleanup(func() {
		if !gone {
			retire(t, "vm-boot-from-vol", id)
		}
	})
	s, err := cloud.WaitStatus(ctx, id, "ACTIVE")
	if err != nil {
		t.Fatal(err)
	}
	g := connect(t, s)
	begin := g.status(t)
	if out := stock(t, "cinder", "list"); !strings.Contains(out, "in-use") || !strings.Contains(out, id) {
		t.Errorf("cinder list:\n%s", out)
	}
	if out := stock(t, "nova", "show", "vm-boot-from-vol"); !strings.Contains(out, volume) {
		t.Errorf("nova show does not name the volume:\n%s", out)
	}
	var blackouts []time.Duration
	for i, m := range []struct {
		argv []string
		to   string
	}{
		{[]string{"nova", "live-migration", "vm-boot-from-vol", there}, there},
		{[]string{"nova", "live-migration", "vm-boot-from-vol"}, ""},
		{[]string{"openstack", "server", "migrate", "--live-migration", "vm-boot-from-vol"}, ""},
	} {
		if i == 0 && g.host(t) == there {
			moveTo(ctx, t, g, here)
		}
		blackouts = append(blackouts, g.movesBy(t, m.to, m.argv...))
	}
	blinked(t, blackouts)
	if now := g.status(t); now.BootID != begin.BootID {
		t.Error("the guest rebooted on its way")
	}
	g.whole(t)
	before := g.status(t)
	a := do(ctx, t, call{method: "POST", path: "servers/" + id + "/action", version: "2.25", body: migrateBody(nil, map[string]any{"block_migration": true})})
	if a.code != http.StatusBadRequest || !strings.Contains(a.body, "is not on local storage: Block migration can not be used with shared storage") {
		t.Errorf("block migration of a server without a local disk: %d %s", a.code, a.body)
	}
	g.untouched(t, before)
	remove(t, id)
	gone = true
	if v, err := cloud.WaitVolume(ctx, volume, "available"); err != nil || len(v.Attachments) != 0 {
		t.Errorf("after its server was deleted: %+v, %v", v, err)
	}
	bootsAsWritten(t, other)
}

// mediumTries is how often the seed's flavor is moved at most, until a move had no more than a blink beside QEMU's set-up. A guest that has just booted stands still for longest: docs/operating/guests.md.
const mediumTries = 2

// bootsAsWritten boots the seed's flavor, of which every host has room for a few, from a volume, as the seed does, and moves it. Where guests are emulated,
// so much memory stands still while QEMU sets a migration up, for as long as QEMU says, and no longer.
func bootsAsWritten(t *testing.T, volume string) {
	t.Helper()
	id := fieldOf(t, stock(t, "nova", "boot", "--image", cloud.ImageID, "--flavor", "m1.medium", "--nic", "net-id="+cloud.NetworkID,
		"--meta", "godwit.tick=100ms", "--meta", "godwit.log=20ms", "--block-device-mapping", "vda="+volume+":::0", "vm-of-the-seed"), "id")
	defer remove(t, id)
	s, err := cloud.WaitStatus(t.Context(), id, "ACTIVE")
	if err != nil {
		t.Error(err)
		return
	}
	g := connect(t, s)
	if now := g.status(t); now.BootID == "" {
		t.Errorf("the guest says %+v", now)
	}
	var unexplained []time.Duration
	for range mediumTries {
		blackout := g.movesBy(t, "", "nova", "live-migration", "vm-of-the-seed")
		list, err := cloud.Migrations(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		m, err := cloud.Record(t.Context(), labcloud.Newest(list).UUID)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("of a blackout of %v QEMU spent %v on its set-up, with a downtime of %v", blackout, m.Totals.Setup, m.Totals.Downtime)
		unexplained = append(unexplained, blackout-m.Totals.Setup)
		if unexplained[len(unexplained)-1] <= blackoutMax {
			break
		}
	}
	blinked(t, unexplained)
	g.whole(t)
}

// movesBy moves the guest with a stock client, checks that it got where it should and that nothing was copied, and returns for how long nobody reached it.
func (g *running) movesBy(t *testing.T, to string, argv ...string) time.Duration {
	t.Helper()
	ctx, from := t.Context(), g.host(t)
	known, err := cloud.Migrations(ctx, g.id)
	if err != nil {
		t.Fatal(err)
	}
	trace, err := cloud.Peer.StartTrace(ctx, netip.MustParseAddr(g.ip), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := trace.AwaitReply(ctx); err != nil {
		t.Fatal(err)
	}
	stock(t, argv...)
	end, err := cloud.WaitMigration(ctx, g.id, len(known))
	if err != nil {
		t.Fatal(err)
	}
	record, err := cloud.Record(ctx, end.UUID)
	if err != nil {
		t.Fatal(err)
	}
	if end.Status != "completed" || record.Kind != "volume" || record.Totals == nil || record.Totals.DiskTotal != 0 {
		t.Fatalf("%v: ended %s, kind %s, totals %+v", argv, end.Status, record.Kind, record.Totals)
	}
	at := g.host(t)
	if at == from || to != "" && at != to {
		t.Errorf("%v: from %s to %s", argv, from, at)
	}
	g.goesOn(t, g.status(t))
	report, err := trace.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s to %s, blackout %v", strings.Join(argv, " "), from, at, report.Blackout)
	leavesNothing(ctx, t, from, g.id)
	return report.Blackout
}

// TestAVolumeIsPluggedInMovedAndTakenOut: a server with a local disk gets a volume while it runs, moves with both, and gives it back.
func TestAVolumeIsPluggedInMovedAndTakenOut(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	volume := volumeOf(t, "data", "") // before the guest, so that it is deleted after it
	g := boot(t, guestOptions{name: "hot-plug", host: here})
	device, err := cloud.AttachVolume(ctx, g.id, volume)
	if err != nil {
		t.Fatal(err)
	}
	target := strings.TrimPrefix(device, "/dev/")
	g.reads(t, here, target)
	if err := cloud.RemoveVolume(ctx, volume); err == nil {
		t.Fatal("a volume in use was deleted")
	}
	moveTo(ctx, t, g, there)
	if err := cloud.DetachVolume(ctx, g.id, volume); err != nil {
		t.Fatal(err)
	}
	if out, err := on(ctx, there, "virsh", "-q", "domblklist", g.id); err != nil || strings.Contains(out, volume) {
		t.Errorf("after it was taken out: %s, %v", out, err)
	}
	if _, err := cloud.AttachVolume(ctx, g.id, volume); err != nil { // and in again, for the deletion of its server
		t.Fatal(err)
	}
	g.whole(t)
}

// reads waits until the guest has read from a disk, as a guest does that has found a new one.
func (g *running) reads(t *testing.T, host, target string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cleanMax)
	defer cancel()
	err := labcloud.Until(ctx, "guest reads "+target, func() (bool, error) {
		out, err := on(ctx, host, "virsh", "-q", "domblkstat", g.id, target)
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) == 3 && f[1] == "rd_req" {
				return f[2] != "0", nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAGuestOutlivesItsVolumeService: the guest stands still while its disk is away and goes on without having met an error.
func TestAGuestOutlivesItsVolumeService(t *testing.T) {
	ctx := t.Context()
	g := bootFromVolume(t, guestOptions{name: "outlives", host: here})
	for _, c := range []struct {
		name string
		away func(t *testing.T)
	}{
		{"killed", func(t *testing.T) { killUnit(ctx, t, storage, lab.UnitVolumes) }},
		{"away for a while", func(t *testing.T) {
			if err := cloud.Lab.CrashUnit(ctx, storage, lab.UnitVolumes); err != nil {
				t.Fatal(err)
			}
			awaitDomain(ctx, t, here, g.id, "paused")
			if err := cloud.Lab.StartUnit(ctx, storage, lab.UnitVolumes); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := g.status(t)
			began := time.Now()
			c.away(t)
			g.goesOn(t, before)
			t.Logf("went on after %v", time.Since(began))
			g.whole(t)
		})
	}
}

const (
	// stallMax is how long a guest may wait for its volume while server and agents come and go. They are not in the way at all; the bound is above what
	// guests wait for on a machine that does too much at once.
	stallMax = 2 * time.Second
	// awayFor is how many records a guest writes while a daemon is not there: with one every 20 ms, longer than stallMax.
	awayFor = 150
)

// TestRestartsOfServerAndAgentStallNoVolume: the data path needs neither. Each ends in order, is killed, and stays away for a while; the guest's longest
// wait for its volume over all of that is short.
func TestRestartsOfServerAndAgentStallNoVolume(t *testing.T) {
	ctx := t.Context()
	g := bootFromVolume(t, guestOptions{name: "unstalled", host: here})
	if _, err := g.talk.Stall(ctx); err != nil { // from now on
		t.Fatal(err)
	}
	began := time.Now()
	for _, unit := range []struct{ node, unit string }{{lab.Controller, lab.UnitServer}, {here, lab.UnitAgent}} {
		for _, end := range []func(context.Context, string, string) error{cloud.Lab.StopUnit, cloud.Lab.CrashUnit} {
			if err := end(ctx, unit.node, unit.unit); err != nil {
				t.Fatal(err)
			}
			g.writes(t, awayFor)
			if err := cloud.Lab.StartUnit(ctx, unit.node, unit.unit); err != nil {
				t.Fatal(err)
			}
			settled(ctx, t)
		}
		for _, again := range []func(context.Context, string, string) error{cloud.Lab.RestartUnit, cloud.Lab.KillUnit} {
			if err := again(ctx, unit.node, unit.unit); err != nil {
				t.Fatal(err)
			}
			settled(ctx, t)
		}
	}
	stall, err := g.talk.Stall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the longest wait in %v was %v", time.Since(began).Round(time.Second), stall)
	if stall > stallMax {
		t.Errorf("the guest waited %v for its volume", stall)
	}
	g.whole(t)
}

// writes waits until the guest has written so many more records.
func (g *running) writes(t *testing.T, records uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want := g.status(t).LogLast + records
	err := labcloud.Until(ctx, "guest writes", func() (bool, error) {
		now, err := g.talk.Status(ctx)
		return now.LogLast >= want, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKillsInTheMiddleOfAVolumeMigration: whoever is killed, one host writes, and no record is lost.
func TestKillsInTheMiddleOfAVolumeMigration(t *testing.T) {
	g := bootFromVolume(t, travelling("volume-east", here))
	at := func(from string, m moment) string { return "of the move from " + from + " " + m.name }
	for _, v := range []victim{ // there is the target of one move and the source of the other
		{"volume service", func(ctx context.Context, t *testing.T) {
			killUnit(ctx, t, storage, lab.UnitVolumes)
			g.goesOn(t, g.status(t)) // once the service is back
			awaitRuns(ctx, t, g.id)
		}, []string{at(here, receiving), at(there, halfway)}},
		{"agent", func(ctx context.Context, t *testing.T) { killUnit(ctx, t, there, lab.UnitAgent) }, []string{at(here, halfway), at(there, receiving)}},
		{"libvirtd", func(ctx context.Context, t *testing.T) { killUnit(ctx, t, there, lab.UnitLibvirtd) }, []string{at(here, receiving), at(there, halfway)}},
		{"server", func(ctx context.Context, t *testing.T) { killUnit(ctx, t, lab.Controller, lab.UnitServer) }, []string{at(here, halfway)}},
		{"storage node", func(ctx context.Context, t *testing.T) {
			cutPower(ctx, t, storage)
			g.goesOn(t, g.status(t))
			awaitRuns(ctx, t, g.id)
		}, nil}, // what the death of its only service does, and slower
	} {
		for _, from := range []string{here, there} {
			for _, m := range []moment{receiving, halfway} {
				name := at(from, m)
				if !drill && !slices.Contains(v.always, name) {
					continue
				}
				t.Run(v.name+" "+name, func(t *testing.T) {
					idle(t, []*running{g})
					if g.host(t) != from {
						moveTo(t.Context(), t, g, from)
					}
					strike(t, []*running{g}, m, v.kill)
					g.writesAlone(t)
				})
			}
		}
	}
}

// cutPower takes a node's power away and gives it back.
func cutPower(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	if err := cloud.Lab.PowerOff(ctx, node); err != nil {
		t.Fatal(err)
	}
	if err := cloud.Lab.PowerOn(ctx, node); err != nil {
		t.Fatal(err)
	}
}

// awaitRuns waits until the guest's CPUs run on one host and no move of it is in progress.
func awaitRuns(ctx context.Context, t *testing.T, id string) {
	t.Helper()
	err := labcloud.Until(ctx, id+" runs", func() (bool, error) {
		runs := 0
		for _, node := range cloud.Lab.ComputeNodes() {
			if strings.HasPrefix(domainState(ctx, node, id), "running") {
				runs++
			}
		}
		return runs == 1, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// writesAlone checks that the guest's volume has one attachment, on the guest's host.
func (g *running) writesAlone(t *testing.T) {
	t.Helper()
	s, err := cloud.Server(t.Context(), g.id)
	if err != nil || len(s.AttachedVolumes) != 1 {
		t.Fatalf("volumes %v, %v", s.AttachedVolumes, err)
	}
	err = labcloud.Until(t.Context(), "one attachment of the volume", func() (bool, error) {
		v, err := cloud.WaitVolume(t.Context(), s.AttachedVolumes[0].ID, "in-use")
		return err == nil && len(v.Attachments) == 1 && v.Attachments[0].HostName == g.host(t), err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestBootsThatMakeTheirVolumes: the server's disks are made by its boot, in every way the stock clients ask for it, and go with it if that was asked.
func TestBootsThatMakeTheirVolumes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	size := strconv.Itoa(bootableGiB)
	base := bootable(t, "base")
	snapshot := fieldOf(t, stock(t, "openstack", "volume", "snapshot", "create", "--volume", base, "base-snapshot"), "id")
	snapshotGoes(t, snapshot)
	common := []string{"--flavor", cloud.FlavorID, "--nic", "net-id=" + cloud.NetworkID}
	for _, c := range []struct {
		name  string
		argv  []string
		disks int
		stays bool // the volumes are their owner's when the server is gone
	}{
		{"by nova from an image", []string{"nova", "boot", "--block-device", "source=image,id=" + cloud.ImageID + ",dest=volume,size=" + size + ",bootindex=0,shutdown=remove",
			"--block-device", "source=blank,dest=volume,size=1,shutdown=remove"}, 2, false},
		{"by nova from a snapshot", []string{"nova", "boot", "--block-device", "source=snapshot,id=" + snapshot + ",dest=volume,bootindex=0,shutdown=remove"}, 1, false},
		{"by openstack from an image", []string{"openstack", "server", "create", "--image", cloud.ImageID, "--boot-from-volume", size}, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := fieldOf(t, stock(t, append(append(c.argv, common...), "vm-of-its-own")...), "id")
			s, err := cloud.WaitStatus(ctx, id, "ACTIVE")
			if err != nil {
				t.Error(err)
				remove(t, id)
				return
			}
			if now := connect(t, s).status(t); now.BootID == "" || now.LogErrors != 0 {
				t.Errorf("the guest says %+v", now)
			}
			var made []string
			for _, v := range s.AttachedVolumes {
				made = append(made, v.ID)
			}
			if len(made) != c.disks {
				t.Errorf("it has %d volumes, want %d", len(made), c.disks)
			}
			remove(t, id)
			for _, v := range made {
				if c.stays {
					if _, err := cloud.WaitVolume(ctx, v, "available"); err != nil {
						t.Error(err)
					}
					if err := cloud.RemoveVolume(ctx, v); err != nil {
						t.Error(err)
					}
				} else if err := cloud.WaitVolumeGone(ctx, v); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// snapshotGoes removes a snapshot when the test ends, and waits for its end: its volume is removed next.
func snapshotGoes(t *testing.T, snapshot string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), removeMax)
		defer cancel()
		_, err := cloud.Client(ctx, "openstack", "volume", "snapshot", "delete", snapshot)
		if err == nil {
			err = labcloud.Until(ctx, "snapshot gone", func() (bool, error) {
				_, err := cloud.Client(ctx, "openstack", "volume", "snapshot", "show", snapshot)
				return err != nil, nil
			})
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// TestABootWhoseVolumeCannotBeMadeFailsWithTheReason.
func TestABootWhoseVolumeCannotBeMadeFailsWithTheReason(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	out, err := cloud.Client(ctx, "nova", "boot", "--flavor", cloud.FlavorID, "--nic", "net-id="+cloud.NetworkID,
		"--block-device", "source=image,id="+cloud.ImageID+",dest=volume,size=900,bootindex=0,shutdown=remove", "too-large")
	if err != nil {
		t.Fatal(err)
	}
	id := fieldOf(t, out, "id")
	defer remove(t, id)
	s, err := cloud.WaitStatus(ctx, id, "ERROR")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.Fault.Message, "did not finish being created") {
		t.Errorf("fault %q", s.Fault.Message)
	}
}

// TestAServerDeletedWhileItsVolumesAreMadeLeavesNone, whoever was at what when the deletion came.
func TestAServerDeletedWhileItsVolumesAreMadeLeavesNone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, c := range []struct {
		name string
		met  func(s *servers.Server, v *volumes.Volume) bool
	}{
		{"as soon as it was asked for", func(*servers.Server, *volumes.Volume) bool { return true }},
		{"when it has a host", func(s *servers.Server, _ *volumes.Volume) bool { return s.Host != "" }},
		{"when its volume is made", func(_ *servers.Server, v *volumes.Volume) bool {
			return v.Status != "creating" && v.Status != "downloading"
		}},
		{"when its volume is connected", func(_ *servers.Server, v *volumes.Volume) bool {
			return v.Status == "attaching" || v.Status == "in-use"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := cloud.Client(ctx, "nova", "boot", "--flavor", cloud.FlavorID, "--nic", "net-id="+cloud.NetworkID,
				"--block-device", "source=image,id="+cloud.ImageID+",dest=volume,size=1,bootindex=0,shutdown=remove", "short-lived")
			if err != nil {
				t.Fatal(err)
			}
			id := fieldOf(t, out, "id")
			s, err := cloud.Server(ctx, id)
			if err != nil || len(s.AttachedVolumes) != 1 {
				remove(t, id)
				t.Fatalf("volumes %v, %v", s.AttachedVolumes, err)
			}
			volume := s.AttachedVolumes[0].ID
			err = labcloud.Until(ctx, c.name, func() (bool, error) {
				v, err := volumes.Get(ctx, cloud.Volume, volume).Extract()
				if err != nil {
					return false, err
				}
				s, err := cloud.Server(ctx, id)
				return err == nil && c.met(s, v), err
			})
			if err != nil {
				t.Error(err)
			}
			remove(t, id)
			if err := cloud.WaitVolumeGone(ctx, volume); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestASharedVolumeServesTwoServers, while one of them moves too, when its type allows it.
func TestASharedVolumeServesTwoServers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	stock(t, "cinder", "type-create", "shared")
	t.Cleanup(func() {
		if _, err := cloud.Client(context.Background(), "cinder", "type-delete", "shared"); err != nil {
			t.Error(err)
		}
	})
	stock(t, "cinder", "type-key", "shared", "set", "multiattach=<is> True")
	volume := fieldOf(t, stock(t, "openstack", "volume", "create", "--size", "1", "--type", "shared", "both"), "id")
	t.Cleanup(func() { // after the guests
		ctx, cancel := context.WithTimeout(context.Background(), removeMax)
		defer cancel()
		if err := cloud.RemoveVolume(ctx, volume); err != nil {
			t.Error(err)
		}
	})
	if _, err := cloud.WaitVolume(ctx, volume, "available"); err != nil {
		t.Fatal(err)
	}
	pair := bootAll(t, guestOptions{name: "one", host: here}, guestOptions{name: "other", host: there})
	for _, g := range pair {
		device, err := cloud.AttachVolume(ctx, g.id, volume)
		if err != nil {
			t.Fatal(err)
		}
		g.reads(t, g.host(t), strings.TrimPrefix(device, "/dev/"))
	}
	moveTo(ctx, t, pair[0], there)
	if v, err := cloud.WaitVolume(ctx, volume, "in-use"); err != nil || len(v.Attachments) != len(pair) {
		t.Errorf("attachments %+v, %v", v.Attachments, err)
	}
	for _, g := range pair {
		g.whole(t)
	}
}
