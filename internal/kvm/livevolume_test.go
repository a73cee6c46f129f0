package kvm_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
	"github.com/godwit-cloud/godwit/internal/kvm/kvmtest"
)

// exporter is an NBD server on the first host, with mutual TLS by the hosts' certificates. Every file of its directory is an export.
type exporter struct {
	b   *bench
	dir string // as the node sees it
	cmd *exec.Cmd
}

const nbdPort = 10809

func (b *bench) exporter() *exporter {
	b.t.Helper()
	e := &exporter{b: b, dir: filepath.Join(dataDir, "exports-"+uuid.NewString())}
	if err := os.MkdirAll(b.Path(host1, e.dir), 0o755); err != nil {
		b.t.Fatal(err)
	}
	e.start()
	b.t.Cleanup(e.kill)
	return e
}

func (e *exporter) start() {
	e.b.t.Helper()
	pidfile := filepath.Join(e.dir, ".pid")
	_ = os.Remove(e.b.Path(host1, pidfile))
	cmd, err := e.b.Command(e.b.t.Context(), host1, []string{"nbdkit", "-f", "-P", pidfile, "--tls=require", "--tls-certificates=/etc/pki/qemu", "--tls-verify-peer",
		"-i", e.b.DataAddr(host1).String(), "-p", "10809", "file", "dir=" + e.dir})
	if err == nil {
		cmd.Stderr = e.b.t.Output()
		err = cmd.Start()
	}
	if err != nil {
		e.b.t.Fatal(err)
	}
	e.cmd = cmd
	e.b.until("the exporter listens", func() bool { _, err := os.Stat(e.b.Path(host1, pidfile)); return err == nil })
}

func (e *exporter) kill() {
	_ = e.cmd.Cancel()
	_ = e.cmd.Wait() // killed: its status says nothing
}

// volume makes a file that can be reached under several names, and returns the way to the first.
func (e *exporter) volume(data []byte, names ...string) []kvm.NBD {
	e.b.t.Helper()
	first := e.b.Path(host1, filepath.Join(e.dir, names[0]))
	if err := os.WriteFile(first, data, 0o644); err != nil {
		e.b.t.Fatal(err)
	}
	var out []kvm.NBD
	for i, name := range names {
		if i > 0 {
			if err := os.Link(first, e.b.Path(host1, filepath.Join(e.dir, name))); err != nil {
				e.b.t.Fatal(err)
			}
		}
		out = append(out, kvm.NBD{Export: name, Address: e.b.DataAddr(host1).String(), Port: nbdPort, TLS: true, TLSHostname: host1})
	}
	return out
}

func (e *exporter) data(name string) []byte {
	e.b.t.Helper()
	raw, err := os.ReadFile(e.b.Path(host1, filepath.Join(e.dir, name)))
	if err != nil {
		e.b.t.Fatal(err)
	}
	return raw
}

// until waits for a condition that nobody announces.
func (b *bench) until(what string, met func() bool) {
	b.t.Helper()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); !met(); {
		select {
		case <-poll.C:
		case <-limit:
			b.t.Fatalf("never: %s", what)
		}
	}
}

