package hostagent_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// conformance is what an agent does whatever libvirt it has below it. Each runs in a world of its own or in one after the other's.
var conformance = []struct {
	claim string
	run   func(*testing.T, world)
}{
	{"a guest moves and keeps what it had", guestMoves},
	{"a repeated call finds what the first one did", callsRepeat},
	{"a departure is told, then libvirt's word", departureIsTold},
	{"an older decision is refused", staleIsRefused},
	{"running CPUs are discarded only by deletion", discardRefuses},
	{"an aborted migration leaves the guest where it was", abort},
	{"a target whose QEMU dies costs nothing", targetQEMUDies},
	{"a target whose libvirtd dies costs nothing", targetLibvirtdDies},
	{"a source whose libvirtd dies keeps its guest", sourceLibvirtdDies},
	{"a source agent that dies attaches again", sourceAgentDies},
	{"a target agent that dies finds the arrived guest", targetAgentDies},
	{"a source agent that dies while the guest leaves knows that it left", sourceAgentSleepsThroughIt},
	{"a forced migration completes", forceComplete},
	{"deleting a server ends its migration", deleteWhileMoving},
	{"a guest that ignores the power button is stopped", stopIgnored},
	{"a guest is rebooted from scratch", rebootHard},
	{"a guest that dies is reported", deathIsReported},
	{"a guest comes back to a host it left", thereAndBack},
}

func inEach(t *testing.T, w func(t *testing.T) world) {
	for _, c := range conformance {
		t.Run(c.claim, func(t *testing.T) { c.run(t, w(t)) })
	}
}

func guestMoves(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, false)
	s.generation++
	s.prepareTarget()
	began := time.Now()
	reply := must[*hostpb.MigrateReply](t, "migrate")(w.agent(host1).Migrate(t.Context(), s.moveRequest(t.Name())))
	t.Logf("migrate took %v: %v", time.Since(began), reply)
	if reply.Outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED || reply.Stats.GetDowntime().AsDuration() <= 0 || reply.Stats.GetDiskTotal() == 0 {
		t.Fatalf("reply %v", reply)
	}
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	if got := s.expect(host1, hostpb.DomainState_DOMAIN_STATE_SHUTOFF); got.Reason != "migrated" || got.MigrationId != t.Name() {
		t.Errorf("source says %v", got)
	}
	w.reported(host2, "running after arrival", func(e *hostpb.HostEvent) bool {
		o := e.GetObservation()
		return o.GetServerId() == string(s.id) && o.GetDomain() == hostpb.DomainState_DOMAIN_STATE_RUNNING
	})
	before := ticksIn(s.console(host1))
	s.landed()
	if got := ticksIn(s.console(host2)); got < before {
		t.Errorf("console had %d ticks on the source and has %d on the target", before, got)
	}
	s.end(host2)
}

func departureIsTold(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, false)
	s.generation++
	s.prepareTarget()
	req := s.moveRequest(t.Name())
	req.TellDeparture = true
	first := must[*hostpb.MigrateReply](t, "migrate")(w.agent(host1).Migrate(t.Context(), req))
	// On a fake host libvirt's word may be as fast; whichever came, the guest must run on the target now.
	if !first.GetDeparted() && first.GetOutcome() != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		t.Fatalf("reply %v", first)
	}
	if there := s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING); there.GetArrival().GetElapsed().AsDuration() <= 0 {
		t.Errorf("the target has no figures: %v", there)
	}
	req.TellDeparture = false
	last := must[*hostpb.MigrateReply](t, "migrate, the outcome")(w.agent(host1).Migrate(t.Context(), req))
	if last.GetOutcome() != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED || last.GetStats().GetDiskTotal() == 0 {
		t.Errorf("outcome %v", last)
	}
	s.landed()
	s.end(host2)
}

func callsRepeat(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, false)
	a := w.agent(host1)
	must[*hostpb.PrepareReply](t, "prepare again")(a.Prepare(t.Context(), &hostpb.PrepareRequest{Call: s.call(), Spec: s.spec}))
	must[*hostpb.ServerState](t, "start again")(a.Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	s.generation++
	s.prepareTarget()
	s.prepareTarget()
	for range 2 {
		reply := must[*hostpb.MigrateReply](t, "migrate")(a.Migrate(t.Context(), s.moveRequest(t.Name())))
		if reply.Outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED || reply.Stats.GetMemoryTotal() == 0 {
			t.Errorf("reply %v", reply)
		}
	}
	s.landed()
	must[*hostpb.ServerState](t, "adopt again")(w.agent(host2).Adopt(t.Context(), &hostpb.AdoptRequest{Call: s.call(), Spec: s.spec}))
	s.discard(host1, false)
	s.end(host2)
	s.discard(host2, true)
}

