package kvm_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
	"github.com/godwit-cloud/godwit/internal/kvm/kvmtest"
	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/lab/labtest"
)

const (
	host1, host2 = "compute-1", "compute-2"
	dataDir      = "/var/lib/godwit/kvmtest" // the same path on each host, a directory of its own
	diskBytes    = 16 << 20
	patience     = 60 * time.Second // a busy machine; every wait is for a condition
)

// bench is two real hosts and a connection to each.
type bench struct {
	*lab.Lab
	t    *testing.T
	conn map[string]*kvm.Conn
	seen map[string]*notices
}

func newBench(t *testing.T) *bench {
	b := &bench{Lab: labtest.Bare(t, 2), t: t, conn: map[string]*kvm.Conn{}, seen: map[string]*notices{}}
	for _, h := range []string{host1, host2} {
		c, err := kvm.Connect(t.Context(), b.LibvirtSocket(h), slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		b.conn[h], b.seen[h] = c, watch(t, c)
	}
	return b
}

// notices gathers what a connection told.
type notices struct {
	mu      sync.Mutex
	all     map[cloud.ServerID]kvm.Notice
	resyncs int
	changed chan struct{}
}

func watch(t *testing.T, c *kvm.Conn) *notices {
	n := &notices{all: map[cloud.ServerID]kvm.Notice{}, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			b, err := c.Notices(ctx)
			if err != nil {
				return
			}
			n.mu.Lock()
			for id, what := range b.Domains {
				n.all[id] |= what
			}
			if b.Resync {
				n.resyncs++
			}
			close(n.changed)
			n.changed = make(chan struct{})
			n.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return n
}

func (n *notices) await(t *testing.T, what string, met func() bool) {
	t.Helper()
	limit := time.After(patience)
	for {
		n.mu.Lock()
		ok, changed := met(), n.changed
		n.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("no notice: %s", what)
		}
	}
}

func (n *notices) has(id cloud.ServerID, want kvm.Notice) func() bool {
	return func() bool { return n.all[id].Has(want) }
}

// guest makes a ticker's disk on both hosts and its domain on the first.
func (b *bench) guest() kvm.Domain {
	b.t.Helper()
	id := cloud.ServerID(uuid.NewString())
	dir := filepath.Join(dataDir, string(id))
	for _, h := range []string{host1, host2} {
		outside := b.Path(h, dir)
		if err := os.MkdirAll(outside, 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, "base"), kvmtest.Ticker(diskBytes), 0o644); err != nil {
			b.t.Fatal(err)
		}
		if _, err := b.Output(b.t.Context(), h, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", dir+"/base", dir+"/disk"); err != nil {
			b.t.Fatal(err)
		}
	}
	return kvm.Domain{
		ID: id, Emulation: kvm.TCG, VCPUs: 1, RAMMiB: 64, ConsoleLog: dir + "/console.log",
		Disks: []kvm.Disk{{Path: dir + "/disk", Format: "qcow2", Cache: "none", IO: "io_uring"}},
		Meta:  kvm.Meta{Name: b.t.Name(), Generation: 3},
	}
}

func (b *bench) boot(d kvm.Domain) {
	b.t.Helper()
	if err := b.conn[host1].Define(b.t.Context(), d); err != nil {
		b.t.Fatal(err)
	}
	if err := b.conn[host1].Start(b.t.Context(), d.ID); err != nil {
		b.t.Fatal(err)
	}
	b.expect(host1, d.ID, kvm.Running)
	b.ticks(host1, d, 3)
}

func (b *bench) expect(host string, id cloud.ServerID, want kvm.Run) kvm.State {
	b.t.Helper()
	s, err := b.conn[host].State(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	if s.Run != want {
		b.t.Fatalf("%s: domain is %s (%s), want %s", host, s.Run, s.Reason, want)
	}
	return s
}

// ticks waits until n more lines are on the guest's console at that host.
func (b *bench) ticks(host string, d kvm.Domain, n int) {
	b.t.Helper()
	count := func() int {
		raw, err := os.ReadFile(b.Path(host, d.ConsoleLog))
		if err != nil {
			b.t.Fatal(err)
		}
		return bytes.Count(raw, []byte("tick "))
	}
	from := count()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); count() < from+n; {
		select {
		case <-poll.C:
		case <-limit:
			b.t.Fatalf("%s: guest stopped ticking", host)
		}
	}
}

