package hostagent_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// failsAs waits until the server's failure on host1 is reported as that kind, for the n-th time.
func (s *server) failsAs(kind hostpb.GuestFailure, n int64) {
	s.t.Helper()
	s.w.reported(host1, kind.String(), func(e *hostpb.HostEvent) bool {
		o := e.GetObservation()
		return o.GetServerId() == string(s.id) && o.GetFailure() == kind && o.GetFailureNumber() == n
	})
}

func (s *server) reboots() {
	s.t.Helper()
	s.generation++
	must[*hostpb.ServerState](s.t, "reboot")(s.w.agent(host1).Reboot(s.ctx(), &hostpb.RebootRequest{Call: s.call(), Spec: s.spec, Hard: true}))
	if got := s.expect(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING); got.Failure != hostpb.GuestFailure_GUEST_FAILURE_NONE {
		s.t.Errorf("after a reboot its failure is still %v", got)
	}
}

func TestEachFailureOfAGuestIsToldOnceAndEndsWithWhatIsDoneAboutIt(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.spec.WatchdogAction = "pause"
	s.boot(host1, false)
	fake := w.hosts[host1].libvirt
	if got := fake.Defined(s.id); got.Watchdog != "pause" || got.GuestAgent {
		t.Errorf("defined with watchdog %q, agent %v", got.Watchdog, got.GuestAgent)
	}
	fake.KillProcess(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_CRASHED, 1)
	w.restartAgent(host1)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_CRASHED, 1)
	s.reboots()
	fake.Panic(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_PANICKED, 2)
	s.reboots()
	fake.FireWatchdog(s.id, true)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_WATCHDOG, 3)
	s.reboots()
	fake.FireWatchdog(s.id, false)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_WATCHDOG, 4)
	fake.KillProcess(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_CRASHED, 5)
	s.generation++
	stopped := must[*hostpb.ServerState](t, "stop")(w.agent(host1).Stop(t.Context(), &hostpb.StopRequest{Call: s.call(), Grace: durationpb.New(0)}))
	if stopped.Failure != hostpb.GuestFailure_GUEST_FAILURE_NONE || stopped.FailureNumber != 5 {
		t.Errorf("stopped by its owner it has failure %v", stopped)
	}
}

func TestAPanicIsNotTakenForACrashThoughItIsToldAfterItsConsequences(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.boot(host1, false)
	fake := w.hosts[host1].libvirt
	fake.KillProcess(s.id)
	fake.TellPanic(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_PANICKED, 1)
	s.reboots()
	fake.KillProcess(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_CRASHED, 2)
}

func TestAGuestThatShutsItselfDownHasNotFailed(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.boot(host1, false)
	w.hosts[host1].libvirt.ShutDown(s.id)
	if got := s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_SHUTOFF); got.FailureNumber != 0 {
		t.Errorf("reported as %v", got)
	}
}

func TestACrashWhileTheAgentIsAwayIsFoundWhenItIsBack(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.boot(host1, false)
	h := w.hosts[host1]
	h.life.stop()
	h.libvirt.KillProcess(s.id)
	h.start()
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_CRASHED, 1)
}

func TestADiskThatKeepsFailingIsAFailureAndAServiceThatIsAwayIsNone(t *testing.T) {
	w := newFakeWorld(t)
	h := w.hosts[host1]
	s := newServer(t, w)
	s.spec.Volumes = []*hostpb.VolumeDisk{volume("vdb")}
	s.boot(host1, false)
	h.storage.set(true)
	h.libvirt.FailDisk(s.id)
	s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_PAUSED)
	for looks := h.storage.looks(); h.storage.looks() < looks+4; { // it looks again and again, and finds nobody
		if got := s.inspect(host1); got.FailureNumber != 0 {
			t.Fatalf("a service that is away made it fail: %v", got)
		}
	}
	h.storage.set(false)
	s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	h.libvirt.SpoilDisk(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_IO_ERROR, 1)
	s.reboots()
}

func TestAGuestWithoutRoomForWhatItWritesFailsAsThatAndGoesOnWhenThereIsSome(t *testing.T) {
	w := newFakeWorld(t)
	h := w.hosts[host1]
	s := newServer(t, w)
	s.boot(host1, false)
	h.libvirt.FillDisk(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_NO_SPACE, 1)
	h.libvirt.MakeRoom(s.id)
	s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_NONE, 1)
	h.libvirt.SpoilDisk(s.id)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_IO_ERROR, 2)
}

func TestAGuestAgentThatFallsSilentIsAFailureAndOneThatEndsIsNone(t *testing.T) {
	w := newFakeWorld(t)
	fake := w.hosts[host1].libvirt
	s := newServer(t, w)
	s.spec.GuestAgent = true
	s.boot(host1, false)
	fake.SetAgent(s.id, kvm.AgentSilent) // from the start: it never answered, so it is not missed
	pinged := fake.Pings(s.id)
	fake.AwaitPings(t.Context(), s.id, pinged+2*pingsUntilSilent)
	fake.SetAgent(s.id, kvm.AgentAnswered)
	fake.AwaitPings(t.Context(), s.id, fake.Pings(s.id)+2)
	fake.SetAgent(s.id, kvm.AgentAbsent) // ended in order
	fake.AwaitPings(t.Context(), s.id, fake.Pings(s.id)+2*pingsUntilSilent)
	if got := s.inspect(host1); got.FailureNumber != 0 {
		t.Fatalf("failed as %v", got)
	}
	fake.SetAgent(s.id, kvm.AgentAnswered)
	fake.AwaitPings(t.Context(), s.id, fake.Pings(s.id)+2)
	fake.SetAgent(s.id, kvm.AgentSilent)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_SILENT, 1)
	fake.SetAgent(s.id, kvm.AgentAnswered)
	s.failsAs(hostpb.GuestFailure_GUEST_FAILURE_NONE, 1)
}

// The fake hosts' patience with guests; see hostagent.Failures.
const (
	fakeSilenceMax   = 300 * time.Millisecond
	fakeIOErrorAfter = 200 * time.Millisecond
	fakeSettledAfter = 500 * time.Millisecond
	pingsUntilSilent = 8
)
