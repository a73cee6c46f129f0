package hostapitest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	completed = hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED
	failed    = hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED
	cancelled = hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED
	unknown   = hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNKNOWN
)

func spec() *hostpb.ServerSpec { return &hostpb.ServerSpec{ServerId: "s1", Name: "vm"} }

func at(generation int64) *hostpb.Call {
	return &hostpb.Call{ServerId: "s1", Generation: generation, RunId: "run"}
}

func on(t *testing.T, f *Fleet, name cloud.HostName) hostpb.HostClient {
	t.Helper()
	c, err := f.On(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pair returns a fleet of a and b with s1 running on a and b prepared to receive it.
func pair(t *testing.T) *Fleet {
	t.Helper()
	f := NewFleet("a", "b")
	f.Host("a").Place(spec(), 1)
	if _, err := on(t, f, "b").Prepare(t.Context(), &hostpb.PrepareRequest{Call: at(2), Spec: spec(), Incoming: true}); err != nil {
		t.Fatal(err)
	}
	return f
}

func move() *hostpb.MigrateRequest {
	return &hostpb.MigrateRequest{Call: at(2), MigrationId: "m1", TargetHost: "b", TargetAddress: "192.0.2.2", CopyDisks: true}
}

func clean(t *testing.T, f *Fleet) {
	t.Helper()
	if v := f.Violations(); len(v) > 0 {
		t.Errorf("violations: %q", v)
	}
}

func TestBootAndDeleteLeaveNothing(t *testing.T) {
	f := NewFleet("a")
	c := on(t, f, "a")
	for range 2 { // each call twice: all are idempotent
		if _, err := c.Prepare(t.Context(), &hostpb.PrepareRequest{Call: at(1), Spec: spec()}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		s, err := c.Start(t.Context(), &hostpb.StartRequest{Call: at(1), Spec: spec()})
		if err != nil || s.GetDomain() != running {
			t.Fatalf("%v %v", s, err)
		}
	}
	for range 2 {
		if _, err := c.Discard(t.Context(), &hostpb.DiscardRequest{Call: at(2), DestroyRunning: true}); err != nil {
			t.Fatal(err)
		}
	}
	if l := f.Leftovers("s1"); len(l) != 0 {
		t.Errorf("left: %q", l)
	}
	clean(t, f)
}

func TestAnOlderGenerationIsRefusedAfterDiscardToo(t *testing.T) {
	f := NewFleet("a")
	c := on(t, f, "a")
	if _, err := c.Discard(t.Context(), &hostpb.DiscardRequest{Call: at(5)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prepare(t.Context(), &hostpb.PrepareRequest{Call: at(4), Spec: spec()}); !cloud.Is(err, cloud.KindStale) {
		t.Errorf("got %v", err)
	}
}

func TestDiscardRefusesARunningCopy(t *testing.T) {
	f := NewFleet("a")
	f.Host("a").Place(spec(), 1)
	if _, err := on(t, f, "a").Discard(t.Context(), &hostpb.DiscardRequest{Call: at(2)}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("got %v", err)
	}
	if got := f.Running("s1"); !slices.Equal(got, []cloud.HostName{"a"}) {
		t.Errorf("runs on %v", got)
	}
}

func TestMigrationMovesTheOneCopy(t *testing.T) {
	f := pair(t)
	for range 2 { // the second call attaches to the outcome
		r, err := on(t, f, "a").Migrate(t.Context(), move())
		if err != nil || r.GetOutcome() != completed {
			t.Fatalf("%v %v", r, err)
		}
	}
	if got := f.Running("s1"); !slices.Equal(got, []cloud.HostName{"b"}) {
		t.Errorf("runs on %v", got)
	}
	tail, err := on(t, f, "a").Discard(t.Context(), &hostpb.DiscardRequest{Call: at(2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := on(t, f, "b").Adopt(t.Context(), &hostpb.AdoptRequest{Call: at(2), Spec: spec(), Console: tail.GetConsole()}); err != nil {
		t.Fatal(err)
	}
	if l := f.Leftovers("s1"); !slices.Equal(l, []string{"b: running, disks"}) {
		t.Errorf("left: %q", l)
	}
	clean(t, f)
}

func TestMigratingToAnUnpreparedHostFailsAndIsAViolation(t *testing.T) {
	f := NewFleet("a", "b")
	f.Host("a").Place(spec(), 1)
	r, err := on(t, f, "a").Migrate(t.Context(), move())
	if err != nil || r.GetOutcome() != failed || len(f.Violations()) != 1 {
		t.Errorf("%v %v %q", r, err, f.Violations())
	}
	if got := f.Running("s1"); !slices.Equal(got, []cloud.HostName{"a"}) {
		t.Errorf("runs on %v", got)
	}
}

func TestASecondCopyIsAViolation(t *testing.T) {
	f := NewFleet("a", "b")
	f.Host("a").Place(spec(), 1)
	c := on(t, f, "b")
	if _, err := c.Prepare(t.Context(), &hostpb.PrepareRequest{Call: at(2), Spec: spec()}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(t.Context(), &hostpb.StartRequest{Call: at(2), Spec: spec()}); err != nil {
		t.Fatal(err)
	}
	if len(f.Violations()) != 1 {
		t.Errorf("got %q", f.Violations())
	}
}

func TestAbortCancelsAndTheSourceRunsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := pair(t)
		f.ScriptMigrations(func(*hostpb.MigrateRequest) Migration { return Migration{Took: time.Hour} })
		source := on(t, f, "a")
		result := make(chan *hostpb.MigrateReply)
		go func() {
			r, _ := source.Migrate(t.Context(), move())
			result <- r
		}()
		synctest.Wait()
		if got := f.Host("b").State("s1").GetDomain(); got != incoming {
			t.Errorf("target is %s", got)
		}
		if _, err := source.Steer(t.Context(), &hostpb.SteerRequest{Call: at(2), MigrationId: "m1", Abort: true}); err != nil {
			t.Fatal(err)
		}
		if r := <-result; r.GetOutcome() != cancelled {
			t.Errorf("got %v", r)
		}
		if got := f.Running("s1"); !slices.Equal(got, []cloud.HostName{"a"}) {
			t.Errorf("runs on %v", got)
		}
		f.Wait()
		clean(t, f)
	})
}

func TestACrashedSourceAgentCannotTellTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := pair(t)
		f.ScriptMigrations(func(*hostpb.MigrateRequest) Migration { return Migration{Took: time.Minute} })
		source := on(t, f, "a")
		result := make(chan error)
		go func() {
			_, err := source.Migrate(t.Context(), move())
			result <- err
		}()
		synctest.Wait()
		f.Host("a").CrashAgent()
		if err := <-result; !cloud.Is(err, cloud.KindUnavailable) {
			t.Errorf("got %v", err)
		}
		if _, err := f.On("a"); !cloud.Is(err, cloud.KindUnavailable) {
			t.Errorf("got %v", err)
		}
		f.Wait() // libvirt finishes without the agent
		f.Host("a").Revive()
		r, err := source.Migrate(t.Context(), move())
		if err != nil || r.GetOutcome() != unknown {
			t.Errorf("%v %v", r, err)
		}
		if got := f.Running("s1"); !slices.Equal(got, []cloud.HostName{"b"}) {
			t.Errorf("runs on %v", got)
		}
	})
}

func TestPowerLossOfTheTargetLeavesTheSourceRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := pair(t)
		f.ScriptMigrations(func(*hostpb.MigrateRequest) Migration { return Migration{Took: time.Minute} })
		source := on(t, f, "a")
		result := make(chan *hostpb.MigrateReply)
		go func() {
			r, _ := source.Migrate(t.Context(), move())
			result <- r
		}()
		synctest.Wait()
		f.Host("b").PowerOff()
		if r := <-result; r.GetOutcome() != failed {
			t.Errorf("got %v", r)
		}
		if got := f.Host("a").State("s1").GetDomain(); got != running {
			t.Errorf("source is %s", got)
		}
		f.Wait()
	})
}

