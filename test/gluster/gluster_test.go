package gluster

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// here and there are the hosts that guests move between. The tester that speaks with them is plugged in on the last one, which must not be lost.
const here, there = "compute-2", "compute-1"

// testMax covers building, the lab, and two boots on a machine that is busy with other things.
const testMax = 20 * time.Minute

// stepMax bounds the wait for one thing, so that what hangs is seen with its reasons. A guest that boots in four seconds took 80 under a load of 35.
const stepMax = 3 * time.Minute

// bringUp makes a cloud of two hosts on GlusterFS.
func bringUp(ctx context.Context, t *testing.T, storage int) *labcloud.Fixture {
	t.Helper()
	return labcloud.BringUp(ctx, t, labcloud.Options{Name: "gluster", Hosts: 2, Storage: storage, Gluster: true})
}

// file is a server's root disk as every host sees it.
func file(id string) string { return lab.ShareInside + "/" + id + "/disk" }

// pairOf returns the nodes that hold a file's two copies, the one whose brick decides first.
func pairOf(ctx context.Context, t *testing.T, f *labcloud.Fixture, id string) (first, second string) {
	t.Helper()
	text, err := f.Lab.Output(ctx, here, "getfattr", "--absolute-names", "--only-values", "-n", "trusted.glusterfs.pathinfo", file(id))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "vms-replicate-0") {
		return lab.GlusterName(1), lab.GlusterName(2)
	}
	return lab.GlusterName(3), lab.GlusterName(4)
}

