package hostagent_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm/kvmtest"
)

const (
	host1, host2 = "compute-1", "compute-2"
	patience     = 60 * time.Second // a busy machine; every wait is for a condition
	imageBytes   = 8 << 20
)

// The image every guest is booted from.
var (
	imageData = kvmtest.Ticker(imageBytes)
	imageHash = func() string { sum := sha512.Sum512(imageData); return hex.EncodeToString(sum[:]) }()
)

// world is two hosts with an agent on each: fake ones in this process, or real ones in a lab. The conformance suite runs in both.
type world interface {
	agent(host string) hostpb.HostClient
	address(host string) string
	// reported waits until the agent's present life has reported an event that satisfies met.
	reported(host, what string, met func(*hostpb.HostEvent) bool)
	// restartAgent kills the agent as SIGKILL does and starts another.
	restartAgent(host string)
	// restartLibvirtd kills libvirtd and returns when a new one answers.
	restartLibvirtd(host string)
	killQEMU(host string, id cloud.ServerID)
	// slow makes the migrations of a server that is prepared but not started last until letGo, or for a quarter of a minute.
	slow(host string, id cloud.ServerID)
	letGo()
	// ticks waits until the guest has printed n more lines there.
	ticks(host string, id cloud.ServerID, n int)
	// nothingLeft fails the test if anything of the server is on the host.
	nothingLeft(host string, id cloud.ServerID)
	// sound fails the test if the stopped server's disk log has a hole, or if anything happened that must never happen.
	sound(host string, id cloud.ServerID)
}

// slowBytesPerSecond is the bandwidth of migrations of slow servers.
const slowBytesPerSecond = 3 << 20

// server is one guest of a test. Its generation grows with each decision, as in production.
type server struct {
	t          *testing.T
	w          world
	id         cloud.ServerID
	spec       *hostpb.ServerSpec
	generation int64
}

func newServer(t *testing.T, w world) *server {
	id := uuid.NewString()
	return &server{t: t, w: w, id: cloud.ServerID(id), spec: &hostpb.ServerSpec{
		ServerId: id, Name: t.Name(), Hostname: "guest", Vcpus: 1, RamMib: 64, ConfigDrive: true, FlavorName: "tiny",
		Root: &hostpb.RootDisk{ImageId: "ticker", ImageFormat: "raw", ImageBytes: imageBytes, ImageSha512: imageHash, Bytes: 8 * imageBytes},
		Nics: []*hostpb.NIC{{PortId: id, Mac: "fa:16:3e:12:34:56", Mtu: 1450, NetworkId: uuid.NewString(), Vni: 77, PortSecurity: true,
			Addresses: []*hostpb.NICAddress{{SubnetId: uuid.NewString(), Address: "10.5.0.9", Prefix: 24, Gateway: "10.5.0.1", Dhcp: true, DhcpAddress: "10.5.0.2"}}}},
	}}
}

func (s *server) ctx() context.Context { return s.t.Context() }

func (s *server) call() *hostpb.Call {
	return &hostpb.Call{ServerId: string(s.id), Generation: s.generation, RunId: "test"}
}

// must returns the value of a call that may not fail.
func must[T any](t *testing.T, what string) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func (s *server) boot(host string, slow bool) {
	s.t.Helper()
	s.generation++
	a := s.w.agent(host)
	must[*hostpb.PrepareReply](s.t, "prepare")(a.Prepare(s.ctx(), &hostpb.PrepareRequest{Call: s.call(), Spec: s.spec}))
	if slow {
		s.w.slow(host, s.id)
	}
	state := must[*hostpb.ServerState](s.t, "start")(a.Start(s.ctx(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	if state.Domain != hostpb.DomainState_DOMAIN_STATE_RUNNING {
		s.t.Fatalf("started as %v", state)
	}
	s.w.ticks(host, s.id, 3)
}

func (s *server) inspect(host string) *hostpb.ServerState {
	s.t.Helper()
	return must[*hostpb.ServerState](s.t, "inspect "+host)(s.w.agent(host).Inspect(s.ctx(), &hostpb.InspectRequest{ServerId: string(s.id)}))
}

func (s *server) expect(host string, want hostpb.DomainState) *hostpb.ServerState {
	s.t.Helper()
	got := s.inspect(host)
	if got.Domain != want {
		s.t.Fatalf("%s: %v (%s), want %v", host, got.Domain, got.Reason, want)
	}
	return got
}

// eventually waits until the server is in that state on the host.
func (s *server) eventually(host string, want hostpb.DomainState) *hostpb.ServerState {
	s.t.Helper()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); ; {
		got := s.inspect(host)
		if got.Domain == want {
			return got
		}
		select {
		case <-poll.C:
		case <-limit:
			s.t.Fatalf("%s: still %v (%s), want %v", host, got.Domain, got.Reason, want)
		}
	}
}

// prepareTarget makes host2 ready to receive.
func (s *server) prepareTarget() {
	s.t.Helper()
	must[*hostpb.PrepareReply](s.t, "prepare target")(s.w.agent(host2).Prepare(s.ctx(),
		&hostpb.PrepareRequest{Call: s.call(), Spec: s.spec, Incoming: true}))
}

func (s *server) moveRequest(migration string) *hostpb.MigrateRequest {
	return &hostpb.MigrateRequest{
		Call: s.call(), MigrationId: migration, TargetHost: host2, TargetAddress: s.w.address(host2), CopyDisks: true,
		DowntimeMax: durationpb.New(300 * time.Millisecond),
	}
}

// answer is what a call of Migrate came back with.
type answer struct {
	reply *hostpb.MigrateReply
	err   error
}

// beginSlowMove decides on a migration, prepares the target, calls Migrate and returns when the guest is on its way.
func (s *server) beginSlowMove(migration string) <-chan answer {
	s.t.Helper()
	s.generation++
	s.prepareTarget()
	answers := s.migrate(migration)
	s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_OUTGOING)
	s.eventually(host2, hostpb.DomainState_DOMAIN_STATE_INCOMING)
	return answers
}

// migrate calls Migrate in the background.
func (s *server) migrate(migration string) <-chan answer {
	req := s.moveRequest(migration)
	req.BandwidthBytesPerSecond = slowBytesPerSecond
	answers := make(chan answer, 1)
	a := s.w.agent(host1)
	go func() {
		reply, err := a.Migrate(s.ctx(), req)
		answers <- answer{reply, err}
	}()
	return answers
}

func (s *server) await(answers <-chan answer) answer {
	s.t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(3 * patience): // libvirt's keepalive notices a peer that died in post-copy after half a minute, later on a busy machine
		s.t.Fatal("Migrate does not return")
		return answer{}
	}
}

