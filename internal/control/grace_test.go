package control

import (
	"slices"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestANewLeaderWaitsOnlyForHostsThatWereThereAMomentAgo(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	now := time.Now().UTC()
	_, err := w.store.UpdateVisible(t.Context(), func(tx *store.Tx) error {
		number := 100
		for name, at := range map[cloud.HostName]time.Time{"fresh": now.Add(-10 * time.Second), "stale": now.Add(-time.Hour), "fenced": now, "asleep": now, "never": {}} {
			number++
			err := store.Put(tx, tables.Hosts, name,
				cloud.Host{Name: name, ID: string(name), ServiceID: "s" + string(name), Number: number, ForcedDown: name == "fenced"})
			if err == nil && !at.IsZero() {
				err = store.Put(tx, tables.HostReports, name, cloud.HostReport{Host: name, Generation: 1, Seq: 1, At: at})
			}
			if err != nil {
				return err
			}
		}
		return store.Put(tx, tables.HostPowers, "asleep", cloud.HostPower{Host: "asleep", State: cloud.HostAsleep})
	})
	if err != nil {
		t.Fatal(err)
	}
	recent := recentHosts(w.store.View(), now)
	for _, name := range []cloud.HostName{"stale", "fenced", "asleep", "never"} {
		if slices.Contains(recent, name) {
			t.Errorf("%s is waited for", name)
		}
	}
	if !slices.Contains(recent, "fresh") || !slices.Contains(withoutSession(w.store.View(), tables.HostSessions, recent), "fresh") {
		t.Errorf("a host that was there a moment ago and has not come back is not waited for: %v", recent)
	}
}
