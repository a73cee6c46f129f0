package control

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
)

func faultOn(call string, do func()) hostapitest.Fault { return hostapitest.Fault{Call: call, Do: do} }

func TestAdmissionNeverExceedsTheBudgetAndNeverHoldsBackWhatHasRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := []cloud.HostName{"a", "b", "c"}
		q := queue{started: map[cloud.IntentID]bool{}, migrations: map[cloud.MigrationID]*cloud.Migration{}, budget: Budget{
			Outbound: rapid.IntRange(1, 3).Draw(t, "out"), Inbound: rapid.IntRange(1, 3).Draw(t, "in"), Cluster: rapid.IntRange(0, 4).Draw(t, "all")}}
		for i := range rapid.IntRange(0, 12).Draw(t, "n") {
			id := cloud.MigrationID(fmt.Sprint(i))
			m := &cloud.Migration{ID: id, Status: cloud.MigrationQueued, Source: rapid.SampledFrom(hosts).Draw(t, "from"), AskedTarget: rapid.SampledFrom(hosts).Draw(t, "to")}
			q.migrations[id] = m
			q.intents = append(q.intents, &cloud.Intent{ID: cloud.IntentID(id), Kind: cloud.IntentMigrate, Server: cloud.ServerID(id), Migration: id})
		}
		for _, i := range q.admit() {
			q.started[i.ID] = true
		}
		running := newMoving()
		for id := range q.started {
			running.add(q.migrations[cloud.MigrationID(id)])
		}
		for _, h := range hosts {
			if running.from[h] > q.budget.Outbound || running.to[h] > q.budget.Inbound {
				t.Fatalf("host %s: %d out, %d in", h, running.from[h], running.to[h])
			}
		}
		if q.budget.Cluster > 0 && running.all > q.budget.Cluster {
			t.Fatalf("%d in all", running.all)
		}
		for _, i := range q.intents {
			if !q.started[i.ID] && running.room(q.migrations[i.Migration], q.budget) {
				t.Fatalf("migration %s waits though there is room", i.ID)
			}
		}
	})
}

func TestNothingNewStartsForAServerThatIsToBeDeleted(t *testing.T) {
	q := queue{started: map[cloud.IntentID]bool{}, intents: []*cloud.Intent{
		{ID: "stop", Kind: cloud.IntentStop, Server: "s"}, {ID: "del", Kind: cloud.IntentDelete, Server: "s"}, {ID: "other", Kind: cloud.IntentStop, Server: "t"},
	}}
	got := q.admit()
	if len(got) != 2 || got[0].ID != "del" || got[1].ID != "other" {
		t.Errorf("got %v", got)
	}
}

func TestAnAbortedMigrationNeedsNoRoom(t *testing.T) {
	q := queue{started: map[cloud.IntentID]bool{"1": true}, budget: Budget{Outbound: 1, Inbound: 1}, migrations: map[cloud.MigrationID]*cloud.Migration{
		"1": {ID: "1", Source: "a", Status: cloud.MigrationRunning}, "2": {ID: "2", Source: "a", Status: cloud.MigrationQueued, AbortAsked: true},
	}, intents: []*cloud.Intent{{ID: "1", Kind: cloud.IntentMigrate, Migration: "1"}, {ID: "2", Kind: cloud.IntentMigrate, Migration: "2"}}}
	if got := q.admit(); len(got) != 1 || got[0].ID != "2" {
		t.Errorf("got %v", got)
	}
}

func TestTimeLimitGrowsWithWhatIsCopied(t *testing.T) {
	s := &cloud.Server{Flavor: cloud.Flavor{RAMMiB: 256, RootGiB: 1}}
	if got := timeLimit(s, &cloud.Migration{Kind: cloud.MigrateShared}, time.Second); got != 2*time.Second {
		t.Errorf("small, memory only: %v", got)
	}
	s.Flavor = cloud.Flavor{RAMMiB: 8192, RootGiB: 20}
	if got := timeLimit(s, &cloud.Migration{Kind: cloud.MigrateBlock}, time.Second); got != 28*time.Second {
		t.Errorf("8 GiB and a 20 GiB disk: %v", got)
	}
}