func (s *server) awaitOutcome(answers <-chan answer, want hostpb.MigrateOutcome) *hostpb.MigrateReply {
	s.t.Helper()
	a := s.await(answers)
	if a.err != nil || a.reply.Outcome != want {
		s.t.Fatalf("migrate returned %v, %v; want %v", a.reply, a.err, want)
	}
	return a.reply
}

// landed does what the flow does after a migration that completed.
func (s *server) landed() {
	s.t.Helper()
	history := must[*hostpb.ConsoleReply](s.t, "console")(s.w.agent(host1).Console(s.ctx(), &hostpb.ConsoleRequest{ServerId: string(s.id)}))
	must[*hostpb.ServerState](s.t, "adopt")(s.w.agent(host2).Adopt(s.ctx(), &hostpb.AdoptRequest{Call: s.call(), Spec: s.spec, Console: history.Data}))
	s.w.ticks(host2, s.id, 3)
	s.discard(host1, false)
	s.w.nothingLeft(host1, s.id)
	s.w.reported(host1, "final figures", func(e *hostpb.HostEvent) bool {
		return e.GetProgress().GetServerId() == string(s.id) && e.GetProgress().GetStats().GetDowntime().AsDuration() > 0
	})
}

// stayedHome does what the flow does after a migration that failed, and sees that the guest did not notice.
func (s *server) stayedHome() {
	s.t.Helper()
	s.expect(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.discard(host2, false)
	s.w.nothingLeft(host2, s.id)
	s.w.ticks(host1, s.id, 3)
}

func (s *server) discard(host string, destroyRunning bool) {
	s.t.Helper()
	for range unavailableMax {
		_, err := s.w.agent(host).Discard(s.ctx(), &hostpb.DiscardRequest{Call: s.call(), DestroyRunning: destroyRunning})
		if err == nil {
			return
		}
		// As the workflow engine does: libvirt lets a job that is ending hold the domain, longer on a busy machine than it lets others wait.
		if !cloud.Is(err, cloud.KindUnavailable) {
			s.t.Fatalf("discard on %s: %v", host, err)
		}
		s.t.Logf("discard on %s, asking again: %v", host, err)
	}
	s.t.Fatalf("discard on %s: unavailable %d times", host, unavailableMax)
}

// unavailableMax bounds how often a call is repeated that a host could not carry out yet; libvirt makes each wait up to half a minute.
const unavailableMax = 4

// end stops and deletes the server.
func (s *server) end(host string) {
	s.t.Helper()
	s.generation++
	must[*hostpb.ServerState](s.t, "stop")(s.w.agent(host).Stop(s.ctx(), &hostpb.StopRequest{Call: s.call()}))
	s.w.sound(host, s.id)
	s.discard(host, true)
	s.w.nothingLeft(host, s.id)
}

func (s *server) console(host string) []byte {
	s.t.Helper()
	return must[*hostpb.ConsoleReply](s.t, "console")(s.w.agent(host).Console(s.ctx(), &hostpb.ConsoleRequest{ServerId: string(s.id)})).Data
}

func ticksIn(console []byte) int { return bytes.Count(console, []byte("tick ")) }