func stock(ctx context.Context, t *testing.T, f *labcloud.Fixture, argv ...string) {
	t.Helper()
	if out, err := f.Client(ctx, argv...); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// on waits until the server is ACTIVE on a host with nothing going on.
func on(ctx context.Context, t *testing.T, f *labcloud.Fixture, id, host string) {
	t.Helper()
	last := ""
	bounded, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	err := labcloud.Until(bounded, "server on "+host, func() (bool, error) {
		s, err := f.Server(ctx, id)
		if err != nil {
			return false, err
		}
		last = s.Status + " " + s.TaskState + " on " + s.Host
		return s.Host == host && s.Status == "ACTIVE" && s.TaskState == "", nil
	})
	if err != nil {
		why, _ := f.Client(ctx, "openstack", "server", "event", "list", "--long", id)
		t.Fatalf("%v; last seen %s\n%s", err, last, why)
	}
}

// state is libvirt's word for the guest on a host, empty when it is not there.
func state(ctx context.Context, f *labcloud.Fixture, host, id string) string {
	out, err := f.Lab.Output(ctx, host, "virsh", "-q", "domstate", "--reason", id)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func awaitState(ctx context.Context, t *testing.T, f *labcloud.Fixture, host, id, prefix string) {
	t.Helper()
	last := ""
	err := labcloud.Until(ctx, "guest "+prefix, func() (bool, error) {
		last = state(ctx, f, host, id)
		return strings.HasPrefix(last, prefix), nil
	})
	if err != nil {
		t.Fatalf("%v; last seen %q", err, last)
	}
}

// writesOn waits until the guest's disk log, which must be whole, has new records.
func writesOn(ctx context.Context, t *testing.T, talk *guest.Client) {
	t.Helper()
	last, err := talk.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, err := talk.Verify(ctx)
	if err != nil || !r.OK || r.Last < last {
		again, _ := talk.Verify(ctx) // tells what is lost from what was only read too early or from elsewhere
		t.Fatalf("disk log: %+v, %v; record %d was synced; read again: %+v", r, err, last, again)
	}
}

// TestServersOnGlusterFS: a guest moves with its memory alone, and with its power off without its disk, a wrong kind is refused, one brick's loss passes by, the loss of a pair, one brick just after
// the other, stops the guest's writes, splits nothing and loses nothing, and the guest of a dead host starts elsewhere on the very same disk.
func TestServersOnGlusterFS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), testMax)
	defer cancel()
	f := bringUp(ctx, t, 0)
	s, err := f.BootGuest(ctx, "shared", here, map[string]string{"tick": "100ms", "log": "20ms", "fill": "64MiB", "dirty": "8MiB"})
	if err != nil {
		t.Fatal(err)
	}
	talk, err := f.Talk(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { talk.Close() }()
	writesOn(ctx, t, talk)

	if out, err := f.Client(ctx, "nova", "--os-compute-api-version", "2.24", "live-migration", "--block-migrate", s.ID, there); err == nil ||
		!strings.Contains(out+err.Error(), "Block migration can not be used with shared storage") {
		t.Errorf("block migration on shared storage: %s, %v", out, err)
	}
	began := time.Now()
	step := func(what string) {
		t.Logf("%s after %s", what, time.Since(began).Round(time.Second))
		began = time.Now()
	}
	moves(ctx, t, f, talk, s)
	step("moved")
	talk = movesWithItsPowerOff(ctx, t, f, talk, s)
	step("moved with its power off")
	survivesABrick(ctx, t, f, talk, s)
	step("outlived a brick")
	standsStillWithoutAPair(ctx, t, f, talk, s)
	step("outlived a pair")
	talk = outlivesFaultsInAMove(ctx, t, f, talk, s)
	step("outlived faults in the middle of moves")
	if now := placeOf(ctx, t, f, s); now.from != there { // the host that is lost next
		moves(ctx, t, f, talk, s)
	}
	talk.Close()
	talk = isEvacuated(ctx, t, f, s)
	step("evacuated")
	writesOn(ctx, t, talk)
	if err := f.Remove(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	if out, err := f.Lab.Output(ctx, here, "ls", lab.ShareInside); err != nil || strings.Contains(out, s.ID) {
		t.Errorf("the server is deleted and its directory is there: %s %v", out, err)
	}
}

// moves has the guest move and looks at what was copied and what is left.
func moves(ctx context.Context, t *testing.T, f *labcloud.Fixture, talk *guest.Client, s *servers.Server) {
	t.Helper()
	stock(ctx, t, f, "nova", "live-migration", s.ID, there)
	on(ctx, t, f, s.ID, there)
	list, err := f.Migrations(ctx, s.ID)
	if err != nil || len(list) == 0 {
		t.Fatalf("migrations: %v %v", list, err)
	}
	m, err := f.Record(ctx, labcloud.Newest(list).UUID)
	if err != nil || m.Kind != "shared" || m.Totals == nil || m.Totals.DiskTotal != 0 {
		t.Errorf("the move: %+v %v", m, err)
	}
	writesOn(ctx, t, talk)
	if err := labcloud.Until(ctx, "guest gone", func() (bool, error) { return state(ctx, f, here, s.ID) == "", nil }); err != nil {
		t.Fatalf("%v; its old host has it %s", err, state(ctx, f, here, s.ID))
	}
	if _, err := f.Lab.Output(ctx, there, "test", "-f", file(s.ID)); err != nil {
		t.Errorf("the disk after the move: %v", err)
	}
}

// survivesABrick kills the second brick of the guest's pair, which is not the one that decides.
func survivesABrick(ctx context.Context, t *testing.T, f *labcloud.Fixture, talk *guest.Client, s *servers.Server) {
	t.Helper()
	first, second := pairOf(ctx, t, f, s.ID)
	if err := f.Lab.KillBrick(ctx, second); err != nil {
		t.Fatal(err)
	}
	writesOn(ctx, t, talk)
	// What waits to be healed does not move.
	known, err := f.Migrations(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	stock(ctx, t, f, "nova", "live-migration", s.ID, here)
	m, err := f.WaitMigration(ctx, s.ID, len(known))
	if err != nil || m.Status == "completed" {
		t.Errorf("a disk that waits to be healed moved: %+v %v", m, err)
	}
	on(ctx, t, f, s.ID, there)
	writesOn(ctx, t, talk)
	if err := f.Lab.StartBricks(ctx, first); err != nil {
		t.Fatal(err)
	}
	healed(ctx, t, f, first)
}

// healed waits until nothing waits to be healed, and sees that nothing is split.
func healed(ctx context.Context, t *testing.T, f *labcloud.Fixture, node string) {
	t.Helper()
	last := ""
	err := labcloud.Until(ctx, "healed", func() (bool, error) {
		out, err := f.Lab.GlusterCommand(ctx, node, "volume", "heal", lab.GlusterVolume, "info")
		last = out
		return err == nil && strings.Count(out, "Number of entries: 0") == len(f.Lab.GlusterNodes()), nil
	})
	if err != nil {
		t.Fatalf("%v: %s", err, last)
	}
	out, err := f.Lab.GlusterCommand(ctx, node, "volume", "heal", lab.GlusterVolume, "info", "split-brain")
	if err != nil || strings.Count(out, "split-brain: 0") != len(f.Lab.GlusterNodes()) {
		t.Errorf("split: %s %v", out, err)
	}
}

// standsStillWithoutAPair turns both nodes of the guest's pair off: the guest stops, and goes on when they are back.
func standsStillWithoutAPair(ctx context.Context, t *testing.T, f *labcloud.Fixture, talk *guest.Client, s *servers.Server) {
	t.Helper()
	first, second := pairOf(ctx, t, f, s.ID)
	if err := f.Lab.PowerOff(ctx, second); err != nil {
		t.Fatal(err)
	}
	if _, err := talk.Sync(ctx); err != nil { // on the first alone, and acknowledged: it has to be there in the end
		t.Fatal(err)
	}
	if err := f.Lab.PowerOff(ctx, first); err != nil {
		t.Fatal(err)
	}
	awaitState(ctx, t, f, there, s.ID, "paused (I/O error)")
	for _, node := range []string{first, second} {
		if err := f.Lab.PowerOn(ctx, node); err != nil {
			t.Fatal(err)
		}
	}
	awaitState(ctx, t, f, there, s.ID, "running")
	writesOn(ctx, t, talk)
	healed(ctx, t, f, first)
}

// isEvacuated turns the guest's host off, has the guest started on the other one, and lets the host return.
func isEvacuated(ctx context.Context, t *testing.T, f *labcloud.Fixture, s *servers.Server) *guest.Client {
	t.Helper()
	stock(ctx, t, f, "nova", "meta", s.ID, "set", "godwit:recovery=off") // this is about recovery by hand
	if err := f.Lab.PowerOff(ctx, there); err != nil {
		t.Fatal(err)
	}
	err := labcloud.Until(ctx, "host down", func() (bool, error) {
		out, err := f.Client(ctx, "openstack", "compute", "service", "list", "-f", "value", "-c", "Host", "-c", "State", "--service", "nova-compute")
		return strings.Contains(out, there+" down"), err
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := f.Client(ctx, "nova", "evacuate", s.ID); err == nil || !strings.Contains(out+err.Error(), "nothing proves that host "+there+" is off") {
		t.Errorf("evacuation from a host that may run: %s, %v", out, err)
	}
	// A person's word that it is off: the host's lease on the disk need not run out.
	stock(ctx, t, f, "openstack", "compute", "service", "set", "--down", there, "nova-compute")
	stock(ctx, t, f, "nova", "--os-compute-api-version", "2.68", "evacuate", s.ID, here)
	on(ctx, t, f, s.ID, here)
	talk := answers(ctx, t, f, s)
	stock(ctx, t, f, "openstack", "compute", "service", "set", "--up", there, "nova-compute")
	if err := f.Lab.PowerOn(ctx, there); err != nil {
		t.Fatal(err)
	}
	if err := f.WaitHosts(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if now := state(ctx, f, there, s.ID); strings.HasPrefix(now, "running") {
		t.Errorf("the returned host runs the guest too: %s", now)
	}
	if _, err := f.Lab.Output(ctx, here, "test", "-f", file(s.ID)); err != nil {
		t.Errorf("the disk after its old host's return: %v", err)
	}
	return talk
}
