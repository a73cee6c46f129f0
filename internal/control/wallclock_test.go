package control

import (
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A clock that jumps kills no host: every time that a verdict, or a wait before a server is started elsewhere, is reckoned from has a reading of the monotonic
// clock, which Go then uses and nobody can set. The only times without one are those in records, which another leader wrote, and these are bounded by
// how long this one has listened.
func TestNoVerdictRestsOnAClockThatCanBeSet(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.boxes["h1"].PutFacts(w.fleet.Host("h1").CurrentFacts()) // heard again, at the latest now
	l := &leader{Options: Options{Store: w.store, Pulses: w.heard, Liveness: liveness.Default()}, log: w.log, began: time.Now()}
	l.looks = newLooks(l)
	l.looks.signLocked("h1", time.Now().Add(-time.Second))
	j := &judging{leader: l, began: time.Now(), last: time.Now(), stalled: time.Now()}
	w.until("both are heard", func(store.View) bool {
		return !w.heard.Pulse("h1").Last.IsZero() && !w.heard.Pulse("h2").Last.IsZero()
	})
	monotonic := func(what string, at time.Time) {
		if !strings.Contains(at.String(), " m=") {
			t.Errorf("%s is by the wall clock alone: %v", what, at)
		}
	}
	w.reports("news", "h1", time.Now().UTC())
	hosts := j.hosts(w.store.View(), time.Now())
	if len(hosts) != 2 || !hosts[0].HasStorage || hosts[0].Reported.IsZero() {
		t.Fatalf("judged: %+v", hosts)
	}
	for _, h := range hosts {
		monotonic("the heartbeat of "+string(h.Host), h.Heartbeat)
		if !h.Reported.IsZero() {
			monotonic("a monitor's word about "+string(h.Host), h.Reported)
		}
		if h.HasStorage {
			monotonic("the sign of life on storage of "+string(h.Host), h.Storage)
		}
	}
	r := &recovering{leader: l}
	jumped := time.Now().Add(-time.Hour).UTC() // a record from before the clock was set an hour on, as it is read from the store
	life := r.life(w.store.View(), &cloud.HostVerdict{Host: "nobody", Verdict: "dead", Silent: jumped}, Pulse{}, time.Now())
	if life.Silence > time.Minute {
		t.Errorf("a host whose predecessor's record is an hour old by a clock that jumped counts as silent for %v; this leader began just now", life.Silence)
	}
	if _, ok := store.Lookup(w.store, tables.HostVerdicts, "h1"); ok {
		t.Error("nobody judges here, yet there is a verdict")
	}
}