func staleIsRefused(t *testing.T, w world) {
	s := newServer(t, w)
	s.generation = 5
	s.boot(host1, false)
	old := &hostpb.Call{ServerId: string(s.id), Generation: 5}
	a := w.agent(host1)
	for what, err := range map[string]error{
		"discard": second(a.Discard(t.Context(), &hostpb.DiscardRequest{Call: old, DestroyRunning: true})),
		"stop":    second(a.Stop(t.Context(), &hostpb.StopRequest{Call: old})),
		"prepare": second(a.Prepare(t.Context(), &hostpb.PrepareRequest{Call: old, Spec: s.spec})),
	} {
		if !cloud.Is(err, cloud.KindStale) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.expect(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.end(host1)
	w.restartAgent(host1) // what was refused is remembered longer than the server
	if err := second(w.agent(host1).Prepare(t.Context(), &hostpb.PrepareRequest{Call: old, Spec: s.spec})); !cloud.Is(err, cloud.KindStale) {
		t.Errorf("prepare of a deleted server: %v", err)
	}
	w.nothingLeft(host1, s.id)
}

func second[T any](_ T, err error) error { return err }

func discardRefuses(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	try := func() error {
		return second(w.agent(host1).Discard(t.Context(), &hostpb.DiscardRequest{Call: s.call()}))
	}
	if err := try(); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("while it runs: %v", err)
	}
	answers := s.beginSlowMove(t.Name())
	if err := try(); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("while it leaves: %v", err)
	}
	w.letGo()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	if err := second(w.agent(host2).Discard(t.Context(), &hostpb.DiscardRequest{Call: s.call()})); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("on the target after it arrived: %v", err)
	}
	s.landed()
	s.end(host2)
}

func abort(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove("first " + t.Name())
	if _, held := w.(*fakeWorld); held { // a real move goes on meanwhile, and may be over before somebody has read figures that were reported
		w.reported(host1, "progress", func(e *hostpb.HostEvent) bool {
			stats := e.GetProgress().GetStats()
			return e.GetProgress().GetServerId() == string(s.id) && stats.GetMemoryRemaining()+stats.GetDiskRemaining() > 0
		})
	}
	order := &hostpb.SteerRequest{Call: s.call(), MigrationId: "first " + t.Name(), Abort: true}
	must[*hostpb.SteerReply](t, "abort")(w.agent(host1).Steer(t.Context(), order))
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED)
	must[*hostpb.SteerReply](t, "abort again")(w.agent(host1).Steer(t.Context(), order))
	s.stayedHome()
	answers = s.beginSlowMove("second " + t.Name())
	w.letGo()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	s.landed()
	s.end(host2)
}

func targetQEMUDies(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	w.killQEMU(host2, s.id)
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED)
	s.stayedHome()
	s.end(host1)
}

func targetLibvirtdDies(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	w.restartLibvirtd(host2)
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED)
	s.stayedHome()
	s.end(host1)
}

func sourceLibvirtdDies(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	w.restartLibvirtd(host1)
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED)
	s.stayedHome()
	s.end(host1)
}

func sourceAgentDies(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	w.restartAgent(host1)
	if a := s.await(answers); a.err == nil {
		t.Errorf("the dead agent answered %v", a.reply)
	}
	if got := s.expect(host1, hostpb.DomainState_DOMAIN_STATE_OUTGOING); got.MigrationId != t.Name() {
		t.Errorf("after the restart: %v", got)
	}
	if err := second(w.agent(host1).Migrate(t.Context(), s.moveRequest("another"))); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("a second migration of a moving server: %v", err)
	}
	answers = s.migrate(t.Name())
	w.letGo()
	if reply := s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED); reply.Stats.GetDowntime().AsDuration() <= 0 {
		t.Errorf("attached call lacks the final figures: %v", reply)
	}
	s.landed()
	s.end(host2)
}

func targetAgentDies(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	w.restartAgent(host2)
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_INCOMING)
	w.letGo()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.landed()
	s.end(host2)
}

