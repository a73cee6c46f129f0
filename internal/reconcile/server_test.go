package reconcile_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/reconcile"
)

var epoch = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

func server(state cloud.VMState, power cloud.PowerState) *cloud.Server {
	return &cloud.Server{ID: "s", Host: "a", VMState: state, Power: power, Generation: 5, Updated: at(100)}
}

func seen(host cloud.HostName, power cloud.PowerState, when int) cloud.ServerObservation {
	return cloud.ServerObservation{Server: "s", Host: host, Generation: 5, Power: power, Reason: "because", At: at(when)}
}

func up(hosts ...cloud.HostName) map[cloud.HostName]time.Time {
	out := map[cloud.HostName]time.Time{}
	for _, h := range hosts {
		out[h] = epoch
	}
	return out
}

func TestRecordFollowsWhatTheOwnerSees(t *testing.T) {
	cases := []struct {
		record cloud.VMState
		power  cloud.PowerState
		sees   cloud.PowerState
		want   string // state and power after; empty: nothing is done
	}{
		{cloud.VMActive, cloud.PowerRunning, cloud.PowerRunning, ""},
		{cloud.VMActive, cloud.PowerNone, cloud.PowerRunning, "active 1"},
		{cloud.VMActive, cloud.PowerRunning, cloud.PowerShutdown, "stopped 4"},
		{cloud.VMActive, cloud.PowerRunning, cloud.PowerNone, "stopped 4"},
		{cloud.VMActive, cloud.PowerRunning, cloud.PowerCrashed, "stopped 6 fault"},
		{cloud.VMActive, cloud.PowerRunning, cloud.PowerPaused, "active 3"},
		{cloud.VMPaused, cloud.PowerPaused, cloud.PowerRunning, "active 1"},
		{cloud.VMPaused, cloud.PowerPaused, cloud.PowerShutdown, "stopped 4"},
		{cloud.VMStopped, cloud.PowerShutdown, cloud.PowerRunning, "active 1"},
		{cloud.VMStopped, cloud.PowerShutdown, cloud.PowerShutdown, ""},
		{cloud.VMStopped, cloud.PowerShutdown, cloud.PowerNone, ""},
		{cloud.VMStopped, cloud.PowerShutdown, cloud.PowerCrashed, "stopped 6"},
		{cloud.VMError, cloud.PowerNone, cloud.PowerRunning, "error 1"},
		{cloud.VMBuilding, cloud.PowerNone, cloud.PowerRunning, ""},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s sees %d", c.record, c.sees), func(t *testing.T) {
			s := server(c.record, c.power)
			o := reconcile.Server(reconcile.ServerCase{ID: "s", Server: s, Seen: []cloud.ServerObservation{seen("a", c.sees, 101)}, Sessions: up("a")}, at(102))
			got := ""
			for _, a := range o.Actions {
				if a.Kind != reconcile.SetState {
					t.Fatalf("unexpected %v", a)
				}
				if err := a.Apply(s, at(102)); err != nil {
					t.Fatal(err)
				}
				got = fmt.Sprintf("%s %d", s.VMState, s.Power)
				if s.Fault != nil {
					got += " fault"
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestOldObservationIsBelievedOnlyAfterTheRecordHasSettled(t *testing.T) {
	c := reconcile.ServerCase{ID: "s", Server: server(cloud.VMActive, cloud.PowerRunning), Seen: []cloud.ServerObservation{seen("a", cloud.PowerShutdown, 99)}, Sessions: up("a")}
	early := reconcile.Server(c, at(101))
	settled := at(100).Add(reconcile.SettleDefault)
	if len(early.Actions) != 0 || !early.Again.Equal(settled) {
		t.Fatalf("too early: %+v", early)
	}
	if late := reconcile.Server(c, settled); len(late.Actions) != 1 || late.Actions[0].State != cloud.VMStopped {
		t.Errorf("after settling: %+v", late)
	}
}

func TestServerThatItsHostDoesNotSpeakOfIsReportedAfterAWhile(t *testing.T) {
	c := reconcile.ServerCase{ID: "s", Server: server(cloud.VMStopped, cloud.PowerShutdown), Sessions: map[cloud.HostName]time.Time{"a": at(200)}}
	due := at(200).Add(reconcile.MissingAfter)
	if o := reconcile.Server(c, at(201)); len(o.Actions) != 0 || !o.Again.Equal(due) {
		t.Fatalf("too early: %+v", o)
	}
	o := reconcile.Server(c, due)
	if len(o.Actions) != 1 || o.Actions[0].Kind != reconcile.Alarm || !strings.Contains(o.Actions[0].Reason, "says nothing of this server") {
		t.Errorf("got %+v", o)
	}
	c.Sessions = nil
	if o := reconcile.Server(c, at(9999)); len(o.Actions) != 0 {
		t.Errorf("a host that is down lost nothing: %+v", o)
	}
}

// TestReconnectedHostThatRepeatsItselfLosesNothing: the repeat carries the old number and so keeps the old time; it must not be taken for silence.
func TestReconnectedHostThatRepeatsItselfLosesNothing(t *testing.T) {
	c := reconcile.ServerCase{ID: "s", Server: server(cloud.VMActive, cloud.PowerRunning), Sessions: map[cloud.HostName]time.Time{"a": at(200)},
		Seen: []cloud.ServerObservation{seen("a", cloud.PowerRunning, 101)}}
	for _, when := range []int{200, 205, 210, 300, 9999} {
		if o := reconcile.Server(c, at(when)); len(o.Actions) != 0 {
			t.Errorf("at %d: %+v", when, o)
		}
	}
	c.Seen[0].Power = cloud.PowerShutdown
	if o := reconcile.Server(c, at(201)); len(o.Actions) != 0 || !o.Again.Equal(at(200).Add(reconcile.SettleDefault)) {
		t.Errorf("a young session's history was believed: %+v", o)
	}
	if o := reconcile.Server(c, at(211)); len(o.Actions) != 1 {
		t.Errorf("got %+v", o)
	}
}

func TestLeftoverIsDiscardedOnlyWhenTheOwnerIsKnownToHaveTheServer(t *testing.T) {
	const late = 1000
	cases := []struct {
		name  string
		owner *cloud.ServerObservation
		other cloud.ServerObservation
		want  reconcile.Kind
	}{
		{"shut down copy", ptr(seen("a", cloud.PowerRunning, 101)), seen("b", cloud.PowerShutdown, 101), reconcile.Discard},
		{"disks only", ptr(seen("a", cloud.PowerRunning, 101)), seen("b", cloud.PowerNone, 101), reconcile.Discard},
		{"paused copy of a running server", ptr(seen("a", cloud.PowerRunning, 101)), seen("b", cloud.PowerPaused, 101), reconcile.Discard},
		{"paused copy that may be the only memory", ptr(seen("a", cloud.PowerShutdown, 101)), seen("b", cloud.PowerPaused, 101), reconcile.Alarm},
		{"running copy", ptr(seen("a", cloud.PowerRunning, 101)), seen("b", cloud.PowerRunning, 101), reconcile.Alarm},
		{"owner silent", nil, seen("b", cloud.PowerShutdown, 101), ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rc := reconcile.ServerCase{ID: "s", Server: server(cloud.VMActive, cloud.PowerRunning), Seen: []cloud.ServerObservation{c.other}, Sessions: up("a", "b")}
			if c.owner != nil {
				rc.Server.Power = c.owner.Power
				rc.Server.VMState = map[cloud.PowerState]cloud.VMState{cloud.PowerRunning: cloud.VMActive, cloud.PowerShutdown: cloud.VMStopped}[c.owner.Power]
				rc.Seen = append(rc.Seen, *c.owner)
			} else {
				rc.Sessions["a"] = at(late - 1)
			}
			var got reconcile.Kind
			for _, a := range reconcile.Server(rc, at(late)).Actions {
				got = a.Kind
				if a.Host != "b" || a.Generation != 5 {
					t.Errorf("action %+v", a)
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	newer := seen("b", cloud.PowerShutdown, 101)
	newer.Generation = 6
	o := reconcile.Server(reconcile.ServerCase{ID: "s", Server: server(cloud.VMActive, cloud.PowerRunning), Seen: []cloud.ServerObservation{seen("a", cloud.PowerRunning, 101), newer}, Sessions: up("a", "b")}, at(late))
	if len(o.Actions) != 1 || o.Actions[0].Kind != reconcile.Alarm {
		t.Errorf("a host that knows a newer decision: %+v", o)
	}
}

func ptr[T any](v T) *T { return &v }

func TestDeletedServerIsDestroyedWhenItsHostReturnsAndAnUnknownOneNever(t *testing.T) {
	grave := server(cloud.VMDeleted, cloud.PowerNone)
	grave.Terminated = at(100)
	c := reconcile.ServerCase{ID: "s", Grave: grave, Seen: []cloud.ServerObservation{seen("a", cloud.PowerRunning, 200)}, Sessions: up("a")}
	if o := reconcile.Server(c, at(201)); len(o.Actions) != 0 || !o.Again.Equal(at(200).Add(reconcile.SettleDefault)) {
		t.Errorf("too early: %+v", o)
	}
	if o := reconcile.Server(c, at(300)); len(o.Actions) != 1 || o.Actions[0].Kind != reconcile.DiscardDeleted || o.Actions[0].Generation != 5 {
		t.Errorf("got %+v", o)
	}
	c.Grave = nil
	if o := reconcile.Server(c, at(300)); len(o.Actions) != 1 || o.Actions[0].Kind != reconcile.Alarm {
		t.Errorf("a server without record or grave: %+v", o)
	}
}

func TestWhatAReturningHostHasOfAShelvedServerIsRemovedUnlessItRuns(t *testing.T) {
	shelved := server(cloud.VMOffloaded, cloud.PowerShutdown)
	shelved.Host = ""
	for power, want := range map[cloud.PowerState]reconcile.Kind{
		cloud.PowerShutdown: reconcile.DiscardShelved, cloud.PowerNone: reconcile.DiscardShelved, cloud.PowerCrashed: reconcile.DiscardShelved,
		cloud.PowerRunning: reconcile.Alarm, cloud.PowerPaused: reconcile.Alarm,
	} {
		c := reconcile.ServerCase{ID: "s", Server: shelved, Seen: []cloud.ServerObservation{seen("b", power, 200)}, Sessions: up("b")}
		if o := reconcile.Server(c, at(201)); len(o.Actions) != 0 || !o.Again.Equal(at(200).Add(reconcile.SettleDefault)) {
			t.Errorf("%v, too early: %+v", power, o)
		}
		if o := reconcile.Server(c, at(300)); len(o.Actions) != 1 || o.Actions[0].Kind != want || o.Actions[0].Host != "b" || o.Actions[0].Generation != 5 {
			t.Errorf("%v: %+v, want %s", power, o, want)
		}
		busy := *shelved
		busy.Task = cloud.TaskUnshelving
		c.Server = &busy
		if o := reconcile.Server(c, at(300)); len(o.Actions) != 0 {
			t.Errorf("%v, somebody unshelves it: %+v", power, o)
		}
	}
}

func TestApplyRefusesAServerThatHasMovedOn(t *testing.T) {
	a := reconcile.Action{Kind: reconcile.SetState, Server: "s", Generation: 5, From: cloud.VMActive, State: cloud.VMStopped, Power: cloud.PowerShutdown}
	for name, change := range map[string]func(*cloud.Server){
		"generation": func(s *cloud.Server) { s.Generation++ },
		"state":      func(s *cloud.Server) { s.VMState = cloud.VMError },
		"task":       func(s *cloud.Server) { s.Task = cloud.TaskMigrating },
	} {
		s := server(cloud.VMActive, cloud.PowerRunning)
		change(s)
		before := *s
		if err := a.Apply(s, at(1)); !cloud.Is(err, cloud.KindStale) || !reflect.DeepEqual(*s, before) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// drawCase draws any state of affairs, plausible or not.
func drawCase(t *rapid.T) (reconcile.ServerCase, time.Time) {
	c := reconcile.ServerCase{ID: "s", Busy: rapid.IntRange(0, 9).Draw(t, "busy") == 0, Sessions: map[cloud.HostName]time.Time{}, Evacuated: map[cloud.HostName]bool{}}
	record := &cloud.Server{
		ID: "s", Host: rapid.SampledFrom([]cloud.HostName{"a", "a", "b", ""}).Draw(t, "owner"), VMState: rapid.SampledFrom(cloud.VMStates()).Draw(t, "state"),
		Task:       rapid.SampledFrom([]cloud.TaskState{"", "", "", cloud.TaskMigrating}).Draw(t, "task"),
		Power:      rapid.SampledFrom([]cloud.PowerState{0, 1, 3, 4, 6}).Draw(t, "power"),
		Generation: rapid.Int64Range(1, 3).Draw(t, "generation"), Updated: at(rapid.IntRange(0, 200).Draw(t, "updated")),
	}
	switch rapid.IntRange(0, 5).Draw(t, "record") {
	case 0:
		record.Terminated = record.Updated
		c.Grave = record
	case 1:
	default:
		c.Server = record
	}
	for _, h := range []cloud.HostName{"a", "b", "c"} {
		c.Evacuated[h] = rapid.IntRange(0, 3).Draw(t, "evacuated") == 0
		if rapid.IntRange(0, 3).Draw(t, "up") > 0 {
			c.Sessions[h] = at(rapid.IntRange(0, 150).Draw(t, "since"))
		}
		if rapid.Bool().Draw(t, "seen") {
			c.Seen = append(c.Seen, cloud.ServerObservation{Server: "s", Host: h, Generation: rapid.Int64Range(1, 3).Draw(t, "seen generation"),
				Power: rapid.SampledFrom([]cloud.PowerState{0, 1, 3, 4, 6, 7}).Draw(t, "seen power"), At: at(rapid.IntRange(0, 200).Draw(t, "seen at"))})
		}
	}
	return c, at(rapid.IntRange(150, 400).Draw(t, "now"))
}

func TestNothingDestructiveReachesTheOwnerABusyServerOrAnUnprovenCopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, now := drawCase(t)
		o := reconcile.Server(c, now)
		if (c.Busy || c.Server != nil && c.Server.Task != "") && (len(o.Actions) > 0 || !o.Again.IsZero()) {
			t.Fatalf("somebody works on the server: %+v", o)
		}
		if again := reconcile.Server(c, now); !reflect.DeepEqual(again, o) {
			t.Fatal("the same case got another answer")
		}
		for _, a := range o.Actions {
			since, connected := c.Sessions[a.Host]
			if !connected {
				t.Fatalf("%v: the host is not connected", a)
			}
			switch a.Kind {
			case reconcile.Discard:
				own := slices.IndexFunc(c.Seen, func(s cloud.ServerObservation) bool { return s.Host == c.Server.Host })
				if c.Server == nil || a.Host == c.Server.Host || own < 0 ||
					c.Seen[own].At.Before(c.Sessions[c.Server.Host]) && now.Before(c.Sessions[c.Server.Host].Add(reconcile.SettleDefault)) {
					t.Fatalf("%v with %+v", a, c)
				}
				if a.Generation != c.Server.Generation {
					t.Fatalf("%v carries generation %d of %d", a, a.Generation, c.Server.Generation)
				}
			case reconcile.DiscardEvacuated: // also of a running copy, so only of an older one, while the owner's is there
				owns := slices.ContainsFunc(c.Seen, func(s cloud.ServerObservation) bool {
					return s.Host == c.Server.Host && s.Generation == c.Server.Generation
				})
				older := slices.ContainsFunc(c.Seen, func(s cloud.ServerObservation) bool { return s.Host == a.Host && s.Generation < c.Server.Generation })
				if !c.Evacuated[a.Host] || a.Host == c.Server.Host || a.Generation != c.Server.Generation || !owns || !older {
					t.Fatalf("%v with %+v", a, c)
				}
			case reconcile.DiscardShelved:
				if c.Server == nil || c.Server.VMState != cloud.VMOffloaded || c.Server.Host != "" || a.Generation != c.Server.Generation {
					t.Fatalf("%v with %+v", a, c)
				}
			case reconcile.DiscardDeleted:
				if c.Server != nil || c.Grave == nil || a.Generation != c.Grave.Generation {
					t.Fatalf("%v with %+v", a, c)
				}
			case reconcile.SetState:
				if a.Host != c.Server.Host || !a.From.CanBecome(a.State) {
					t.Fatalf("%v from %s to %s", a, a.From, a.State)
				}
			case reconcile.Alarm:
			default:
				t.Fatalf("%v about a server", a)
			}
			if a.Reason == "" || now.Before(since) {
				t.Fatalf("%v at %v", a, now)
			}
		}
	})
}

// TestCarryingOutTheActionsSettlesTheServer applies what is asked, as a perfect control would, and follows Again: in a bounded number of
// rounds nothing but alarms is left, and no time to wait for.
func TestCarryingOutTheActionsSettlesTheServer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, now := drawCase(t)
		for round := 0; ; round++ {
			if round > 12 {
				t.Fatalf("still not settled: %+v", reconcile.Server(c, now))
			}
			o := reconcile.Server(c, now)
			acted := false
			for _, a := range o.Actions {
				switch a.Kind {
				case reconcile.SetState:
					if err := a.Apply(c.Server, now); err != nil {
						t.Fatal(err)
					}
					acted = true
				case reconcile.Discard, reconcile.DiscardDeleted, reconcile.DiscardEvacuated, reconcile.DiscardShelved:
					c.Seen = slices.DeleteFunc(c.Seen, func(s cloud.ServerObservation) bool { return s.Host == a.Host })
					acted = true
				case reconcile.Alarm, reconcile.CreateHost, reconcile.ReleaseClaim, reconcile.RestoreClaim: // change nothing that is judged here
				}
			}
			if acted {
				continue
			}
			if o.Again.IsZero() {
				return
			}
			if !o.Again.After(now) {
				t.Fatalf("asks to be asked at %v, it is %v", o.Again, now)
			}
			now = o.Again
		}
	})
}

// A host that was believed dead comes back with what it had. Only the generation tells the copies apart: the older one was given up.
func TestWhatAnEvacuatedHostStillHasIsRemovedAtOnceEvenIfItRuns(t *testing.T) {
	for _, power := range []cloud.PowerState{cloud.PowerRunning, cloud.PowerPaused, cloud.PowerShutdown, cloud.PowerCrashed} {
		s := server(cloud.VMActive, cloud.PowerRunning)
		s.Generation = 7
		own, old := seen("a", cloud.PowerRunning, 101), seen("b", power, 102)
		own.Generation, old.Generation = 7, 6
		c := reconcile.ServerCase{ID: "s", Server: s, Seen: []cloud.ServerObservation{own, old}, Sessions: up("a", "b"), Evacuated: map[cloud.HostName]bool{"b": true}}
		o := reconcile.Server(c, at(102))
		if len(o.Actions) != 1 || o.Actions[0].Kind != reconcile.DiscardEvacuated || o.Actions[0].Host != "b" || o.Actions[0].Generation != 7 {
			t.Errorf("power %d: %+v", power, o)
		}
		c.Seen = c.Seen[1:]
		if o := reconcile.Server(c, at(102)); len(o.Actions) != 0 {
			t.Errorf("power %d: the owner is silent, and yet %+v", power, o)
		}
		old.Generation = 8
		c.Seen = []cloud.ServerObservation{own, old}
		if o := reconcile.Server(c, at(102)); len(o.Actions) != 1 || o.Actions[0].Kind != reconcile.Alarm {
			t.Errorf("power %d: the other host is ahead of the record: %+v", power, o)
		}
	}
}