// diskLog destroys nothing: it reads the ticker's log through the overlay of a domain that is not running.
func (b *bench) diskLog(host string, d kvm.Domain) (last uint32, holes int) {
	b.t.Helper()
	raw := d.Disks[0].Path + ".raw"
	if _, err := b.Output(b.t.Context(), host, "qemu-img", "convert", "-O", "raw", d.Disks[0].Path, raw); err != nil {
		b.t.Fatal(err)
	}
	disk, err := os.ReadFile(b.Path(host, raw))
	if err != nil {
		b.t.Fatal(err)
	}
	return kvmtest.TickerLog(disk)
}

func (b *bench) move(d kvm.Domain) kvm.Move {
	return kvm.Move{ID: d.ID, TargetAddress: b.DataAddr(host2).String(), CopyDisks: []string{"vda"}, Shallow: true,
		DowntimeMax: 200 * time.Millisecond}
}

func TestGuestMovesWithItsDiskAndGoesOnTicking(t *testing.T) {
	b := newBench(t)
	d := b.guest()
	b.boot(d)
	began := time.Now()
	if err := b.conn[host1].Migrate(t.Context(), b.move(d)); err != nil {
		t.Fatal(err)
	}
	t.Logf("migrate took %v", time.Since(began))
	b.expect(host2, d.ID, kvm.Running)
	if s := b.expect(host1, d.ID, kvm.Shutoff); s.Reason != kvm.ReasonMigrated {
		t.Errorf("source says %q, want %q as evidence that it left", s.Reason, kvm.ReasonMigrated)
	}
	b.ticks(host2, d, 3)
	b.seen[host2].await(t, "arrived", b.seen[host2].has(d.ID, kvm.Arrived|kvm.Resumed))
	b.seen[host1].await(t, "departed", b.seen[host1].has(d.ID, kvm.Departed))

	stats, ok, err := b.conn[host1].CompletedJob(t.Context(), d.ID)
	if err != nil || !ok {
		t.Fatalf("final figures: %v, %v", ok, err)
	}
	if stats.MemoryTotal == 0 || stats.DiskTotal == 0 || stats.Elapsed == 0 {
		t.Errorf("final figures lack something: %+v", stats)
	}
	t.Logf("%+v", stats)
	if err := b.conn[host1].Undefine(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	b.expect(host1, d.ID, kvm.Absent)

	desc, err := b.conn[host2].Describe(t.Context(), d.ID)
	if err != nil || desc.Machine != kvm.MachineDefault || desc.Meta.Generation != 3 {
		t.Errorf("arrived as %+v, %v", desc, err)
	}
	if err := b.conn[host2].Destroy(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if last, holes := b.diskLog(host2, d); last < 6 || holes > 0 {
		t.Errorf("disk log ends at %d with %d holes", last, holes)
	}
}

func TestLibvirtRestartIsSurvivedAndToldAsResync(t *testing.T) {
	b := newBench(t)
	d := b.guest()
	b.boot(d)
	var before int
	b.seen[host1].await(t, "first resync", func() bool { before = b.seen[host1].resyncs; return before > 0 })
	if err := b.KillUnit(t.Context(), host1, lab.UnitLibvirtd); err != nil {
		t.Fatal(err)
	}
	b.seen[host1].await(t, "resync", func() bool { return b.seen[host1].resyncs > before })
	b.expect(host1, d.ID, kvm.Running)
	b.ticks(host1, d, 3)
}

func TestProbeAgreesWithARealGuest(t *testing.T) {
	e, reason, err := kvm.Probe(t.Context(), kvm.DefaultEmulator, filepath.Join(t.TempDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	if (e == kvm.KVM) == (reason != "") {
		t.Errorf("emulation %s with reason %q", e, reason)
	}
	t.Log(e, reason)
}