// volumeGuest is a ticker that boots from a volume.
func (b *bench) volumeGuest(root kvm.NBD) kvm.Domain {
	b.t.Helper()
	id := cloud.ServerID(uuid.NewString())
	dir := filepath.Join(dataDir, string(id))
	for _, h := range []string{host1, host2} {
		if err := os.MkdirAll(b.Path(h, dir), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	return kvm.Domain{ID: id, Emulation: kvm.TCG, VCPUs: 1, RAMMiB: 64, ConsoleLog: dir + "/console.log", Meta: kvm.Meta{Name: b.t.Name(), Generation: 3},
		Disks: []kvm.Disk{{Target: "vda", NBD: &root, Serial: "root-volume"}}}
}

func TestAGuestOnAVolumeMovesWithoutItsDisk(t *testing.T) {
	b := newBench(t)
	e := b.exporter()
	ways := e.volume(kvmtest.Ticker(diskBytes), "vol-source", "vol-target")
	d := b.volumeGuest(ways[0])
	b.boot(d)
	move := kvm.Move{ID: d.ID, TargetAddress: b.DataAddr(host2).String(), DowntimeMax: 200 * time.Millisecond, Volumes: map[string]kvm.NBD{"vda": ways[1]}}
	began := time.Now()
	if err := b.conn[host1].Migrate(t.Context(), move); err != nil {
		t.Fatal(err)
	}
	t.Logf("migrate took %v", time.Since(began))
	b.expect(host2, d.ID, kvm.Running)
	b.ticks(host2, d, 3)
	desc, err := b.conn[host2].Describe(t.Context(), d.ID)
	if err != nil || desc.Disk("vda") == nil || desc.Disk("vda").Export != "vol-target" {
		t.Errorf("arrived as %+v, %v", desc, err)
	}
	stats, ok, err := b.conn[host1].CompletedJob(t.Context(), d.ID)
	if err != nil || !ok || stats.DiskTotal != 0 {
		t.Errorf("final figures: %+v, %v, %v: no disk was to be copied", stats, ok, err)
	}
	if err := b.conn[host2].Destroy(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if last, holes := kvmtest.TickerLog(e.data("vol-source")); last < 6 || holes > 0 {
		t.Errorf("disk log ends at %d with %d holes", last, holes)
	}
}

func TestAGuestWithADiskAndAVolumeMovesInOneGo(t *testing.T) {
	b := newBench(t)
	e := b.exporter()
	ways := e.volume(bytes.Repeat([]byte{1}, 1<<20), "data-source", "data-target")
	d := b.guest()
	d.Disks = append(d.Disks, kvm.Disk{Target: "vdb", NBD: &ways[0], Serial: "data-volume"})
	b.boot(d)
	move := b.move(d)
	move.Volumes = map[string]kvm.NBD{"vdb": ways[1]}
	if err := b.conn[host1].Migrate(t.Context(), move); err != nil {
		t.Fatal(err)
	}
	b.expect(host2, d.ID, kvm.Running)
	b.ticks(host2, d, 3)
	desc, err := b.conn[host2].Describe(t.Context(), d.ID)
	if err != nil || desc.Disk("vdb") == nil || desc.Disk("vdb").Export != "data-target" {
		t.Errorf("arrived as %+v, %v", desc, err)
	}
	if err := b.conn[host2].Destroy(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if last, holes := b.diskLog(host2, d); last < 6 || holes > 0 {
		t.Errorf("disk log ends at %d with %d holes", last, holes)
	}
}

func TestAGuestStandsStillWhileItsVolumeServiceIsAwayAndLosesNothing(t *testing.T) {
	b := newBench(t)
	e := b.exporter()
	ways := e.volume(kvmtest.Ticker(diskBytes), "vol")
	d := b.volumeGuest(ways[0])
	b.boot(d)
	e.kill()
	b.seen[host1].await(t, "disk failed", b.seen[host1].has(d.ID, kvm.DiskFailed))
	if s := b.expect(host1, d.ID, kvm.Paused); s.Reason != kvm.ReasonIOError {
		t.Errorf("stands still because of %q", s.Reason)
	}
	e.start()
	// QEMU makes the new connection beside the request that finds it missing, and fails that request again.
	b.until("the guest goes on", func() bool {
		if err := b.conn[host1].Resume(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
		s, err := b.conn[host1].State(t.Context(), d.ID)
		return err == nil && s.Run == kvm.Running
	})
	b.ticks(host1, d, 3)
	if err := b.conn[host1].Destroy(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if last, holes := kvmtest.TickerLog(e.data("vol")); last < 6 || holes > 0 {
		t.Errorf("disk log ends at %d with %d holes", last, holes)
	}
	if console, err := os.ReadFile(b.Path(host1, d.ConsoleLog)); err != nil || bytes.Contains(console, []byte("disk error")) {
		t.Errorf("the guest met an error: %s, %v", console, err)
	}
}

func TestADiskIsPluggedInGrowsAndIsAskedFor(t *testing.T) {
	b := newBench(t)
	e := b.exporter()
	ways := e.volume(make([]byte, 1<<20), "data")
	d := b.guest()
	b.boot(d)
	c, ctx := b.conn[host1], t.Context()
	disk := kvm.Disk{Target: "vdb", NBD: &ways[0], Serial: "data-volume"}
	if err := c.AttachDisk(ctx, d.ID, disk); err != nil {
		t.Fatal(err)
	}
	if err := c.AttachDisk(ctx, d.ID, disk); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("the same target again: %v, want a conflict", err)
	}
	desc, err := c.Describe(ctx, d.ID)
	if err != nil || desc.Disk("vdb") == nil || desc.Disk("vdb").Export != "data" || desc.Disk("vdb").Serial != "data-volume" {
		t.Fatalf("described as %+v, %v", desc, err)
	}
	if err := os.Truncate(b.Path(host1, filepath.Join(e.dir, "data")), 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := c.ResizeDisk(ctx, d.ID, "vdb", 2<<20); !cloud.Is(err, cloud.KindUnsupported) {
		t.Errorf("resize under a connection that knows the old size: %v", err)
	}
	if err := c.ResizeDisk(ctx, d.ID, "vdb", 1<<20); err != nil {
		t.Errorf("resize to the size it has: %v", err)
	}
	// The ticker knows no hot plug: it never answers, and asking again is no error.
	for range 2 {
		if err := c.DetachDisk(ctx, d.ID, "vdb"); err != nil {
			t.Errorf("detach: %v", err)
		}
	}
	if err := c.DetachDisk(ctx, d.ID, "vdc"); err != nil {
		t.Errorf("detach what is not there: %v", err)
	}
	if err := c.AttachDisk(ctx, d.ID, kvm.Disk{Target: "vdc", NBD: &kvm.NBD{Export: "unknown", Address: ways[0].Address, Port: nbdPort, TLS: true, TLSHostname: host1}}); err == nil {
		t.Error("a volume that does not exist was attached")
	}
	if err := c.AttachDisk(ctx, d.ID, kvm.Disk{Target: "vdc", NBD: &kvm.NBD{Export: "data", Address: ways[0].Address, Port: nbdPort, TLS: true, TLSHostname: "another"}}); err == nil {
		t.Error("a volume service with another's certificate was believed")
	}
	b.ticks(host1, d, 3)
}
