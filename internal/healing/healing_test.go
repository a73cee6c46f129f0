package healing_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/healing"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is a server whose guest fails, driven by what Next says.
type world struct {
	policy   healing.Policy
	c        healing.Case
	restarts int
	moves    int
	failures int64
}

func newWorld() *world {
	w := &world{policy: healing.Default()}
	w.c = healing.Case{Server: cloud.Server{ID: "s", Host: "a", VMState: cloud.VMActive, Power: cloud.PowerRunning, Generation: 1}, Portable: true, Now: start}
	w.observe(cloud.PowerRunning, cloud.FailureNone)
	return w
}

func (w *world) observe(p cloud.PowerState, f cloud.GuestFailure) {
	w.c.Seen = &cloud.ServerObservation{Server: "s", Host: w.c.Server.Host, Power: p, Failure: f, FailureNumber: w.failures, FailureAt: w.c.Now}
}

func (w *world) fail(f cloud.GuestFailure) {
	w.failures++
	w.observe(cloud.PowerCrashed, f)
}

// next asks, and carries out what is asked: at once, and successfully if well.
func (w *world) next(well bool) healing.Step {
	step := healing.Next(w.policy, w.c)
	if step.Changed {
		h := step.Healing
		w.c.Healing = &h
	}
	switch step.Act {
	case healing.Restart:
		w.restarts++
	case healing.Elsewhere:
		w.moves++
		if well {
			w.c.Server.Host, w.failures = "b", 0
		}
	default:
		return step
	}
	w.observe(cloud.PowerRunning, cloud.FailureNone)
	w.c.Server.VMState, w.c.Server.Fault = cloud.VMActive, nil
	if !well {
		w.c.Server.VMState, w.c.Server.Fault = cloud.VMStopped, &cloud.Fault{Message: "it did not start", Created: w.c.Now}
	}
	return step
}

func (w *world) status() cloud.HealStatus {
	if w.c.Healing == nil {
		return ""
	}
	return w.c.Healing.Status
}

func TestAFirstFailureIsAnsweredAtOnceByARestart(t *testing.T) {
	for _, f := range []cloud.GuestFailure{cloud.FailureCrashed, cloud.FailurePanicked, cloud.FailureIOError, cloud.FailureSilent} {
		w := newWorld()
		w.fail(f)
		if step := w.next(true); step.Act != healing.Restart || !strings.Contains(step.Healing.Reason, "attempt 1") {
			t.Fatalf("%s: %+v", f, step)
		}
		w.next(true)
		if w.status() != cloud.HealDone || w.restarts != 1 {
			t.Errorf("%s: ended as %s after %d restarts", f, w.status(), w.restarts)
		}
		if step := w.next(true); step.Changed || step.Act != healing.Nothing {
			t.Errorf("%s: the same failure is dealt with twice: %+v", f, step)
		}
	}
}

func TestRestartsPauseLongerAndLongerThenItGoesElsewhereThenAPersonIsAsked(t *testing.T) {
	w := newWorld()
	var pauses []time.Duration
	for w.status() != cloud.HealGaveUp {
		w.fail(cloud.FailureCrashed)
		began := w.c.Now
		step := w.next(true)
		if !step.Again.IsZero() {
			w.c.Now = step.Again
			step = w.next(true)
		}
		if w.status() == cloud.HealGaveUp {
			if step.Alarm == "" {
				t.Error("nobody is told")
			}
			break
		}
		pauses = append(pauses, w.c.Now.Sub(began))
		w.next(true)
	}
	if w.restarts != 3 || w.moves != 1 {
		t.Errorf("%d restarts, %d moves", w.restarts, w.moves)
	}
	want := []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second}
	for i := range want {
		if i >= len(pauses) || pauses[i] != want[i] {
			t.Fatalf("pauses %v, want %v", pauses, want)
		}
	}
}

func TestAGuestWhoseDisksStayIsNeverStartedElsewhere(t *testing.T) {
	w := newWorld()
	w.c.Portable, w.c.Why = false, "its root disk is on host a alone"
	for range 20 {
		w.fail(cloud.FailureIOError)
		w.next(true)
		w.c.Now = w.c.Now.Add(time.Minute)
		w.next(true)
	}
	if w.moves != 0 || w.restarts != 1 || !strings.Contains(w.c.Healing.Reason, w.c.Why) {
		t.Errorf("%d moves, %d restarts: %s", w.moves, w.restarts, w.c.Healing.Reason)
	}
}

func TestNothingIsDoneThatNobodyWants(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"its owner says off":         func(w *world) { w.c.Server.Metadata = map[string]string{cloud.MetaRecovery: "off"} },
		"Masakari's word":            func(w *world) { w.c.Server.Metadata = map[string]string{cloud.MetaHAEnabled: "False"} },
		"its flavor says off":        func(w *world) { w.c.Server.Flavor.ExtraSpecs = map[string]string{cloud.MetaRecovery: "off"} },
		"the cloud's setting":        func(w *world) { w.policy.Automatic = false },
		"the host is on maintenance": func(w *world) { w.c.Excused = "host a is on maintenance" },
		"it waits for its owner":     func(w *world) { w.c.Server.VMState = cloud.VMResized },
	} {
		w := newWorld()
		spoil(w)
		w.fail(cloud.FailureCrashed)
		w.next(true)
		if w.status() != cloud.HealLeft || w.restarts+w.moves != 0 {
			t.Errorf("%s: %s, %d attempts", name, w.status(), w.restarts+w.moves)
		}
	}
	w := newWorld()
	w.policy.Automatic = false
	w.c.Server.Metadata = map[string]string{cloud.MetaHAEnabled: "True"}
	w.fail(cloud.FailureCrashed)
	if w.next(true); w.restarts != 1 {
		t.Error("a server that opted in was not restarted")
	}
}

