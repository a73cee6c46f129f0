package flows

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

func TestBootKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newWorld(t, cloud.IntentBoot)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Boot(), Args: w.intent,
			Done: func() error {
				c := w.settled()
				c.livesOn(w, w.now().Host)
				return c.err()
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMError && s.Task == cloud.TaskNone && s.Host == "" && s.Fault != nil, "server is %s/%q on %q, fault %v", s.VMState, s.Task, s.Host, s.Fault)
				c.must(len(w.fleet.Leftovers(serverID)) == 0, "hosts keep %v", w.fleet.Leftovers(serverID))
				c.must(len(w.claims()) == 0 && len(w.placed()) == 0, "claims %v, places %v", w.claims(), w.placed())
				c.must(w.port().BindingHost == "", "port is bound to %q", w.port().BindingHost)
				return c.err()
			}}
	})
}

func TestStopKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := running(t, cloud.IntentStop, func(s *cloud.Server) { s.Task = cloud.TaskPoweringOff })
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Stop(), Args: w.intent,
			Done: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMStopped && s.Task == cloud.TaskNone && s.Power == cloud.PowerShutdown, "server is %s/%q", s.VMState, s.Task)
				c.must(len(w.fleet.Running(serverID)) == 0, "runs on %v", w.fleet.Running(serverID))
				c.must(len(w.claims()) == 1, "claims on %v", w.claims())
				return c.err()
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.Task == cloud.TaskNone && s.Fault != nil, "task %q, fault %v", s.Task, s.Fault)
				return c.err()
			}}
	})
}

func TestStartKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := running(t, cloud.IntentStart, func(s *cloud.Server) { s.VMState, s.Task = cloud.VMStopped, cloud.TaskPoweringOn })
		w.fleet.Host(hostA).SetDomain(serverID, hostpb.DomainState_DOMAIN_STATE_SHUTOFF, "shutdown")
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Start(), Args: w.intent,
			Done: func() error {
				c := w.settled()
				c.livesOn(w, hostA)
				return c.err()
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMStopped && s.Task == cloud.TaskNone, "server is %s/%q", s.VMState, s.Task)
				c.must(len(w.fleet.Running(serverID)) == 0, "runs on %v", w.fleet.Running(serverID))
				return c.err()
			}}
	})
}

func TestRebootKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := running(t, cloud.IntentReboot, func(s *cloud.Server) { s.Task = cloud.TaskRebooting })
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Reboot(), Args: w.intent,
			Done: func() error {
				c := w.settled()
				c.livesOn(w, hostA)
				return c.err()
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMActive && s.Task == cloud.TaskNone, "server is %s/%q", s.VMState, s.Task)
				return c.err()
			}}
	})
}

// gone checks that nothing of the server is left anywhere but in the graves.
func gone(w *world) error {
	c := w.settled()
	_, there := store.Lookup(w.store, tables.Servers, serverID)
	grave, buried := store.Lookup(w.store, tables.Graves, serverID)
	c.must(!there && buried && grave.VMState == cloud.VMDeleted, "there %v, buried %v", there, buried)
	c.must(len(w.fleet.Leftovers(serverID)) == 0, "hosts keep %v", w.fleet.Leftovers(serverID))
	c.must(len(w.claims()) == 0 && len(w.placed()) == 0, "claims %v, places %v", w.claims(), w.placed())
	c.must(w.port().ID == "", "the port is still there")
	c.must(store.Count(w.store, tables.AddressClaims) == 0, "the address is still taken")
	usage, _ := store.Lookup(w.store, tables.QuotaUsages, cloud.ProjectID("p"))
	c.must(usage != nil && *usage == (cloud.QuotaUsage{Project: "p"}), "quota usage is %+v", usage)
	return c.err()
}

func TestDeleteKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := running(t, cloud.IntentDelete, func(s *cloud.Server) { s.Task = cloud.TaskDeleting })
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Delete(), Args: w.intent,
			Done: func() error { return gone(w) },
			Clean: func() error {
				if w.now().VMState == cloud.VMDeleted { // the failure came after the burial
					return gone(w)
				}
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMError && s.Task == cloud.TaskNone && s.Fault != nil, "server is %s/%q", s.VMState, s.Task)
				return c.err()
			}}
	})
}

func moving(t *testing.T) *world {
	t.Helper()
	w := running(t, cloud.IntentMigrate, func(s *cloud.Server) { s.Task = cloud.TaskMigrating })
	w.intent.Migration = "m1"
	w.write(func(tx *store.Tx) error {
		if err := store.Put(tx, tables.Migrations, "m1", cloud.Migration{ID: "m1", Number: 1, Server: serverID, Source: hostA, Asked: cloud.MigrateBlock,
			Status: cloud.MigrationQueued, Intent: "i1"}); err != nil {
			return err
		}
		return store.Put(tx, tables.Intents, w.intent.ID, w.intent)
	})
	return w
}

