package hostagent_test

import (
	"os"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// postCopy is what an agent does in the phase of a migration in which neither host alone has the guest.
var postCopy = []struct {
	claim string
	run   func(*testing.T, *server)
}{
	{"post-copy is told at once and cannot be aborted", postCopyIsTold},
	{"a source agent that dies in post-copy attaches again", sourceAgentDiesInPostCopy},
	{"a target that loses the guest in post-copy is no reason to run the source's half", targetDiesInPostCopy},
	{sourceLost, sourceDiesInPostCopy},
}

func TestPostCopyOnFakeHosts(t *testing.T) {
	for _, c := range postCopy {
		t.Run(c.claim, func(t *testing.T) {
			w := newFakeWorld(t)
			w.fleet.Hold()
			c.run(t, newServer(t, w))
		})
	}
}

// sourceLost is the case that libvirt 9.0 meets in two ways: mostly it ends the move within a minute, and at times its call never returns, which the agent ends then
// (docs/operating/guests.md). What is left for libvirtd to get over takes so long that real hosts meet the case in drills only.
const sourceLost = "a source that loses its half in post-copy leaves a broken guest on the target"

func TestPostCopyOnRealHosts(t *testing.T) {
	needsLab(t)
	b := newLinuxBench(t)
	for _, c := range postCopy {
		if c.claim == sourceLost && os.Getenv("GODWIT_DRILL") == "" {
			continue
		}
		t.Run(c.claim, func(t *testing.T) { c.run(t, linuxServer(t, &realWorld{bench: b, t: t})) })
	}
}

// TestALibvirtThatNeverSaysHowPostCopyEndedHoldsNobodyUp: the source's process is dead, the call that moves the guest does not return, and libvirt shows the domain as
// before. The agent, which knows of the end from the kernel, ends the call itself, tells that the guest is broken, and lets go of its half.
func TestALibvirtThatNeverSaysHowPostCopyEndedHoldsNobodyUp(t *testing.T) {
	w := newFakeWorld(t)
	w.fleet.Hold()
	s := newServer(t, w)
	answers := s.beginPostCopy()
	w.hosts[host1].libvirt.LoseProcess(s.id)
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN)
	s.expectPostCopy(host1, hostpb.DomainState_DOMAIN_STATE_PAUSED, postCopyBroken)
	s.expectPostCopy(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING, postCopyBroken)
	s.revive()
}

const (
	postCopyActive = hostpb.PostCopy_POST_COPY_ACTIVE
	postCopyBroken = hostpb.PostCopy_POST_COPY_BROKEN
)

// beginPostCopy boots a server and returns when its CPUs run on the target and its memory is still on its way.
func (s *server) beginPostCopy() <-chan answer {
	s.t.Helper()
	s.boot(host1, false)
	s.generation++
	s.prepareTarget()
	answers := s.migratePostCopy()
	s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_OUTGOING)
	s.force()
	s.w.reported(host1, "post-copy", func(e *hostpb.HostEvent) bool {
		return e.GetProgress().GetMigrationId() == s.t.Name() && e.GetProgress().GetPostCopy()
	})
	s.eventually(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING) // it has still to load the devices' state
	return answers
}

// migratePostCopy calls Migrate in the background.
func (s *server) migratePostCopy() <-chan answer {
	req := s.moveRequest(s.t.Name())
	req.BandwidthBytesPerSecond, req.PostCopy = 2*slowBytesPerSecond, true
	answers := make(chan answer, 1)
	a := s.w.agent(host1)
	go func() {
		reply, err := a.Migrate(s.ctx(), req)
		answers <- answer{reply, err}
	}()
	return answers
}

func (s *server) expectPostCopy(host string, domain hostpb.DomainState, want hostpb.PostCopy) {
	s.t.Helper()
	if got := s.expect(host, domain); got.PostCopy != want {
		s.t.Errorf("%s: %v, want %v", host, got, want)
	}
}

func postCopyIsTold(t *testing.T, s *server) {
	answers := s.beginPostCopy()
	s.expectPostCopy(host1, hostpb.DomainState_DOMAIN_STATE_PAUSED, postCopyActive)
	s.expectPostCopy(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING, postCopyActive)
	order := &hostpb.SteerRequest{Call: s.call(), MigrationId: t.Name(), Abort: true}
	if err := second(s.w.agent(host1).Steer(t.Context(), order)); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("abort: %v", err)
	}
	order.Abort, order.ForceComplete = false, true
	must[*hostpb.SteerReply](t, "force again")(s.w.agent(host1).Steer(t.Context(), order))
	for _, host := range []string{host1, host2} {
		if err := second(s.w.agent(host).Discard(t.Context(), &hostpb.DiscardRequest{Call: s.call()})); !cloud.Is(err, cloud.KindConflict) {
			t.Errorf("discard on %s: %v", host, err)
		}
	}
	s.w.letGo()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	s.expectPostCopy(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING, hostpb.PostCopy_POST_COPY_NONE)
	s.landed()
	s.remove(host2)
}

// remove deletes the server without looking at its disk.
func (s *server) remove(host string) {
	s.t.Helper()
	s.generation++
	s.discard(host, true)
	s.w.nothingLeft(host, s.id)
}

func sourceAgentDiesInPostCopy(t *testing.T, s *server) {
	answers := s.beginPostCopy()
	s.w.restartAgent(host1)
	s.await(answers)
	answers = s.migratePostCopy()
	s.w.reported(host1, "post-copy", func(e *hostpb.HostEvent) bool { return e.GetProgress().GetPostCopy() })
	s.w.letGo()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.landedQuietly()
	s.remove(host2)
}

// revive does what the flow and then the owner do after post-copy broke off: the target adopts what there is, the source forgets, and a hard reboot
// begins anew from the target's disk.
func (s *server) revive() {
	s.t.Helper()
	target := s.w.agent(host2)
	must[*hostpb.ServerState](s.t, "adopt")(target.Adopt(s.ctx(), &hostpb.AdoptRequest{Call: s.call(), Spec: s.spec}))
	s.discard(host1, false)
	s.w.restartLibvirtd(host1) // which may hold a domain that died in post-copy until then
	s.discard(host1, false)
	s.w.nothingLeft(host1, s.id)
	s.generation++
	must[*hostpb.ServerState](s.t, "reboot")(target.Reboot(s.ctx(), &hostpb.RebootRequest{Call: s.call(), Spec: s.spec, Hard: true,
		Grace: durationpb.New(0)}))
	s.expectPostCopy(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING, hostpb.PostCopy_POST_COPY_NONE)
	s.w.ticks(host2, s.id, 3)
	s.remove(host2)
}

func targetDiesInPostCopy(t *testing.T, s *server) {
	answers := s.beginPostCopy()
	s.w.killQEMU(host2, s.id)
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN)
	s.expectPostCopy(host1, hostpb.DomainState_DOMAIN_STATE_PAUSED, postCopyBroken)
	s.generation++
	if err := second(s.w.agent(host1).Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec})); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("start of the source's half: %v", err)
	}
	s.revive()
}

func sourceDiesInPostCopy(t *testing.T, s *server) {
	answers := s.beginPostCopy()
	s.w.killQEMU(host1, s.id)
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN)
	s.expectPostCopy(host1, hostpb.DomainState_DOMAIN_STATE_CRASHED, postCopyBroken)
	s.w.reported(host2, "broken post-copy", func(e *hostpb.HostEvent) bool { return e.GetObservation().GetPostCopy() == postCopyBroken })
	s.expectPostCopy(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING, postCopyBroken)
	s.revive()
}
