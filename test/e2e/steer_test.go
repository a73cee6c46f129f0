package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

// steerMax bounds one case.
const steerMax = 2 * time.Minute

// TestAMigrationInProgressIsAborted: by the API and by the stock client; the guest stays where it is and nothing is left on the other side.
func TestAMigrationInProgressIsAborted(t *testing.T) {
	g := boot(t, travelling("abort", here))
	const pace = 1 // no move may be over before it is aborted: the stock client takes its time to start, and a busy machine for everything
	asks := []struct {
		name string
		ask  func(ctx context.Context, m labcloud.Migration) error
	}{
		{"by the API", func(ctx context.Context, m labcloud.Migration) error { return cloud.Abort(ctx, g.id, m.ID) }},
		{"by nova live-migration-abort", func(ctx context.Context, m labcloud.Migration) error {
			watched(ctx, t, g.id, m)
			_, err := cloud.Client(ctx, "nova", "live-migration-abort", g.id, strconv.Itoa(m.ID))
			return err
		}},
	}
	for _, a := range asks {
		t.Run(a.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), steerMax)
			defer cancel()
			tr := depart(ctx, t, g, pace)
			m := awaitRunning(ctx, t, g.id)
			asked := time.Now()
			if err := a.ask(ctx, m); err != nil {
				t.Fatal(err)
			}
			end := awaitEnd(ctx, t, g.id, tr.known)
			if end.Status != "cancelled" {
				t.Errorf("the aborted migration ended %s", end.Status)
			}
			tr.unharmed(ctx, t, end, asked)
		})
	}
}

