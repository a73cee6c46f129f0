package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

func TestAServerIsBootedMovedStoppedStartedAndDeleted(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(nil)
	w.boot("s1", 512)
	w.idle()
	first := w.running("s1")
	m := w.migrate("s1", 1)
	w.idle()
	if second := w.running("s1"); second == first || w.migration(m).Status != cloud.MigrationCompleted {
		t.Errorf("moved from %s to %s, migration %s", first, second, w.migration(m).Status)
	}
	w.ask(cloud.Intent{ID: "stop", Kind: cloud.IntentStop, Server: "s1"})
	w.idle()
	if s := w.server("s1"); s.VMState != cloud.VMStopped || len(w.fleet.Running("s1")) != 0 {
		t.Errorf("after stop: %s, runs on %v", s.VMState, w.fleet.Running("s1"))
	}
	w.ask(cloud.Intent{ID: "start", Kind: cloud.IntentStart, Server: "s1"})
	w.idle()
	w.running("s1")
	w.ask(cloud.Intent{ID: "delete", Kind: cloud.IntentDelete, Server: "s1"})
	w.idle()
	if left := w.fleet.Leftovers("s1"); len(left) > 0 || w.server("s1").ID != "" {
		t.Errorf("left: %v", left)
	}
	w.sound()
	w.until("the steps of the move are on record", func(v store.View) bool {
		a, ok := store.Lookup(v, tables.Actions, tables.ActionKey("s1", "req-move-m1"))
		if !ok {
			return false
		}
		source, target := w.migration(m).Source, w.migration(m).Target
		var done []string
		for _, e := range a.Events {
			if e.Result == "Success" {
				done = append(done, e.Name+" on "+string(e.Host))
			}
		}
		return slices.Contains(done, "migrate_prepare_target on "+string(target)) && slices.Contains(done, "migrate_release_source on "+string(source)) &&
			len(w.migration(m).Phases) >= 6
	})
}

func TestConcurrentBootsNeverOversubscribe(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(nil)
	const servers = 20 // of which 2 * 6 fit: a host has 65536 MiB, 512 of them reserved
	for i := range servers {
		w.boot(cloud.ServerID(fmt.Sprintf("s%02d", i)), 10000)
	}
	w.idle()
	w.sound()
	active := 0
	for _, s := range store.All(w.store, tables.Servers) {
		switch s.VMState {
		case cloud.VMActive:
			active++
			w.running(s.ID)
		case cloud.VMError:
			if !strings.Contains(s.Fault.Message, "No valid host") {
				t.Errorf("server %s: %s", s.ID, s.Fault.Message)
			}
		default:
			t.Errorf("server %s is %s", s.ID, s.VMState)
		}
	}
	if active != 12 {
		t.Errorf("%d servers are active, want 12", active)
	}
}

// TestALeaderThatDiesAnywhereLosesAndDoublesNothing kills the leader around each attempt of each step of a boot, a move and a delete, with another
// instance ready to take over.
func TestALeaderThatDiesAnywhereLosesAndDoublesNothing(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := range int64(14) {
			t.Run(fmt.Sprintf("at step %d, after its effect %v", n, after), func(t *testing.T) {
				w := newWorld(t, "h1", "h2")
				var count atomic.Int64
				dies := make(chan struct{})
				_, kill := w.control(func(o *Options) {
					o.Name = "first"
					o.Wrap = func(ctx context.Context, _ workflow.Event, next func(context.Context) error) error {
						if count.Add(1)-1 != n {
							return next(ctx)
						}
						if after {
							if err := next(ctx); err != nil {
								count.Add(-1) // it had no effect yet: the next attempt is the one
								return err
							}
						}
						close(dies)
						<-ctx.Done() // the process is gone; nothing is journaled
						return context.Cause(ctx)
					}
				})
				w.until("the first leads", func(store.View) bool {
					id, _, err := w.store.Leader(t.Context(), electionName)
					return err == nil && id == "first"
				})
				w.boot("s1", 512)
				go func() { // ends with the test at the latest: the world closes dies' leader
					<-dies
					kill()
				}()
				w.control(func(o *Options) { o.Name = "second" })
				w.idle()
				from := w.running("s1")
				m := w.migrate("s1", 1)
				w.idle()
				if to := w.running("s1"); to == from || w.migration(m).Status != cloud.MigrationCompleted {
					t.Errorf("moved from %s to %s, migration %s: %s", from, to, w.migration(m).Status, w.migration(m).Error)
				}
				w.ask(cloud.Intent{ID: "delete", Kind: cloud.IntentDelete, Server: "s1"})
				w.idle()
				if left := w.fleet.Leftovers("s1"); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
				w.sound()
				select {
				case <-dies:
				default:
					t.Error("the leader did not come to the place where it should have died")
				}
			})
		}
	}
}

