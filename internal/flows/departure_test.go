package flows

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// finalFigures are what libvirt on the source says at the end: of its last look, which may be from before the mirror was drained.
var finalFigures = &hostpb.MigrationStats{MemoryTotal: 100, DiskTotal: 10, DiskProcessed: 9, DiskRemaining: 1, Downtime: durationpb.New(40 * time.Millisecond)}

// settledFigures are what is recorded of them: nothing is left of a move that is over.
var settledFigures = &hostpb.MigrationStats{MemoryTotal: 100, DiskTotal: 10, DiskProcessed: 10, Downtime: durationpb.New(40 * time.Millisecond)}

// departing is a world whose migration ends with finalFigures.
func departing(t *testing.T) *world {
	w := moving(t)
	w.fleet.ScriptMigrations(func(*hostpb.MigrateRequest) hostapitest.Migration { return hostapitest.Migration{Stats: finalFigures} })
	return w
}

// migrateCalls are the calls that the run made to host and of the kind, in order.
func migrateCalls(w *world, kinds ...string) []string {
	var out []string
	for _, call := range w.fleet.Calls() {
		if fields := strings.Fields(call); slices.Contains(kinds, fields[1]) {
			out = append(out, fields[0]+" "+fields[1])
		}
	}
	return out
}

func TestAServerIsActiveBeforeTheSourcesLibvirtConfirmsAndGetsItsFiguresAfter(t *testing.T) {
	w := departing(t)
	atSwitch := cloud.Server{}
	w.fleet.Inject(hostapitest.Fault{Host: hostB, Call: "Adopt", Do: func() { atSwitch = w.now() }})
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	if err := moved(w); err != nil {
		t.Error(err)
	}
	if atSwitch.Host != hostB || atSwitch.VMState != cloud.VMActive {
		t.Errorf("when it was adopted it was %s on %s", atSwitch.VMState, atSwitch.Host)
	}
	want := []string{"a Migrate", "b Inspect", "b Adopt", "a Migrate", "a Discard"}
	if got := migrateCalls(w, "Migrate", "Inspect", "Adopt", "Discard"); !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
	if m := w.migration(); m.Totals == nil || *m.Totals != Stats(settledFigures) {
		t.Errorf("totals %+v", m.Totals)
	}
}

func TestADepartureThatTheTargetDoesNotBearOutWaitsForTheSource(t *testing.T) {
	w := departing(t)
	w.fleet.Inject(hostapitest.Fault{Host: hostB, Call: "Inspect", Err: cloud.Errorf(cloud.KindUnavailable, "not connected")})
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	if err := moved(w); err != nil {
		t.Error(err)
	}
	want := []string{"a Migrate", "b Inspect", "a Migrate", "b Adopt", "a Discard"}
	if got := migrateCalls(w, "Migrate", "Inspect", "Adopt", "Discard"); !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
}

func TestASourceThatNeverConfirmsDoesNotHoldUpAMove(t *testing.T) {
	w := departing(t)
	w.fleet.Inject(hostapitest.Fault{Host: hostB, Call: "Adopt", Do: func() {
		w.fleet.Inject(hostapitest.Fault{Host: hostA, Call: "Migrate", Err: cloud.Errorf(cloud.KindConflict, "it knows of no migration")})
	}})
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	if err := moved(w); err != nil {
		t.Error(err)
	}
}

func TestWithPostCopyOnlyTheSourcesWordEndsAMove(t *testing.T) {
	for _, postCopy := range []bool{true, false} {
		w := moving(t)
		w.flows.Moves.PostCopy = postCopy
		var got *hostpb.MigrateRequest
		w.fleet.ScriptMigrations(func(r *hostpb.MigrateRequest) hostapitest.Migration {
			got = r
			return hostapitest.Migration{}
		})
		w.run(w.flows.Migrate())
		if got.GetTellDeparture() == postCopy {
			t.Errorf("post-copy %t, and the source is asked to tell of the departure: %t", postCopy, got.GetTellDeparture())
		}
		if err := moved(w); err != nil {
			t.Error(err)
		}
	}
}