func TestFaultsBeforeAndAfterTheEffect(t *testing.T) {
	f := NewFleet("a")
	c, boom := on(t, f, "a"), errors.New("boom")
	f.Inject(Fault{Call: "Prepare", Err: boom})
	req := &hostpb.PrepareRequest{Call: at(1), Spec: spec()}
	if _, err := c.Prepare(t.Context(), req); err == nil || len(f.Leftovers("s1")) != 0 {
		t.Errorf("refused call: %v, left %q", err, f.Leftovers("s1"))
	}
	f.Inject(Fault{Call: "Prepare", Err: cloud.E(cloud.KindUnavailable, "", "", nil), After: true})
	if _, err := c.Prepare(t.Context(), req); !cloud.Is(err, cloud.KindUnavailable) || len(f.Leftovers("s1")) != 1 {
		t.Errorf("lost reply: %v, left %q", err, f.Leftovers("s1"))
	}
	if _, err := c.Prepare(t.Context(), req); err != nil {
		t.Errorf("the faults are used up: %v", err)
	}
	remove := f.Inject(Fault{Call: "Start", Skip: 1, Times: -1, Err: boom})
	start := func() error {
		_, err := c.Start(t.Context(), &hostpb.StartRequest{Call: at(1), Spec: spec()})
		return err
	}
	if start() != nil || start() == nil || start() == nil {
		t.Error("Skip or Times was not honoured")
	}
	remove()
	if err := start(); err != nil {
		t.Errorf("after removal: %v", err)
	}
}

func TestADelayedCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFleet("a")
		f.Inject(Fault{Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := on(t, f, "a").Facts(ctx, &hostpb.FactsRequest{}); !errors.Is(err, context.DeadlineExceeded) || !cloud.Is(err, cloud.KindUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCallsAndObservationsAreRecorded(t *testing.T) {
	f := NewFleet("a", "b")
	var seen []string
	f.OnObservation(func(host cloud.HostName, s *hostpb.ServerState) {
		seen = append(seen, string(host)+" "+s.GetDomain().String())
	})
	f.Host("a").Place(spec(), 1)
	if _, err := on(t, f, "a").Stop(t.Context(), &hostpb.StopRequest{Call: at(2)}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Calls(), []string{"a Stop s1 2"}) || !slices.Equal(seen, []string{"a DOMAIN_STATE_RUNNING", "a DOMAIN_STATE_SHUTOFF"}) {
		t.Errorf("calls %q, seen %q", f.Calls(), seen)
	}
}

func TestACallWithoutGenerationIsAViolation(t *testing.T) {
	f := NewFleet("a")
	if _, err := on(t, f, "a").Start(t.Context(), &hostpb.StartRequest{Call: &hostpb.Call{ServerId: "s1"}, Spec: spec()}); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("got %v", err)
	}
	if len(f.Violations()) != 1 {
		t.Errorf("got %q", f.Violations())
	}
}