func TestADeleteEndsAMigrationInProgress(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(nil)
	w.boot("s1", 512)
	w.idle()
	w.fleet.ScriptMigrations(gated(make(chan struct{}))) // would copy for ever
	m := w.migrate("s1", 1)
	w.until("the copy runs", func(store.View) bool { return w.migration(m).Status == cloud.MigrationRunning })
	w.ask(cloud.Intent{ID: "delete", Kind: cloud.IntentDelete, Server: "s1"})
	w.idle()
	if left := w.fleet.Leftovers("s1"); len(left) > 0 || w.migration(m).Status != cloud.MigrationCancelled {
		t.Errorf("left %v, migration %s", left, w.migration(m).Status)
	}
	w.sound()
}

func TestADeleteEndsABootThatWaitsForItsHost(t *testing.T) {
	w := newWorld(t, "h1")
	w.control(nil)
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	w.fleet.Inject(faultOn("Prepare", func() { <-stuck }))
	w.boot("s1", 512)
	w.until("the boot has begun", func(v store.View) bool { return w.server("s1").Host != "" })
	w.ask(cloud.Intent{ID: "delete", Kind: cloud.IntentDelete, Server: "s1"})
	w.until("the server is gone", func(v store.View) bool {
		_, there := store.Lookup(v, tables.Servers, cloud.ServerID("s1"))
		return !there
	})
}

func TestAnAbortIsPassedOnToTheSource(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(nil)
	w.boot("s1", 512)
	w.idle()
	from := w.running("s1")
	w.fleet.ScriptMigrations(gated(make(chan struct{})))
	m := w.migrate("s1", 1)
	w.until("the copy runs", func(store.View) bool { return w.migration(m).Status == cloud.MigrationRunning })
	w.set(m, func(m *cloud.Migration) { m.AbortAsked = true })
	w.idle()
	if s := w.server("s1"); w.running("s1") != from || s.Task != cloud.TaskNone || w.migration(m).Status != cloud.MigrationCancelled {
		t.Errorf("server on %s, task %q, migration %s", s.Host, s.Task, w.migration(m).Status)
	}
	w.sound()
}

func TestForceCompleteIsPassedOnToTheSource(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(nil)
	w.boot("s1", 512)
	w.idle()
	from := w.running("s1")
	w.fleet.ScriptMigrations(gated(make(chan struct{})))
	m := w.migrate("s1", 1)
	w.until("the copy runs", func(store.View) bool { return w.migration(m).Status == cloud.MigrationRunning })
	w.set(m, func(m *cloud.Migration) { m.CompleteAsked = true })
	w.idle()
	if w.running("s1") == from || w.migration(m).Status != cloud.MigrationCompleted {
		t.Errorf("server on %s, migration %s", w.server("s1").Host, w.migration(m).Status)
	}
	w.sound()
}

func TestPostCopyIsShownAndThenNobodyAsksForAnAbort(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(func(o *Options) { o.Moves.PostCopy, o.TimeoutPerGiB = true, time.Millisecond; o.ForceOnTimeout = true })
	w.boot("s1", 512)
	w.idle()
	from := w.running("s1")
	gate := make(chan struct{})
	w.fleet.ScriptMigrations(gated(gate))
	// The record says that the copy runs before the source is asked for it: an order that comes between the two is refused, and repeated.
	w.fleet.Inject(hostapitest.Fault{Host: from, Call: "Migrate", Delay: 50 * time.Millisecond})
	m := w.migrate("s1", 1)
	// The time limit forces it. The source's figures of the same second say that this has begun post-copy.
	w.until("post-copy on the source", func(store.View) bool {
		return w.fleet.Host(from).State("s1").GetPostCopy() == hostpb.PostCopy_POST_COPY_ACTIVE
	})
	for seq := range int64(2) {
		w.boxes[from].PutProgress(&hostpb.MigrationUpdate{MigrationId: string(m), ServerId: "s1", Seq: seq + 1, PostCopy: seq > 0,
			Stats: &hostpb.MigrationStats{MemoryRemaining: 1 << 20}})
	}
	w.until("the migration shows post-copy", func(store.View) bool { return w.migration(m).Status == cloud.MigrationPostCopy })
	steered := func() (n int) {
		for _, call := range w.fleet.Calls() {
			if strings.Contains(call, " Steer ") {
				n++
			}
		}
		return n
	}
	before := steered()
	if before == 0 {
		t.Error("the source was never told to end it")
	}
	w.set(m, func(m *cloud.Migration) { m.AbortAsked = true }) // as an abort that was accepted just before
	w.until("the abort was seen", func(v store.View) bool { return w.migration(m).AbortAsked })
	close(gate)
	w.idle()
	if w.running("s1") == from || w.migration(m).Status != cloud.MigrationCompleted {
		t.Errorf("server on %s, migration %s", w.server("s1").Host, w.migration(m).Status)
	}
	if after := steered(); after != before {
		t.Errorf("in post-copy the source was steered %d times: %q", after-before, w.fleet.Calls())
	}
	w.sound()
}