func (w *world) migration() cloud.Migration {
	m, _ := store.Lookup(w.store, tables.Migrations, cloud.MigrationID("m1"))
	return *m
}

func moved(w *world) error {
	c, m := w.settled(), w.migration()
	c.livesOn(w, hostB)
	c.must(m.Status == cloud.MigrationCompleted && m.Target == hostB, "migration is %s to %s", m.Status, m.Target)
	for _, u := range store.All(w.store, tables.Usages) {
		for _, claim := range u.Claims {
			c.must(claim.Migration == "", "the claim on %s still belongs to a move", u.Host)
		}
	}
	return c.err()
}

func stayed(w *world, status cloud.MigrationStatus) error {
	c, m := w.settled(), w.migration()
	c.livesOn(w, hostA)
	c.must(m.Status == status && m.Error != "", "migration is %s (%s), want %s", m.Status, m.Error, status)
	return c.err()
}

func TestMigrateKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := moving(t)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Migrate(), Args: w.intent,
			Done: func() error { return moved(w) },
			Clean: func() error {
				status := cloud.MigrationError
				if w.migration().Status == cloud.MigrationFailed {
					status = cloud.MigrationFailed
				}
				return stayed(w, status)
			}}
	})
}

func TestAMigrationWhoseTargetCannotGetReadyFindsAnother(t *testing.T) {
	w := moving(t)
	w.addHost("c", 3)
	first := ""
	w.fleet.Inject(hostapitest.Fault{Call: "Prepare", Err: cloud.Errorf(cloud.KindExhausted, "no space")})
	w.run(w.flows.Migrate())
	again := store.All(w.store, tables.Intents)
	if len(again) != 1 || again[0].ID != "i1-2" || len(again[0].Tried) != 1 {
		t.Fatalf("next intent: %+v", again)
	}
	if m := w.migration(); m.Status != cloud.MigrationPreparing || m.Target != "" || m.Intent != "i1-2" || w.now().Task != cloud.TaskMigrating {
		t.Fatalf("between the tries: %+v, task %q", m, w.now().Task)
	}
	first, w.intent = string(again[0].Tried[0]), *again[0]
	w.run(w.flows.Migrate())
	c, m := w.settled(), w.migration()
	c.livesOn(w, m.Target)
	c.must(m.Status == cloud.MigrationCompleted && string(m.Target) != first, "migration is %s to %s", m.Status, m.Target)
	if err := c.err(); err != nil {
		t.Error(err)
	}
}

func TestAMigrationToANamedHostTriesNoOther(t *testing.T) {
	w := moving(t)
	w.addHost("c", 3)
	w.write(func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, "m1")
		m.AskedTarget = hostB
		return errors.Join(err, store.Put(tx, tables.Migrations, "m1", m))
	})
	w.fleet.Inject(hostapitest.Fault{Call: "Prepare", Err: cloud.Errorf(cloud.KindExhausted, "no space")})
	w.run(w.flows.Migrate())
	if err := stayed(w, cloud.MigrationError); err != nil {
		t.Error(err)
	}
}

func script(outcome hostpb.MigrateOutcome, text string) func(*hostpb.MigrateRequest) hostapitest.Migration {
	return func(*hostpb.MigrateRequest) hostapitest.Migration {
		return hostapitest.Migration{Outcome: outcome, Error: text}
	}
}

func TestTheSettingsOfMovesReachTheSource(t *testing.T) {
	w := moving(t)
	w.flows.Moves = Moves{DowntimeMax: 123 * time.Millisecond, BandwidthBytes: 7 << 20, AutoConverge: true, PostCopy: true, ParallelConnections: 3}
	var got *hostpb.MigrateRequest
	w.fleet.ScriptMigrations(func(r *hostpb.MigrateRequest) hostapitest.Migration {
		got = r
		return hostapitest.Migration{}
	})
	w.run(w.flows.Migrate())
	if got.GetDowntimeMax().AsDuration() != 123*time.Millisecond || got.GetBandwidthBytesPerSecond() != 7<<20 || !got.GetAutoConverge() || !got.GetPostCopy() ||
		got.GetParallelConnections() != 3 || !got.GetCopyDisks() {
		t.Errorf("request %v", got)
	}
}

func TestAMigrationThatFailsLeavesTheServerWhereItWas(t *testing.T) {
	w := moving(t)
	w.fleet.ScriptMigrations(script(hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED, "no route"))
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Failed {
		t.Fatalf("run is %s", rec.Phase)
	}
	if err := stayed(w, cloud.MigrationFailed); err != nil {
		t.Error(err)
	}
	if got := w.migration().Error; !strings.Contains(got, "no route") {
		t.Errorf("the reason is lost: %q", got)
	}
}

