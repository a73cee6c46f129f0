package hostagent_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm/kvmtest"
	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/lab/labtest"
)

const (
	host1, host2 = "compute-1", "compute-2"
	patience     = 60 * time.Second // a busy machine; every wait is for a condition
	imageBytes   = 8 << 20
)

// bench is two real hosts with an agent on each.
type bench struct {
	*lab.Lab
	t        *testing.T
	image    string
	sha512   string
	agents   map[string]*agentProc
	agentLog *logBuffer
}

// logBuffer keeps the agents' logs for a test that fails.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func newBench(t *testing.T) *bench {
	b := &bench{Lab: labtest.Bare(t, 2), t: t, agents: map[string]*agentProc{}, agentLog: &logBuffer{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.agentLog.text.String())
		}
	})
	image := kvmtest.Ticker(imageBytes)
	sum := sha512.Sum512(image)
	b.image, b.sha512 = filepath.Join(t.TempDir(), "image"), hex.EncodeToString(sum[:])
	if err := os.WriteFile(b.image, image, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{host1, host2} {
		b.agents[h] = b.startAgent(h)
	}
	return b
}

// server is one guest of a test. Its generation grows with each decision, as in production.
type server struct {
	b          *bench
	spec       *hostpb.ServerSpec
	generation int64
}

func (b *bench) server() *server {
	id := uuid.NewString()
	return &server{b: b, spec: &hostpb.ServerSpec{
		ServerId: id, Name: b.t.Name(), Hostname: "guest", Vcpus: 1, RamMib: 64, ConfigDrive: true, FlavorName: "tiny",
		Root: &hostpb.RootDisk{ImageId: "ticker", ImageFormat: "raw", ImageBytes: imageBytes, ImageSha512: b.sha512, Bytes: 2 * imageBytes},
		Nics: []*hostpb.NIC{{PortId: id, Mac: "fa:16:3e:12:34:56", Mtu: 1450, NetworkId: uuid.NewString(), Vni: 77, PortSecurity: true,
			Addresses: []*hostpb.NICAddress{{SubnetId: uuid.NewString(), Address: "10.5.0.9", Prefix: 24, Gateway: "10.5.0.1", Dhcp: true, DhcpAddress: "10.5.0.2"}}}},
	}}
}

func (s *server) call() *hostpb.Call {
	return &hostpb.Call{ServerId: s.spec.ServerId, Generation: s.generation, RunId: "test"}
}