// watched checks that the stock client shows a migration in progress with its figures.
func watched(ctx context.Context, t *testing.T, id string, m labcloud.Migration) {
	t.Helper()
	err := labcloud.Until(ctx, "figures", func() (bool, error) {
		p, _, err := cloud.Progress(ctx, id)
		return p.DiskTotal > 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	number := strconv.Itoa(m.ID)
	views := []struct {
		argv, shows []string
	}{
		{[]string{"nova", "server-migration-list", id}, []string{number, "running", m.Source, m.Target, "Remaining Memory Bytes", "Remaining Disk Bytes"}},
		{[]string{"nova", "server-migration-show", id, number}, []string{number, m.UUID, "running", m.Source, m.Target, "memory_remaining_bytes", "disk_remaining_bytes"}},
	}
	for _, v := range views {
		out, err := cloud.Client(ctx, v.argv...)
		if err != nil {
			t.Error(err)
		}
		for _, want := range v.shows {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not show %q:\n%s", strings.Join(v.argv, " "), want, out)
			}
		}
		if strings.Contains(out, "None") {
			t.Errorf("%s shows no figures:\n%s", strings.Join(v.argv, " "), out)
		}
	}
}

// awaitRunning waits until the server's newest migration copies, and fails when it has ended before.
func awaitRunning(ctx context.Context, t *testing.T, id string) labcloud.Migration {
	t.Helper()
	var m labcloud.Migration
	err := labcloud.Until(ctx, "migration of "+id+" runs", func() (bool, error) {
		list, err := cloud.Migrations(ctx, id)
		if err != nil || len(list) == 0 {
			return false, err
		}
		if m = labcloud.Newest(list); m.Final() {
			return false, fmt.Errorf("migration %d has ended %s", m.ID, m.Status)
		}
		return m.Status == "running", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestAMigrationThatCannotConvergeIsForced: a guest that changes its memory faster than it is copied goes on for ever; force_complete ends that.
func TestAMigrationThatCannotConvergeIsForced(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), steerMax)
	defer cancel()
	g := boot(t, guestOptions{name: "restless", host: here, dirty: "100MiB", dirtySize: "32MiB"})
	tr := depart(ctx, t, g, crawl)
	m := awaitRunning(ctx, t, g.id)
	err := labcloud.Until(ctx, "a third pass over memory", func() (bool, error) {
		figures, runs, err := cloud.Figures(ctx, m.UUID)
		return runs && figures.MemoryIterations > 2, err
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	a := do(ctx, t, call{method: "POST", path: fmt.Sprintf("servers/%s/migrations/%d/action", g.id, m.ID), version: "2.22", body: `{"force_complete": null}`})
	if a.code != http.StatusAccepted {
		t.Fatalf("force_complete: %d %s", a.code, a.body)
	}
	end := awaitEnd(ctx, t, g.id, tr.known)
	if end.Status != "completed" {
		t.Errorf("the forced migration ended %s", end.Status)
	}
	tr.unharmed(ctx, t, end, asked)
}

// TestProgressIsTrueAndWhatIsCopiedIsEncrypted: what the API shows of a running migration moves, for the disk and for the memory, and adds up. The running
// QEMU is looked at, because settings can be right and the wire bare.
func TestProgressIsTrueAndWhatIsCopiedIsEncrypted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), steerMax)
	defer cancel()
	const filled = 64 << 20
	g := boot(t, guestOptions{name: "progress", host: here, fill: fmt.Sprint(filled)})
	rings, err := on(ctx, here, "sh", "-c", `ls -l /proc/$(cat /run/libvirt/qemu/*"$1"*.pid)/fd | grep -c io_uring`, "sh", "instance-"+g.id[:11])
	if err != nil || rings == "0" {
		t.Errorf("QEMU has %s rings open: %v", rings, err)
	}
	tr := depart(ctx, t, g, crawl)
	m := awaitRunning(ctx, t, g.id)
	seen := &figures{}
	encrypted(ctx, t, g, seen)
	err = labcloud.Until(ctx, "the end of the copy", func() (bool, error) {
		runs, err := seen.look(ctx, g.id)
		return !runs, err
	})
	if err != nil {
		t.Fatal(err)
	}
	seen.addUp(t)
	record, err := cloud.Record(ctx, m.UUID)
	if err != nil {
		t.Fatal(err)
	}
	end := record.Totals
	if end == nil || end.DiskRemaining != 0 || end.MemoryRemaining != 0 || end.DiskProcessed < filled || end.MemoryProcessed < filled || end.DiskProcessed != end.DiskTotal {
		t.Errorf("figures at the end of copying %d bytes of disk and as many of memory: %+v", filled, end)
	}
	tr.unharmed(ctx, t, awaitEnd(ctx, t, g.id, tr.known), record.Created)
}

// figures are what the API showed of a migration, each once.
type figures struct{ all []labcloud.Progress }

// look reports whether the migration still runs.
func (f *figures) look(ctx context.Context, id string) (runs bool, err error) {
	p, runs, err := cloud.Progress(ctx, id)
	if runs && (len(f.all) == 0 || f.all[len(f.all)-1] != p) {
		f.all = append(f.all, p)
	}
	return runs, err
}

func (f *figures) addUp(t *testing.T) {
	t.Helper()
	disk, memory := map[int64]bool{}, map[int64]bool{}
	for i, p := range f.all {
		t.Logf("%+v", p)
		if p.DiskProcessed+p.DiskRemaining != p.DiskTotal || p.MemoryRemaining > p.MemoryTotal {
			t.Errorf("figures do not add up: %+v", p)
		}
		if i > 0 && (p.DiskProcessed < f.all[i-1].DiskProcessed || p.MemoryProcessed < f.all[i-1].MemoryProcessed) {
			t.Errorf("what was copied was taken back: %+v after %+v", p, f.all[i-1])
		}
		disk[p.DiskProcessed], memory[p.MemoryProcessed] = true, true
	}
	const moves = 3 // figures come twice a second
	if len(disk) < moves || len(memory) < moves {
		t.Errorf("%d figures of the disk and %d of the memory in a migration of several seconds", len(disk), len(memory))
	}
}

// encrypted checks a migration in progress from here: its disk's mirror and its memory go over TLS.
func encrypted(ctx context.Context, t *testing.T, g *running, seen *figures) {
	t.Helper()
	monitor := func(command string) (string, error) {
		return on(ctx, here, "virsh", "-q", "qemu-monitor-command", g.id, `{"execute":"`+command+`"}`)
	}
	var mirror string
	err := labcloud.Until(ctx, "the disk's mirror", func() (bool, error) {
		if _, err := seen.look(ctx, g.id); err != nil {
			return false, err
		}
		out, err := monitor("query-named-block-nodes")
		_, rest, _ := strings.Cut(out, `"nbd://`)
		mirror, _, _ = strings.Cut(rest, `"`)
		return mirror != "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	// QEMU does not say whether it speaks TLS to it, so we ask the target in the clear, as its source would have to.
	if out, err := on(ctx, here, "sh", "-c", `qemu-img info "$1" 2>&1`, "sh", "nbd://"+mirror); err == nil || !strings.Contains(out, "TLS") {
		t.Errorf("the disk's mirror %s was opened without TLS: %s, %v", mirror, out, err)
	}
	if out, err := monitor("query-migrate-parameters"); err != nil || !strings.Contains(out, `"tls-creds":"objlibvirt_migrate_tls0"`) {
		t.Errorf("memory goes without TLS: %s, %v", out, err)
	}
}
