package hostagent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm/kvmtest"
)

// volumeDaemon stands for a volume service: an NBD server on the first host, with mutual TLS, for which every file of its directory is an export.
type volumeDaemon struct {
	w   *realWorld
	cmd *exec.Cmd
}

const (
	exportsDir = "/var/lib/godwit/exports"
	exportPort = 10809
)

func newVolumeDaemon(w *realWorld) *volumeDaemon {
	w.t.Helper()
	if err := os.MkdirAll(w.Path(host1, exportsDir), 0o755); err != nil {
		w.t.Fatal(err)
	}
	d := &volumeDaemon{w: w}
	d.start()
	w.t.Cleanup(d.kill)
	return d
}

func (d *volumeDaemon) start() {
	d.w.t.Helper()
	pidfile := filepath.Join(exportsDir, ".pid")
	_ = os.Remove(d.w.Path(host1, pidfile))
	cmd, err := d.w.Command(d.w.t.Context(), host1, []string{"nbdkit", "-f", "-P", pidfile, "--tls=require", "--tls-certificates=/etc/pki/qemu", "--tls-verify-peer",
		"-i", d.w.address(host1), "-p", "10809", "file", "dir=" + exportsDir})
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		d.w.t.Fatal(err)
	}
	d.cmd = cmd
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); ; {
		if _, err := os.Stat(d.w.Path(host1, pidfile)); err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-limit:
			d.w.t.Fatal("the NBD server does not listen")
		}
	}
}

func (d *volumeDaemon) kill() {
	_ = d.cmd.Cancel()
	_ = d.cmd.Wait() // killed: its status says nothing
}

// keep gives a volume its data and its way here. Another attachment of it is another name of the same file.
func (d *volumeDaemon) keep(v *hostpb.VolumeDisk, data []byte) {
	d.w.t.Helper()
	d.address(v)
	if err := os.WriteFile(d.file(v), data, 0o644); err != nil {
		d.w.t.Fatal(err)
	}
}

func (d *volumeDaemon) address(v *hostpb.VolumeDisk) {
	v.Export = v.AttachmentId // a directory's files have no slash in their names
	v.Address, v.Port, v.Tls, v.TlsHostname = d.w.address(host1), exportPort, true, host1
}

func (d *volumeDaemon) file(v *hostpb.VolumeDisk) string {
	return d.w.Path(host1, filepath.Join(exportsDir, v.Export))
}

func (d *volumeDaemon) again(v *hostpb.VolumeDisk) *hostpb.VolumeDisk {
	d.w.t.Helper()
	out := elsewhere(v)
	d.address(out)
	if err := os.Link(d.file(v), d.file(out)); err != nil {
		d.w.t.Fatal(err)
	}
	return out
}

// exportsOf is what libvirt says of a server's volumes.
func (w *realWorld) exportsOf(host string, id cloud.ServerID) string {
	w.t.Helper()
	out, err := w.Output(w.t.Context(), host, "virsh", "-q", "domblklist", string(id))
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func TestAServerLivesOnVolumesOnRealHosts(t *testing.T) {
	w := &realWorld{bench: newBench(t), t: t}
	storage := newVolumeDaemon(w)
	s := newServer(t, w)
	root, data := s.onVolume(), volume("vdb")
	storage.keep(root, kvmtest.Ticker(imageBytes))
	storage.keep(data, make([]byte, imageBytes))
	s.boot(host1, false)

	s.generation++
	for range 2 { // a repeated call finds what the first one did
		s.spec.Volumes = []*hostpb.VolumeDisk{root}
		if err := s.attach(data); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.exportsOf(host1, s.id); !strings.Contains(got, root.Export) || !strings.Contains(got, data.Export) {
		t.Errorf("the domain has\n%s", got)
	}
	if err := s.detach(data, time.Second); !cloud.Is(err, cloud.KindConflict) { // the ticker knows no hot plug
		t.Errorf("detach from a guest that does not answer: %v", err)
	}

	storage.kill()
	w.reported(host1, "that it stands still", func(e *hostpb.HostEvent) bool {
		return e.GetObservation().GetServerId() == string(s.id) && e.GetObservation().GetDomain() == hostpb.DomainState_DOMAIN_STATE_PAUSED
	})
	w.restartAgent(host1)
	storage.start()
	s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	w.ticks(host1, s.id, 3)

	s.generation++
	moved := proto.CloneOf(s.spec)
	moved.Volumes = []*hostpb.VolumeDisk{storage.again(root), storage.again(data)}
	must[*hostpb.PrepareReply](t, "prepare target")(w.agent(host2).Prepare(t.Context(), &hostpb.PrepareRequest{Call: s.call(), Spec: moved, Incoming: true}))
	req := s.moveRequest(t.Name())
	req.CopyDisks, req.TargetVolumes = false, moved.Volumes
	if reply := must[*hostpb.MigrateReply](t, "migrate")(w.agent(host1).Migrate(t.Context(), req)); reply.Outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED || reply.Stats.GetDiskTotal() != 0 {
		t.Fatalf("reply %v", reply)
	}
	s.spec = moved
	s.landed()
	if got := w.exportsOf(host2, s.id); strings.Contains(got, root.Export) || !strings.Contains(got, moved.Volumes[0].Export) {
		t.Errorf("the domain arrived with\n%s", got)
	}

	s.generation++
	must[*hostpb.ServerState](t, "stop")(w.agent(host2).Stop(t.Context(), &hostpb.StopRequest{Call: s.call()}))
	if err := os.Remove(storage.file(root)); err != nil { // the source's attachment is closed: no start may need it
		t.Fatal(err)
	}
	must[*hostpb.ServerState](t, "start")(w.agent(host2).Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	s.discard(host2, true)
	w.nothingLeft(host2, s.id)
	log, err := os.ReadFile(storage.file(moved.Volumes[0]))
	if err != nil {
		t.Fatal(err)
	}
	if last, holes := kvmtest.TickerLog(log); last < 9 || holes > 0 {
		t.Errorf("disk log ends at %d with %d holes", last, holes)
	}
}
