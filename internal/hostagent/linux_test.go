package hostagent_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/test/guest"
)

// TestBusyLinuxGuestsOnRealHosts is about guests with memory to copy, which the ticker has not.
func TestBusyLinuxGuestsOnRealHosts(t *testing.T) {
	needsLab(t)
	b := newLinuxBench(t)
	for _, c := range []struct {
		claim string
		run   func(*testing.T, *server, *realWorld)
	}{
		{"an idle agent is small", idleAgent},
		{"a guest moves over parallel connections", parallelConnections},
		{"QEMU does what a move's settings say", settingsReachQEMU},
		{"a guest that outruns the copy is forced over by a pause", forcedByPause},
		{"a guest that outruns the copy is forced over by post-copy", forcedByPostCopy},
		{"a target that loses power costs nothing", targetLosesPower}, // last: it does not come back
	} {
		t.Run(c.claim, func(t *testing.T) {
			w := &realWorld{bench: b, t: t}
			c.run(t, linuxServer(t, w), w)
		})
	}
}

// newLinuxBench makes a bench whose guests boot Linux and dirty their memory.
func newLinuxBench(t *testing.T) *bench {
	t.Helper()
	image, err := guest.ImageWithOrders(t.Context(), "godwit.tick=50ms godwit.log=200ms godwit.dirty=100MiB")
	if err != nil {
		t.Fatal(err)
	}
	return newBenchOf(t, image)
}

// linuxServer is a server that boots the bench's image.
func linuxServer(t *testing.T, w *realWorld) *server {
	t.Helper()
	data, err := os.ReadFile(w.image)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(data)
	s := newServer(t, w)
	s.spec.RamMib, s.spec.Nics = 160, nil
	s.spec.Root = &hostpb.RootDisk{ImageId: "linux", ImageFormat: "qcow2", ImageBytes: int64(len(data)), ImageSha512: hex.EncodeToString(sum[:]), Bytes: 1 << 30}
	return s
}

// busyBytesPerSecond is a bandwidth that copies the guest's memory in some seconds but not what it dirties meanwhile.
const busyBytesPerSecond = 20 << 20

// endlessMove begins a migration that does not converge by itself.
func (s *server) endlessMove(change func(*hostpb.MigrateRequest)) <-chan answer {
	s.t.Helper()
	return s.endlessMoveAs(s.t.Name(), change)
}

func (s *server) endlessMoveAs(migration string, change func(*hostpb.MigrateRequest)) <-chan answer {
	s.t.Helper()
	s.generation++
	s.prepareTarget()
	req := s.moveRequest(migration)
	req.BandwidthBytesPerSecond = busyBytesPerSecond
	change(req)
	answers := make(chan answer, 1)
	a := s.w.agent(host1)
	go func() {
		reply, err := a.Migrate(s.ctx(), req)
		answers <- answer{reply, err}
	}()
	s.w.reported(host1, "second pass over memory", func(e *hostpb.HostEvent) bool {
		return e.GetProgress().GetMigrationId() == migration && e.GetProgress().GetStats().GetMemoryIterations() > 1
	})
	return answers
}

// force asks for the end until libvirt takes it, as the server does.
func (s *server) force() {
	s.t.Helper()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); ; {
		_, err := s.w.agent(host1).Steer(s.ctx(), &hostpb.SteerRequest{Call: s.call(), MigrationId: s.t.Name(), ForceComplete: true})
		if err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-limit:
			s.t.Fatalf("force: %v", err)
		}
	}
}

// qmp asks a domain's QEMU, past libvirt. The command is JSON: its name, and its arguments if it has any.
func (w *realWorld) qmp(host string, id cloud.ServerID, command string, reply any) {
	w.t.Helper()
	if !w.ask(host, string(id), command, reply) {
		w.t.Fatalf("no guest %s on %s", id, host)
	}
}

// ask is qmp for a domain that may have left; false: it has.
func (w *realWorld) ask(host, id, command string, reply any) bool {
	w.t.Helper()
	out, err := w.Output(w.t.Context(), host, "virsh", "qemu-monitor-command", id, `{"execute":`+command+`}`)
	if err != nil {
		return false
	}
	if err := json.Unmarshal([]byte(out), &struct{ Return any }{reply}); err != nil {
		w.t.Fatalf("%s: %v in %s", command, err, out)
	}
	return true
}