func check[T any](t *testing.T, what string) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func (s *server) boot(host string) {
	s.b.t.Helper()
	s.generation++
	t, ctx := s.b.t, s.b.t.Context()
	a := s.b.agents[host]
	check[*hostpb.PrepareReply](t, "prepare")(a.Prepare(ctx, &hostpb.PrepareRequest{Call: s.call(), Spec: s.spec}))
	state := check[*hostpb.ServerState](t, "start")(a.Start(ctx, &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	if state.Domain != hostpb.DomainState_DOMAIN_STATE_RUNNING {
		t.Fatalf("started as %v", state)
	}
	s.ticks(host, 3)
}

func (s *server) consolePath(host string) string {
	return s.b.Path(host, filepath.Join(agentData, "instances", s.spec.ServerId, "console.log"))
}

// ticks waits until the guest has printed n more lines at that host.
func (s *server) ticks(host string, n int) {
	s.b.t.Helper()
	count := func() int {
		raw, err := os.ReadFile(s.consolePath(host))
		if err != nil {
			s.b.t.Fatal(err)
		}
		return bytes.Count(raw, []byte("tick "))
	}
	from := count()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); count() < from+n; {
		select {
		case <-poll.C:
		case <-limit:
			s.b.t.Fatalf("%s: guest stopped ticking", host)
		}
	}
}

func (s *server) inspect(host string) *hostpb.ServerState {
	s.b.t.Helper()
	return check[*hostpb.ServerState](s.b.t, "inspect "+host)(s.b.agents[host].Inspect(s.b.t.Context(), &hostpb.InspectRequest{ServerId: s.spec.ServerId}))
}

func (s *server) expect(host string, want hostpb.DomainState) *hostpb.ServerState {
	s.b.t.Helper()
	got := s.inspect(host)
	if got.Domain != want {
		s.b.t.Fatalf("%s: %v (%s), want %v", host, got.Domain, got.Reason, want)
	}
	return got
}

// prepareTarget makes host2 ready to receive.
func (s *server) prepareTarget() {
	s.b.t.Helper()
	check[*hostpb.PrepareReply](s.b.t, "prepare target")(s.b.agents[host2].Prepare(s.b.t.Context(),
		&hostpb.PrepareRequest{Call: s.call(), Spec: s.spec, Incoming: true}))
}

func (s *server) moveRequest(migration string) *hostpb.MigrateRequest {
	return &hostpb.MigrateRequest{
		Call: s.call(), MigrationId: migration, TargetHost: host2, TargetAddress: s.b.DataAddr(host2).String(), CopyDisks: true,
		DowntimeMax: durationpb.New(300 * time.Millisecond),
	}
}

// settle does what the flow does after a migration that completed.
func (s *server) settle() {
	s.b.t.Helper()
	t, ctx := s.b.t, s.b.t.Context()
	history := check[*hostpb.ConsoleReply](t, "console")(s.b.agents[host1].Console(ctx, &hostpb.ConsoleRequest{ServerId: s.spec.ServerId}))
	check[*hostpb.ServerState](t, "adopt")(s.b.agents[host2].Adopt(ctx, &hostpb.AdoptRequest{Call: s.call(), Spec: s.spec, Console: history.Data}))
	check[*hostpb.DiscardReply](t, "discard source")(s.b.agents[host1].Discard(ctx, &hostpb.DiscardRequest{Call: s.call()}))
}

// clean fails the test if anything of the server is left on the host.
func (s *server) clean(host string) {
	s.b.t.Helper()
	if got := s.expect(host, hostpb.DomainState_DOMAIN_STATE_ABSENT); got.DisksPresent {
		s.b.t.Errorf("%s: disks are left", host)
	}
	if _, err := os.Stat(s.b.Path(host, filepath.Join(agentData, "instances", s.spec.ServerId))); !os.IsNotExist(err) {
		s.b.t.Errorf("%s: directory is left (%v)", host, err)
	}
	links, err := s.b.Output(s.b.t.Context(), host, "ip", "-o", "link")
	if err != nil {
		s.b.t.Fatal(err)
	}
	for line := range strings.Lines(links) {
		if strings.Contains(line, ": gw") {
			s.b.t.Errorf("%s: interface is left: %s", host, strings.TrimSpace(line))
		}
	}
}

// end deletes the server and sees that its disk log has no hole.
func (s *server) end(host string) {
	s.b.t.Helper()
	s.generation++
	ctx := s.b.t.Context()
	check[*hostpb.ServerState](s.b.t, "stop")(s.b.agents[host].Stop(ctx, &hostpb.StopRequest{Call: s.call()}))
	dir := filepath.Join(agentData, "instances", s.spec.ServerId)
	if _, err := s.b.Output(ctx, host, "qemu-img", "convert", "-O", "raw", dir+"/disk", agentData+"/log.raw"); err != nil {
		s.b.t.Fatal(err)
	}
	log := s.b.Path(host, agentData+"/log.raw")
	raw, err := os.ReadFile(log)
	if err != nil {
		s.b.t.Fatal(err)
	}
	os.Remove(log)
	if last, holes := kvmtest.TickerLog(raw); last < 4 || holes > 0 {
		s.b.t.Errorf("disk log ends at %d with %d holes", last, holes)
	}
	check[*hostpb.DiscardReply](s.b.t, "discard")(s.b.agents[host].Discard(ctx, &hostpb.DiscardRequest{Call: s.call(), DestroyRunning: true}))
	s.clean(host)
}

func TestGuestMovesBetweenRealHosts(t *testing.T) {
	b := newBench(t)
	s := b.server()
	s.boot(host1)
	s.generation++
	s.prepareTarget()
	began := time.Now()
	reply := check[*hostpb.MigrateReply](t, "migrate")(b.agents[host1].Migrate(t.Context(), s.moveRequest("m1")))
	t.Logf("migrate took %v: %v", time.Since(began), reply)
	if reply.Outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED || reply.Stats.GetDowntime().AsDuration() <= 0 || reply.Stats.GetDiskTotal() == 0 {
		t.Fatalf("reply %v", reply)
	}
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	if got := s.expect(host1, hostpb.DomainState_DOMAIN_STATE_SHUTOFF); got.Reason != "migrated" || got.MigrationId != "m1" {
		t.Errorf("source says %v", got)
	}
	s.ticks(host2, 3)
	again := check[*hostpb.MigrateReply](t, "migrate again")(b.agents[host1].Migrate(t.Context(), s.moveRequest("m1")))
	if again.Outcome != reply.Outcome {
		t.Errorf("repeated call answers %v", again)
	}
	s.settle()
	s.clean(host1)
	b.agents[host2].await("running after arrival", func(e *hostpb.HostEvent) bool {
		o := e.GetObservation()
		return o.GetServerId() == s.spec.ServerId && o.GetDomain() == hostpb.DomainState_DOMAIN_STATE_RUNNING
	})
	b.agents[host1].await("final figures", func(e *hostpb.HostEvent) bool { return e.GetProgress().GetStats().GetDowntime().AsDuration() > 0 })
	console := check[*hostpb.ConsoleReply](t, "console")(b.agents[host2].Console(t.Context(), &hostpb.ConsoleRequest{ServerId: s.spec.ServerId}))
	if !bytes.HasPrefix(console.Data, []byte("ticker up\n")) || !bytes.Contains(console.Data, []byte("tick 00000001\n")) {
		t.Errorf("console lost its history: %.60q", console.Data)
	}
	s.end(host2)
}