func TestAWatchdogThatResetItsGuestNeedsNoHelpAndOneThatStoppedItDoes(t *testing.T) {
	w := newWorld()
	w.failures++
	w.observe(cloud.PowerRunning, cloud.FailureWatchdog)
	if w.next(true); w.status() != cloud.HealLeft || w.restarts != 0 {
		t.Errorf("reset: %s", w.status())
	}
	for _, p := range []cloud.PowerState{cloud.PowerPaused, cloud.PowerShutdown} {
		w := newWorld()
		w.failures++
		w.observe(p, cloud.FailureWatchdog)
		if w.next(true); w.restarts != 1 {
			t.Errorf("power state %d: not restarted", p)
		}
	}
}

func TestAMonitorsWordRestartsARunningServerAndNoneThatWasShutDown(t *testing.T) {
	w := newWorld()
	w.c.Reported = &cloud.Notification{ID: "n", Type: cloud.NotifyVM}
	if w.next(true); w.restarts != 1 {
		t.Error("a running server was not restarted")
	}
	w.next(true)
	if w.status() != cloud.HealDone {
		t.Errorf("ended as %s", w.status())
	}
	w = newWorld()
	w.c.Server.VMState = cloud.VMStopped
	w.observe(cloud.PowerShutdown, cloud.FailureNone)
	w.c.Reported = &cloud.Notification{ID: "n", Type: cloud.NotifyVM}
	if w.next(true); w.status() != cloud.HealLeft || w.restarts != 0 {
		t.Errorf("a server that was shut down: %s", w.status())
	}
}

func TestADecisionOfItsOwnerCallsTheAttemptOff(t *testing.T) {
	w := newWorld()
	w.fail(cloud.FailureCrashed)
	w.c.Busy = true // its owner stops it
	w.next(true)
	if w.status() != cloud.HealWaiting || w.restarts != 0 {
		t.Fatalf("%s, %d restarts", w.status(), w.restarts)
	}
	w.c.Busy = false
	w.c.Server.VMState = cloud.VMStopped
	w.observe(cloud.PowerShutdown, cloud.FailureNone)
	if w.next(true); w.status() != cloud.HealDone || w.restarts != 0 {
		t.Errorf("%s, %d restarts", w.status(), w.restarts)
	}
}

// TestWhateverHappensAttemptsAreBoundedAndNeverMadeBesideOthers throws any history at it.
func TestWhateverHappensAttemptsAreBoundedAndNeverMadeBesideOthers(t *testing.T) {
	kinds := []cloud.GuestFailure{cloud.FailureCrashed, cloud.FailurePanicked, cloud.FailureWatchdog, cloud.FailureIOError, cloud.FailureSilent}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.c.Portable = rapid.Bool().Draw(t, "portable")
		var attempts []time.Time
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			w.c.Now = w.c.Now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "seconds")) * time.Second)
			w.c.Busy = rapid.IntRange(0, 4).Draw(t, "busy") == 0
			w.c.Excused = ""
			if rapid.IntRange(0, 5).Draw(t, "excused") == 0 {
				w.c.Excused = "maintenance"
			}
			if rapid.IntRange(0, 2).Draw(t, "fails") > 0 {
				w.fail(rapid.SampledFrom(kinds).Draw(t, "failure"))
			}
			busy := w.c.Busy
			step := w.next(rapid.Bool().Draw(t, "well"))
			if step.Act == healing.Nothing {
				continue
			}
			if busy {
				t.Fatalf("%s beside somebody's work", step.Act)
			}
			if step.Act == healing.Elsewhere && !w.c.Portable {
				t.Fatal("started elsewhere without its disks")
			}
			attempts = append(attempts, w.c.Now)
			in := 0
			for _, at := range attempts {
				if w.c.Now.Sub(at) <= w.policy.Window {
					in++
				}
			}
			if bound := w.policy.Rule.InPlaceMax + w.policy.Rule.ElsewhereMax; in > bound {
				t.Fatalf("%d attempts within %s, at most %d", in, w.policy.Window, bound)
			}
			if len(step.Healing.Tries) > cloud.HealTriesMax {
				t.Fatalf("%d tries kept", len(step.Healing.Tries))
			}
		}
		if step := healing.Next(w.policy, w.c); !step.Changed && step.Act != healing.Nothing {
			t.Fatalf("acts without writing it down: %+v", step)
		}
	})
}

func TestWantOfRoomIsToldAPersonAndNeverAnsweredByARestart(t *testing.T) {
	w := newWorld()
	w.failures++
	w.observe(cloud.PowerPaused, cloud.FailureNoSpace)
	if step := w.next(true); step.Act != healing.Nothing || step.Alarm == "" || w.status() != cloud.HealLeft {
		t.Fatalf("%+v", step)
	}
	if step := w.next(true); step.Changed {
		t.Errorf("the same failure is dealt with twice: %+v", step)
	}
	w.observe(cloud.PowerRunning, cloud.FailureNone)
	if step := w.next(true); step.Act != healing.Nothing || w.status() != cloud.HealDone || !strings.Contains(step.Healing.Reason, "room again") {
		t.Errorf("there is room again: %+v", step)
	}
	w.failures++
	w.observe(cloud.PowerPaused, cloud.FailureIOError)
	if step := w.next(true); step.Act != healing.Restart {
		t.Errorf("another failure later: %+v", step)
	}
}
