package control

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// verdictOf returns the record on a host, empty when there is none.
func verdictOf(v store.View, host cloud.HostName) cloud.HostVerdict {
	held, ok := store.Lookup(v, tables.HostVerdicts, host)
	if !ok {
		return cloud.HostVerdict{}
	}
	return *held
}

// cut takes the power of hosts, and their agents, at once.
func (w *world) cut(hosts ...cloud.HostName) {
	var all sync.WaitGroup
	for _, host := range hosts {
		w.fleet.Host(host).PowerOff()
		all.Go(w.mute[host])
	}
	all.Wait()
}

// TestTheBrakeHoldsUntilAPersonAnswersForAHost: when half of the fleet, or all of a rack, falls silent at once, nobody is called dead and nothing is recovered.
// A person's word lets one host's recovery go on, and no other's.
func TestTheBrakeHoldsUntilAPersonAnswersForAHost(t *testing.T) {
	for name, c := range map[string]struct {
		hosts []cloud.HostName
		rack  []cloud.HostName
		says  string
	}{
		"half of the fleet": {[]cloud.HostName{"h1", "h2", "h3", "h4"}, nil, "2 of 4 hosts"},
		"a whole rack":      {[]cloud.HostName{"h1", "h2", "h3", "h4", "h5", "h6", "h7"}, []cloud.HostName{"h1", "h2"}, "all 2 hosts of aggregate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait, mostly
			w := newWorld(t, c.hosts...)
			if c.rack != nil {
				w.write(func(tx *store.Tx) error {
					return store.Put(tx, tables.Aggregates, "rack", cloud.Aggregate{ID: "rack", Name: "rack", Hosts: c.rack})
				})
			}
			w.control(func(o *Options) {
				o.Pulses, o.Liveness = w.heard, liveness.Default()
				o.Liveness.DeadAfter += time.Second // a machine that does too much at once takes its time to cut both
			})
			w.until("all are heard", func(store.View) bool {
				for _, h := range c.hosts {
					if w.heard.Pulse(h).Last.IsZero() {
						return false
					}
				}
				return true
			})
			w.cut("h1", "h2")
			w.until("the brake is on", func(v store.View) bool {
				return strings.Contains(verdictOf(v, "h1").Brake, c.says) && strings.Contains(verdictOf(v, "h2").Brake, c.says)
			})
			if n := store.Count(w.store.View(), tables.Recoveries); n > 0 {
				t.Errorf("%d recoveries with the brake on", n)
			}
			w.write(func(tx *store.Tx) error {
				return store.Put(tx, tables.RecoveryPermits, "h1", cloud.RecoveryPermit{Host: "h1", User: "admin", At: time.Now()})
			})
			w.until("the host that was answered for is recovered", func(v store.View) bool {
				all := store.By(v, tables.Recoveries, tables.ByHost, cloud.HostName("h1"))
				return len(all) == 1 && all[0].Allowed && verdictOf(v, "h1").Verdict == string(liveness.Dead)
			})
			if v := w.store.View(); verdictOf(v, "h2").Verdict != string(liveness.Suspect) || store.Count(v, tables.Recoveries) != 1 {
				t.Errorf("the other host: %+v; %d recoveries", verdictOf(v, "h2"), store.Count(v, tables.Recoveries))
			}
		})
	}
}

// TestANewLeaderListensBeforeItCallsAHostDead: a host that was silent already when it began gets as much time as any, by the new leader's own clock, and is then
// called dead all the same.
func TestANewLeaderListensBeforeItCallsAHostDead(t *testing.T) {
	t.Parallel() // it waits, mostly
	w := newWorld(t, "h1", "h2", "h3")
	w.until("all have said what they have", func(v store.View) bool { return store.Count(v, tables.HostReports) == 3 })
	w.cut("h1")
	began := time.Now()
	w.control(func(o *Options) { o.Pulses = w.heard })
	w.until("it is called dead", func(v store.View) bool { return verdictOf(v, "h1").Verdict == string(liveness.Dead) })
	if took := time.Since(began); took < liveness.Default().DeadAfter {
		t.Errorf("called dead %v after this leader began to listen", took)
	}
	for _, h := range []cloud.HostName{"h2", "h3"} {
		if v := verdictOf(w.store.View(), h); v.Verdict == string(liveness.Dead) {
			t.Errorf("host %s, which lives: %+v", h, v)
		}
	}
}