func TestAMigrationThatTakesTooLongIsAborted(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(func(o *Options) { o.TimeoutPerGiB = time.Millisecond })
	w.boot("s1", 512)
	w.idle()
	w.fleet.ScriptMigrations(gated(make(chan struct{})))
	m := w.migrate("s1", 1)
	w.idle()
	if got := w.migration(m).Status; got != cloud.MigrationCancelled {
		t.Errorf("migration is %s", got)
	}
	w.sound()
}

func TestMigrationsBeyondTheBudgetStayQueued(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(func(o *Options) { o.Budget = Budget{Outbound: 9, Inbound: 9, Cluster: 1} })
	w.boot("s1", 512)
	w.boot("s2", 512)
	w.idle()
	gate := make(chan struct{})
	w.fleet.ScriptMigrations(gated(gate))
	first, second := w.migrate("s1", 1), w.migrate("s2", 2)
	w.until("the first copies", func(store.View) bool { return w.migration(first).Status == cloud.MigrationRunning })
	if got := w.migration(second).Status; got != cloud.MigrationQueued {
		t.Errorf("the second is %s", got)
	}
	close(gate)
	w.idle()
	for _, m := range []cloud.MigrationID{first, second} {
		if got := w.migration(m).Status; got != cloud.MigrationCompleted {
			t.Errorf("migration %s is %s", m, got)
		}
	}
	w.sound()
}

func TestHostsLearnOfChangesAroundTheirServers(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(nil)
	w.boot("s1", 512)
	w.idle()
	s := w.server("s1")
	s.Metadata = map[string]string{"colour": "blue"}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, s.ID, s) })
	w.until("the host has been told", func(store.View) bool {
		return slices.ContainsFunc(w.fleet.Calls(), func(c string) bool { return strings.HasPrefix(c, string(s.Host)+" Update s1") })
	})
	for _, h := range []string{"h1", "h2"} {
		if !slices.ContainsFunc(w.fleet.Calls(), func(c string) bool { return strings.HasPrefix(c, h+" SyncNetworks") }) {
			t.Errorf("host %s was not told its peers", h)
		}
	}
	w.sound()
}

func TestAGuestThatShutItselfDownIsShownStopped(t *testing.T) {
	w := newWorld(t, "h1")
	w.control(nil)
	w.boot("s1", 512)
	w.idle()
	on := w.running("s1")
	w.fleet.Host(on).SetDomain("s1", hostpb.DomainState_DOMAIN_STATE_SHUTOFF, "shutdown")
	w.report(on, "s1")
	w.until("the record says stopped", func(store.View) bool { return w.server("s1").VMState == cloud.VMStopped })
	w.sound()
}

func TestAServerDeletedWhileItsHostWasAwayIsRemovedWhenItReturns(t *testing.T) {
	w := newWorld(t, "h1")
	w.control(nil)
	w.boot("s1", 512)
	w.idle()
	w.running("s1")
	w.fleet.Host("h1").CrashAgent() // its answers stop; the guest goes on
	w.ask(cloud.Intent{ID: "delete", Kind: cloud.IntentDelete, Server: "s1"})
	w.idle()
	w.write(func(tx *store.Tx) error { // long ago
		s, err := store.Get(tx, tables.Graves, cloud.ServerID("s1"))
		s.Terminated = time.Now().Add(-time.Hour)
		return errors.Join(err, store.Put(tx, tables.Graves, s.ID, s))
	})
	w.fleet.Host("h1").Revive()
	w.report("h1", "s1")
	w.until("the host holds nothing of it", func(store.View) bool { return len(w.fleet.Leftovers("s1")) == 0 })
	w.sound()
}