func TestAGuestLeftStandingOnTheSourceIsWoken(t *testing.T) {
	w := moving(t)
	w.fleet.Host(hostA).SetDomain(serverID, hostpb.DomainState_DOMAIN_STATE_PAUSED, "migration")
	w.fleet.Inject(hostapitest.Fault{Call: "Migrate", Err: cloud.Errorf(cloud.KindUnavailable, "libvirtd went away at the cut-over")})
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Failed {
		t.Fatalf("run is %s", rec.Phase)
	}
	if err := stayed(w, cloud.MigrationFailed); err != nil {
		t.Error(err)
	}
	if on := w.fleet.Running(serverID); !slices.Equal(on, []cloud.HostName{hostA}) {
		t.Errorf("runs on %v", on)
	}
}

func TestAGuestLostInPostCopyBelongsToTheTargetAndIsRevivedThere(t *testing.T) {
	w := moving(t)
	w.fleet.ScriptMigrations(script(hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN, "connection lost"))
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	c, s, m := w.settled(), w.now(), w.migration()
	c.must(s.VMState == cloud.VMError && s.Task == cloud.TaskNone && s.Host == hostB && s.Fault != nil, "server is %s/%q on %s, fault %v", s.VMState, s.Task, s.Host, s.Fault)
	c.must(m.Status == cloud.MigrationFailed && strings.Contains(m.Error, "post-copy broke off"), "migration is %s: %s", m.Status, m.Error)
	action, _ := store.Lookup(w.store, tables.Actions, tables.ActionKey(serverID, "req-1"))
	c.must(action.Message == "Error", "the action says %q", action.Message)
	c.must(slices.Equal(w.claims(), []cloud.HostName{hostB}), "claims on %v", w.claims())
	c.must(len(w.fleet.Leftovers(serverID)) == 1, "hosts keep %v", w.fleet.Leftovers(serverID))
	if err := c.err(); err != nil {
		t.Fatal(err)
	}
	w.intent = cloud.Intent{ID: "i2", Kind: cloud.IntentReboot, Hard: true, Server: serverID, RequestID: "req-1"}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Intents, w.intent.ID, w.intent) })
	w.run(w.flows.Reboot())
	c = w.settled()
	c.livesOn(w, hostB)
	if err := c.err(); err != nil {
		t.Error(err)
	}
}

func TestAnAbortedMigrationIsCancelled(t *testing.T) {
	w := moving(t)
	w.fleet.ScriptMigrations(script(hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED, ""))
	w.run(w.flows.Migrate())
	if err := stayed(w, cloud.MigrationCancelled); err != nil {
		t.Error(err)
	}
}

func TestALostAnswerOfACompletedMigrationIsNoFailure(t *testing.T) {
	w := moving(t)
	w.fleet.Inject(hostapitest.Fault{Host: hostA, Call: "Migrate", After: true, Err: cloud.Errorf(cloud.KindUnavailable, "connection lost")})
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	if err := moved(w); err != nil {
		t.Error(err)
	}
}

func TestASourceAgentThatDiesDuringTheCopyDoesNotUndoACompletedMove(t *testing.T) {
	w := moving(t)
	gate := make(chan struct{})
	w.fleet.ScriptMigrations(func(*hostpb.MigrateRequest) hostapitest.Migration { return hostapitest.Migration{Gate: gate} })
	w.fleet.Inject(hostapitest.Fault{Host: hostB, Call: "Inspect", Do: func() {
		close(gate) // the guests's move goes on without the agent
		w.fleet.Wait()
	}})
	w.fleet.Inject(hostapitest.Fault{Host: hostA, Call: "Migrate", After: true, Do: func() { w.fleet.Host(hostA).CrashAgent() }})
	w.fleet.Inject(hostapitest.Fault{Host: hostB, Call: "Adopt", Do: func() { w.fleet.Host(hostA).Revive() }})
	if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	if err := moved(w); err != nil {
		t.Error(err)
	}
}

