package tables

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Options{DataDir: t.TempDir(), Tables: All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSortTimeOrdersAsTimeDoes(t *testing.T) {
	base := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	early, late := SortTime(base.Add(90*time.Millisecond)), SortTime(base.Add(100*time.Millisecond).In(time.FixedZone("x", 3600)))
	if early >= late {
		t.Errorf("%s sorts behind %s", early, late)
	}
}

func TestNextNeverHandsOutANumberTwice(t *testing.T) {
	s := open(t)
	const drawers = 8
	got := make([]int, drawers)
	var wg sync.WaitGroup
	for i := range drawers {
		wg.Go(func() {
			_, err := s.Update(context.Background(), func(tx *store.Tx) (err error) {
				got[i], err = Next(tx, CountHosts)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, n := range got {
		if n < 1 || n > drawers || seen[n] {
			t.Fatalf("numbers %v: want 1..%d, each once", got, drawers)
		}
		seen[n] = true
	}
}

func TestSnapshotShowsSessionZoneAndForcedDown(t *testing.T) {
	s, ctx := open(t), context.Background()
	lease, err := s.Lease(ctx, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.UpdateVisible(ctx, func(tx *store.Tx) error {
		for i, h := range []cloud.HostName{"h1", "h2", "h3"} {
			host := cloud.Host{Name: h, ID: "id-" + string(h), ServiceID: "s-" + string(h), Number: i + 1, ForcedDown: h == "h2"}
			if err := store.Put(tx, Hosts, h, host); err != nil {
				return err
			}
			if h == "h3" {
				continue
			}
			if err := store.PutLease(tx, HostSessions, h, cloud.HostSession{Host: h}, lease); err != nil {
				return err
			}
		}
		return store.Put(tx, Aggregates, "a", cloud.Aggregate{ID: "a", Number: 1, Name: "rack", Hosts: []cloud.HostName{"h1"},
			Metadata: map[string]string{cloud.MetaZone: "east"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	snap := Snapshot(s.View(), time.Unix(1, 0))
	if len(snap.Hosts) != 3 || !snap.Hosts[0].Up || snap.Hosts[1].Up || snap.Hosts[2].Up {
		t.Errorf("up: want h1 only, got %+v", snap.Hosts)
	}
	if snap.Hosts[0].Zone != "east" || snap.Hosts[1].Zone != cloud.DefaultZone {
		t.Errorf("zones: got %q and %q", snap.Hosts[0].Zone, snap.Hosts[1].Zone)
	}
	_, err = s.Update(ctx, func(tx *store.Tx) error {
		view, err := HostViewIn(tx, s, "h1")
		if err == nil && (!view.Up || view.Zone != "east") {
			t.Errorf("in a transaction: %+v", view)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