func sourceAgentSleepsThroughIt(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	w.restartAgent(host1)
	s.await(answers)
	w.letGo()
	s.eventually(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	w.restartAgent(host1) // again, so that no process is left that saw it leave
	answers = s.migrate(t.Name())
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	s.generation++
	if err := second(w.agent(host1).Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec})); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("start of a server that left: %v", err)
	}
	s.landedQuietly()
	s.end(host2)
}

// landedQuietly is landed for a source whose agent has reported nothing of the move.
func (s *server) landedQuietly() {
	s.t.Helper()
	must[*hostpb.ServerState](s.t, "adopt")(s.w.agent(host2).Adopt(s.ctx(), &hostpb.AdoptRequest{Call: s.call(), Spec: s.spec}))
	s.w.ticks(host2, s.id, 3)
	s.discard(host1, false)
	s.w.nothingLeft(host1, s.id)
}

func forceComplete(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	must[*hostpb.SteerReply](t, "force")(w.agent(host1).Steer(t.Context(), &hostpb.SteerRequest{Call: s.call(), MigrationId: t.Name(), ForceComplete: true}))
	w.letGo()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.landed()
	s.end(host2)
}

func deleteWhileMoving(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, true)
	answers := s.beginSlowMove(t.Name())
	s.generation++
	s.discard(host1, true)
	if a := s.await(answers); a.err != nil || a.reply.Outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		t.Errorf("migrate returned %v, %v", a.reply, a.err)
	}
	s.discard(host2, true)
	w.nothingLeft(host1, s.id)
	w.nothingLeft(host2, s.id)
}

func stopIgnored(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, false)
	s.generation++
	const grace = 500 * time.Millisecond
	began := time.Now()
	state := must[*hostpb.ServerState](t, "stop")(w.agent(host1).Stop(t.Context(), &hostpb.StopRequest{Call: s.call(), Grace: durationpb.New(grace)}))
	if state.Domain != hostpb.DomainState_DOMAIN_STATE_SHUTOFF || !state.DisksPresent || time.Since(began) < grace {
		t.Errorf("stopped after %v as %v", time.Since(began), state)
	}
	s.generation++
	must[*hostpb.ServerState](t, "start")(w.agent(host1).Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	w.ticks(host1, s.id, 2)
	s.end(host1)
}

func rebootHard(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, false)
	s.generation++
	for _, hard := range []bool{false, true} { // the guest ignores the soft one, so both end the same way
		req := &hostpb.RebootRequest{Call: s.call(), Spec: s.spec, Hard: hard, Grace: durationpb.New(200 * time.Millisecond)}
		must[*hostpb.ServerState](t, "reboot")(w.agent(host1).Reboot(t.Context(), req))
		s.expect(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
		w.ticks(host1, s.id, 2)
	}
	s.end(host1)
}

func deathIsReported(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, false)
	w.killQEMU(host1, s.id)
	w.reported(host1, "crash", func(e *hostpb.HostEvent) bool {
		o := e.GetObservation()
		return o.GetServerId() == string(s.id) && o.GetDomain() == hostpb.DomainState_DOMAIN_STATE_CRASHED
	})
	s.generation++
	must[*hostpb.ServerState](t, "start")(w.agent(host1).Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	w.ticks(host1, s.id, 2)
	s.end(host1)
}

// thereAndBack would leave a source's old clusters in the target's overlay if that were not made anew.
func thereAndBack(t *testing.T, w world) {
	s := newServer(t, w)
	s.boot(host1, false)
	hosts := []string{host1, host2, host1}
	for i := range len(hosts) - 1 {
		from, to := hosts[i], hosts[i+1]
		s.generation++
		must[*hostpb.PrepareReply](t, "prepare target")(w.agent(to).Prepare(t.Context(), &hostpb.PrepareRequest{Call: s.call(), Spec: s.spec, Incoming: true}))
		req := s.moveRequest(t.Name() + to)
		req.TargetHost, req.TargetAddress = to, w.address(to)
		reply := must[*hostpb.MigrateReply](t, "migrate")(w.agent(from).Migrate(t.Context(), req))
		if reply.Outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
			t.Fatalf("reply %v", reply)
		}
		must[*hostpb.ServerState](t, "adopt")(w.agent(to).Adopt(t.Context(), &hostpb.AdoptRequest{Call: s.call(), Spec: s.spec}))
		// The source is not discarded: its agent was unreachable, say. Coming back must not meet what is left there.
		w.ticks(to, s.id, 3)
	}
	s.discard(host2, false)
	w.nothingLeft(host2, s.id)
	s.end(host1)
}
