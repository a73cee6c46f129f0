package operator

import (
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func (w *world) plan(s cloud.Server, body string) Plan {
	w.Helper()
	return ask[struct{ Plan Plan }](w, "POST", Root+"/servers/"+string(s.ID)+"/migrate-plan", body).Plan
}

func TestPlanChoosesAsPlacementWouldAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b", "c")
	s := w.guest("web", "a")
	w.guest("neighbour", "b")
	before := w.store.Revision()
	p := w.plan(s, "{}")
	if !p.Possible || p.Refusal != "" || p.Target != "c" || p.Kind != cloud.MigrateBlock || p.Asked != cloud.MigrateAuto || p.Server.Name != "web" {
		t.Errorf("got %+v", p)
	}
	if len(p.Candidates) != 3 || p.Candidates[0].Host != "c" || p.Candidates[1].Host != "b" || p.Candidates[2].Fits || p.Candidates[2].Kind != "" {
		t.Errorf("candidates: %+v", p.Candidates)
	}
	if !strings.Contains(strings.Join(p.Candidates[2].Reasons, " "), "runs on this host already") {
		t.Errorf("the source: %+v", p.Candidates[2])
	}
	if e := p.Estimate; e == nil || e.Basis != BasisNone || !e.AtMost || e.MemoryBytes != 256<<20 || e.DiskBytes != 1<<30 || e.Seconds != nil || e.DirtyBytesPerSecond != nil {
		t.Errorf("an estimate without any history: %+v", p.Estimate)
	}
	if w.plan(s, `{"host": "b"}`).Target != "b" {
		t.Error("the host that was asked for is not the target")
	}
	if after := w.store.Revision(); after != before {
		t.Errorf("planning wrote: revision %d became %d", before, after)
	}
}

func TestPlanSaysWhyNot(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b")
	s := w.guest("web", "a")
	refusal := func(body string) string {
		t.Helper()
		p := w.plan(s, body)
		if p.Possible || p.Target != "" || p.Estimate != nil || len(p.Candidates) != 2 {
			t.Errorf("%s: %+v", body, p)
		}
		return p.Refusal
	}
	for body, want := range map[string]string{
		`{"host": "a"}`:      "runs on this host already",
		`{"kind": "shared"}`: "do not share a disk directory",
	} {
		if got := refusal(body); !strings.Contains(got, want) {
			t.Errorf("%s: %q lacks %q", body, got, want)
		}
	}
	s.Task = cloud.TaskMigrating
	w.saveServer(s)
	if got := refusal("{}"); !strings.Contains(got, "task_state migrating") {
		t.Errorf("a moving server: %q", got)
	}
	s.Task = cloud.TaskNone
	w.saveServer(s)
	w.put(func(tx *store.Tx) error { return store.Delete(tx, tables.HostSessions, cloud.HostName("a")) })
	if got := refusal("{}"); !strings.Contains(got, "host a, where server "+string(s.ID)+" runs, is down") {
		t.Errorf("a dead source: %q", got)
	}
}

func TestPlanExpectsWhatTheLastMovesTook(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b")
	s, other := w.guest("web", "a"), w.guest("other", "a")
	w.move(1, other, "b", cloud.MigrationCompleted)
	if e := w.plan(s, "{}").Estimate; e.Basis != BasisCloud || e.Moves != 1 || !e.AtMost || e.Seconds == nil || e.DirtyBytesPerSecond != nil {
		t.Errorf("from another server's move: %+v", e)
	}
	w.move(2, s, "b", cloud.MigrationCompleted)
	e := w.plan(s, "{}").Estimate
	if e.Basis != BasisServer || e.Moves != 1 || e.AtMost || e.MemoryBytes != 100<<20 || e.DiskBytes != 60<<20 || *e.DirtyBytesPerSecond != 8<<20 {
		t.Errorf("from its own move: %+v", e)
	}
	if *e.Seconds < 4.99 || *e.Seconds > 5.01 || *e.DowntimeSeconds != 0.05 {
		t.Errorf("the same move again takes the same time: %v s, downtime %v s", *e.Seconds, *e.DowntimeSeconds)
	}
}

// moved makes a completed block migration of server s for estimates.
func moved(rate int64, elapsed, took time.Duration) *cloud.Migration {
	return &cloud.Migration{Server: "s", Kind: cloud.MigrateBlock, Status: cloud.MigrationCompleted, Created: epoch, Finished: epoch.Add(took),
		Totals: &cloud.MigrationStats{MemoryProcessed: rate * int64(elapsed/time.Second), Elapsed: elapsed, Downtime: time.Duration(rate)}}
}

func TestEstimateIgnoresMovesThatSayNothing(t *testing.T) {
	s := &cloud.Server{ID: "s", Flavor: cloud.Flavor{RAMMiB: 1}}
	failed := moved(10, time.Second, time.Second)
	failed.Status = cloud.MigrationFailed
	bare := moved(10, time.Second, time.Second)
	bare.Totals = nil
	shared := moved(10, time.Second, time.Second)
	shared.Kind = cloud.MigrateShared
	instant := moved(10, 0, time.Second)
	for name, m := range map[string]*cloud.Migration{"failed": failed, "without totals": bare, "of another kind": shared, "without duration": instant} {
		if e := estimate(s, cloud.MigrateBlock, []*cloud.Migration{m}); e.Basis != BasisNone || e.Moves != 0 {
			t.Errorf("a move %s counted: %+v", name, e)
		}
	}
}

func TestEstimateIsTheMedianOfABoundedHistory(t *testing.T) {
	s := &cloud.Server{ID: "s", Flavor: cloud.Flavor{RAMMiB: 1}}
	var history []*cloud.Migration
	for _, rate := range []int64{300, 100, 200, 900, 150, 1, 1, 1, 1, 1, 1} { // the last six are too old to count
		history = append(history, moved(rate, time.Second, 2*time.Second))
	}
	e := estimate(s, cloud.MigrateBlock, history)
	if e.Moves != ownMovesMax || *e.BytesPerSecond != 200 || e.MemoryBytes != 200 || *e.Seconds != 2 || *e.DowntimeSeconds != (200*time.Nanosecond).Seconds() {
		t.Errorf("got %+v", e)
	}
	if e := estimate(s, cloud.MigrateShared, nil); e.DiskBytes != 0 {
		t.Errorf("a shared disk is not copied: %+v", e)
	}
}