// report has the host say what it sees of the server, as its agent would, received long enough ago to be believed.
func (w *world) report(h cloud.HostName, id cloud.ServerID) {
	w.t.Helper()
	state := w.fleet.Host(h).State(id)
	w.write(func(tx *store.Tx) error {
		session, err := store.Get(tx, tables.HostSessions, h)
		if err != nil {
			return err
		}
		session.Since = time.Now().Add(-time.Hour)
		return errors.Join(
			store.Put(tx, tables.HostSessions, h, session),
			store.Put(tx, tables.Observations, tables.ObservationKey(h, id), cloud.ServerObservation{
				Server: id, Host: h, Generation: state.GetGeneration(), Epoch: state.GetEpoch(), Seq: state.GetSeq(), Power: powers[state.GetDomain()],
				Reason: state.GetReason(), At: time.Now().Add(-time.Minute)}),
			aged(tx, id),
		)
	})
}

// aged makes a server's record look as if nobody had touched it for a while.
func aged(tx *store.Tx, id cloud.ServerID) error {
	s, err := store.Get(tx, tables.Servers, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	s.Updated = time.Now().Add(-time.Hour)
	return errors.Join(err, store.Put(tx, tables.Servers, id, s))
}

func (w *world) set(id cloud.MigrationID, change func(*cloud.Migration)) {
	w.t.Helper()
	w.write(func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, id)
		if err != nil {
			return err
		}
		change(&m)
		return store.Put(tx, tables.Migrations, id, m)
	})
}

func TestAnOlderReportNeverReplacesANewerOne(t *testing.T) {
	w := newWorld(t)
	s := NewSessions(w.store, "test", w.log)
	ctx := context.Background()
	if err := s.HostUp(ctx, "h", &hostpb.HostFacts{Name: "h", Generation: 2, Seq: 5, RamMib: 100}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*hostpb.HostFacts{
		{Name: "h", Generation: 1, Seq: 9, RamMib: 1},
		{Name: "h", Generation: 2, Seq: 5, RamMib: 2},
		{Name: "h", Generation: 2, Seq: 4, RamMib: 3},
	} {
		if err := s.Event(ctx, "h", &hostpb.HostEvent{Event: &hostpb.HostEvent_Facts{Facts: f}}); err != nil {
			t.Fatal(err)
		}
	}
	w.write(func(tx *store.Tx) error {
		r, err := store.Get(tx, tables.HostReports, "h")
		if err == nil && r.RAMMiB != 100 {
			t.Errorf("an older report won: %+v", r)
		}
		return err
	})
}

func TestWhatAHostNoLongerSpeaksOfIsForgotten(t *testing.T) {
	w := newWorld(t)
	s := NewSessions(w.store, "test", w.log)
	ctx := context.Background()
	say := func(e *hostpb.HostEvent) {
		t.Helper()
		if err := s.Event(ctx, "h", e); err != nil {
			t.Fatal(err)
		}
	}
	saw := func(id string, seq int64, d hostpb.DomainState) *hostpb.HostEvent {
		return &hostpb.HostEvent{Event: &hostpb.HostEvent_Observation{Observation: &hostpb.ServerState{ServerId: id, Domain: d, Epoch: 1, Seq: seq, DisksPresent: true}}}
	}
	beat := &hostpb.HostEvent{Event: &hostpb.HostEvent_Heartbeat{Heartbeat: &hostpb.Heartbeat{}}}
	for range 2 { // two sessions; the second knows one server less
		if err := s.HostUp(ctx, "h", &hostpb.HostFacts{Name: "h", Generation: 1, Seq: 1}); err != nil {
			t.Fatal(err)
		}
		say(saw("a", 2, hostpb.DomainState_DOMAIN_STATE_RUNNING))
		if _, known := store.Lookup(w.store, tables.Observations, tables.ObservationKey("h", "b")); !known {
			say(saw("b", 3, hostpb.DomainState_DOMAIN_STATE_RUNNING))
		}
		say(beat)
		w.until("a is known", func(v store.View) bool {
			_, ok := store.Lookup(v, tables.Observations, tables.ObservationKey("h", "a"))
			return ok
		})
		s.HostDown("h")
	}
	w.until("b is forgotten, and the host is down", func(v store.View) bool {
		_, b := store.Lookup(v, tables.Observations, tables.ObservationKey("h", "b"))
		_, up := store.Lookup(v, tables.HostSessions, cloud.HostName("h"))
		return !b && !up
	})
}