func TestABootThatAHostFailsIsTriedElsewhere(t *testing.T) {
	w := newWorld(t, cloud.IntentBoot)
	w.fleet.Inject(hostapitest.Fault{Call: "Start", Times: -1, Host: hostA, Err: cloud.Errorf(cloud.KindExhausted, "no memory")})
	w.fleet.Inject(hostapitest.Fault{Call: "Start", Times: -1, Host: hostB, Err: cloud.Errorf(cloud.KindExhausted, "no memory either")})
	first := w.run(w.flows.Boot())
	if s := w.now(); first.Phase != workflow.Failed || s.VMState != cloud.VMBuilding || s.Task != cloud.TaskScheduling || s.Fault != nil {
		t.Fatalf("after the first host: run %s, server %s/%q, fault %v", first.Phase, s.VMState, s.Task, s.Fault)
	}
	again := store.All(w.store, tables.Intents)
	if len(again) != 1 || again[0].ID != "i1-2" || len(again[0].Tried) != 1 || again[0].RequestID != "req-1" {
		t.Fatalf("next intent: %+v", again)
	}
	w.intent = *again[0]
	w.run(w.flows.Boot()) // the second host fails too: a third try finds no host
	again = store.All(w.store, tables.Intents)
	if len(again) != 1 || again[0].ID != "i1-3" || len(again[0].Tried) != 2 {
		t.Fatalf("next intent: %+v", again)
	}
	w.intent = *again[0]
	w.run(w.flows.Boot())
	if s := w.now(); s.VMState != cloud.VMError || !strings.Contains(s.Fault.Message, "No valid host") {
		t.Errorf("at the end: %s, %+v", s.VMState, s.Fault)
	}
	if err := w.settled().err(); err != nil {
		t.Error(err)
	}
	if left := w.fleet.Leftovers(serverID); len(left) > 0 || len(w.claims()) > 0 {
		t.Errorf("left %v, claims %v", left, w.claims())
	}
}

func TestAHostWithoutRoomIsNotChosenAndOperatorsLearnWhy(t *testing.T) {
	w := newWorld(t, cloud.IntentBoot)
	w.server.Flavor.RAMMiB = 1 << 20
	w.saveServer()
	w.run(w.flows.Boot())
	s := w.now()
	if s.VMState != cloud.VMError || s.Fault.Message != "No valid host was found. There are not enough hosts available." || !strings.Contains(s.Fault.Details, "memory: needs") {
		t.Errorf("got %s, %+v", s.VMState, s.Fault)
	}
	d, ok := store.Lookup(w.store, tables.Decisions, tables.DecisionKey(serverID, "i1"))
	if !ok || d.Chosen != "" || len(d.Verdicts) != 2 {
		t.Errorf("decision: %+v", d)
	}
	if err := w.settled().err(); err != nil {
		t.Error(err)
	}
}

func TestAGuestKeepsItsCPUModelAndGoesOnlyWhereItIsOffered(t *testing.T) {
	w := newWorld(t, cloud.IntentBoot)
	w.write(func(tx *store.Tx) error {
		for _, h := range []cloud.HostName{hostA, hostB} {
			r, err := store.Get(tx, tables.HostReports, h)
			if err != nil {
				return err
			}
			// Only a offers what it gives by default: a guest booted there cannot go to b.
			r.CPUModels, r.CPUModel = []string{"qemu64"}, "qemu64"
			if h == hostA {
				r.CPUModels, r.CPUModel = []string{"qemu64", "EPYC"}, "EPYC"
			}
			if err := store.Put(tx, tables.HostReports, h, r); err != nil {
				return err
			}
		}
		return nil
	})
	w.server.ForcedHost = hostA
	w.saveServer()
	if out := w.run(w.flows.Boot()); out.Phase != workflow.Done {
		t.Fatalf("boot ended %s", out.Phase)
	}
	s := w.now()
	spec, err := Spec(w.store.View(), &s)
	if err != nil || s.CPUModel != "EPYC" || spec.GetCpuModel() != "EPYC" {
		t.Fatalf("the server has model %q, its host is told %q: %v", s.CPUModel, spec.GetCpuModel(), err)
	}
	snap := tables.Snapshot(w.store.View(), time.Now())
	for _, v := range placement.Rank(placement.DefaultPolicy(), &snap, placement.ForMigration(&s, &cloud.Migration{Source: hostA})) {
		if v.Fits || v.Host == hostB && !slices.ContainsFunc(v.Reasons, func(r string) bool { return strings.Contains(r, "needs EPYC") }) {
			t.Errorf("host %s: fits %v, %v", v.Host, v.Fits, v.Reasons)
		}
	}
}

func TestDeletingAServerWhoseHostIsDownDoesNotWaitForTheHost(t *testing.T) {
	w := running(t, cloud.IntentDelete, func(s *cloud.Server) { s.Task = cloud.TaskDeleting })
	w.fleet.Host(hostA).PowerOff()
	if rec := w.run(w.flows.Delete()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	if _, there := store.Lookup(w.store, tables.Servers, serverID); there {
		t.Error("the server is still there")
	}
	if len(w.claims()) != 0 {
		t.Errorf("claims on %v", w.claims())
	}
}

func TestEveryHostCallOfARunCarriesOneNewGeneration(t *testing.T) {
	w := moving(t)
	w.run(w.flows.Migrate())
	for _, call := range w.fleet.Calls() {
		fields := strings.Fields(call)
		if !slices.Contains([]string{"Prepare", "Migrate", "Adopt", "Discard"}, fields[1]) {
			continue
		}
		if fields[3] != "2" {
			t.Errorf("%s: want generation 2", call)
		}
	}
}