func settingsReachQEMU(t *testing.T, s *server, w *realWorld) {
	const downtimeMillis, channels = 77, 3
	s.boot(host1, false)
	for _, c := range []struct {
		claim  string
		change func(*hostpb.MigrateRequest)
		want   map[string]bool // capabilities
	}{
		{"post-copy and auto-converge", func(r *hostpb.MigrateRequest) { r.PostCopy, r.AutoConverge = true, true },
			map[string]bool{"postcopy-ram": true, "auto-converge": true, "multifd": false}},
		{"parallel", func(r *hostpb.MigrateRequest) { r.ParallelConnections = channels },
			map[string]bool{"postcopy-ram": false, "auto-converge": false, "multifd": true}},
	} {
		answers := s.endlessMoveAs(t.Name()+c.claim, func(r *hostpb.MigrateRequest) {
			c.change(r)
			r.DowntimeMax = durationpb.New(downtimeMillis * time.Millisecond)
		})
		var limits struct {
			Downtime  int   `json:"downtime-limit"`
			Bandwidth int64 `json:"max-bandwidth"`
			PostCopy  int64 `json:"max-postcopy-bandwidth"`
			Channels  int   `json:"multifd-channels"`
		}
		w.qmp(host1, s.id, `"query-migrate-parameters"`, &limits)
		if limits.Downtime != downtimeMillis || limits.Bandwidth != busyBytesPerSecond {
			t.Errorf("%s: %+v", c.claim, limits)
		}
		if c.want["postcopy-ram"] && limits.PostCopy != busyBytesPerSecond || c.want["multifd"] && limits.Channels != channels {
			t.Errorf("%s: %+v", c.claim, limits)
		}
		var capabilities []struct {
			Capability string
			State      bool
		}
		w.qmp(host1, s.id, `"query-migrate-capabilities"`, &capabilities)
		for _, have := range capabilities {
			if want, known := c.want[have.Capability]; known && have.State != want {
				t.Errorf("%s: %s is %v", c.claim, have.Capability, have.State)
			}
			delete(c.want, have.Capability)
		}
		if len(c.want) > 0 {
			t.Errorf("%s: QEMU does not know %v", c.claim, c.want)
		}
		must[*hostpb.SteerReply](t, "abort")(w.agent(host1).Steer(t.Context(), &hostpb.SteerRequest{Call: s.call(), MigrationId: t.Name() + c.claim, Abort: true}))
		s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED)
		s.stayedHome()
	}
	s.remove(host1)
}

func forcedByPause(t *testing.T, s *server, _ *realWorld) {
	s.boot(host1, false)
	answers := s.endlessMove(func(*hostpb.MigrateRequest) {})
	s.force()
	reply := s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	t.Log(reply)
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.landed()
	s.generation++
	s.discard(host2, true)
	s.w.nothingLeft(host2, s.id)
}

func forcedByPostCopy(t *testing.T, s *server, _ *realWorld) {
	s.boot(host1, false)
	answers := s.endlessMove(func(r *hostpb.MigrateRequest) { r.PostCopy = true })
	s.force()
	reply := s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	t.Log(reply)
	s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.landed()
	s.generation++
	s.discard(host2, true)
	s.w.nothingLeft(host2, s.id)
}

func parallelConnections(t *testing.T, s *server, _ *realWorld) {
	s.boot(host1, false)
	s.generation++
	s.prepareTarget()
	req := s.moveRequest(t.Name())
	req.ParallelConnections, req.AutoConverge = 2, true
	reply := must[*hostpb.MigrateReply](t, "migrate")(s.w.agent(host1).Migrate(t.Context(), req))
	if reply.Outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		t.Fatalf("reply %v", reply)
	}
	s.landed()
	s.generation++
	s.discard(host2, true)
	s.w.nothingLeft(host2, s.id)
}

func targetLosesPower(t *testing.T, s *server, w *realWorld) {
	s.boot(host1, false)
	answers := s.endlessMove(func(*hostpb.MigrateRequest) {})
	if err := w.PowerOff(t.Context(), host2); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED)
	t.Logf("noticed after %v", time.Since(began))
	s.expect(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	w.ticks(host1, s.id, 10)
}

// residentKiB reads how much memory an agent's process uses.
func (a *agentProc) residentKiB(t *testing.T) int {
	t.Helper()
	// The process is a child of nsenter.
	children, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(a.cmd.Process.Pid), "task", strconv.Itoa(a.cmd.Process.Pid), "children"))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join("/proc", string(bytes.TrimSpace(children)), "status"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no resident size in %s", status)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

func idleAgent(t *testing.T, _ *server, w *realWorld) {
	const kibMax = 40 << 10
	if got := w.agents[host1].residentKiB(t); got > kibMax {
		t.Errorf("idle agent uses %d KiB", got)
	} else {
		t.Logf("idle agent uses %d KiB", got)
	}
}
