package hostagent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// volume is a volume through an attachment of its own.
func volume(device string) *hostpb.VolumeDisk {
	id, attachment := uuid.NewString(), uuid.NewString()
	return &hostpb.VolumeDisk{VolumeId: id, AttachmentId: attachment, Device: device, BootIndex: -1, Export: id + "/" + attachment, Address: "192.0.2.99", Port: 10809,
		Tls: true, TlsHostname: "storage-1"}
}

// elsewhere is the same volume through another attachment.
func elsewhere(d *hostpb.VolumeDisk) *hostpb.VolumeDisk {
	out := proto.CloneOf(d)
	out.AttachmentId = uuid.NewString()
	out.Export = out.VolumeId + "/" + out.AttachmentId
	return out
}

func (s *server) attach(d *hostpb.VolumeDisk) error {
	spec := proto.CloneOf(s.spec)
	spec.Volumes = append(spec.Volumes, d)
	_, err := s.w.agent(host1).AttachVolume(s.ctx(), &hostpb.AttachVolumeRequest{Call: s.call(), Spec: spec, Volume: d})
	if err == nil {
		s.spec = spec
	}
	return err
}

func (s *server) detach(d *hostpb.VolumeDisk, grace time.Duration) error {
	spec := proto.CloneOf(s.spec)
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(o *hostpb.VolumeDisk) bool { return o.VolumeId == d.VolumeId })
	_, err := s.w.agent(host1).DetachVolume(s.ctx(), &hostpb.DetachVolumeRequest{Call: s.call(), Spec: spec, VolumeId: d.VolumeId, Grace: durationpb.New(grace)})
	if err == nil {
		s.spec = spec
	}
	return err
}

// exports returns the volumes of the server by device, as its domain runs and as it is defined.
func exports(t *testing.T, w *fakeWorld, host string, id cloud.ServerID) (runs, defined map[string]string) {
	t.Helper()
	runs, defined = map[string]string{}, map[string]string{}
	desc, err := w.hosts[host].libvirt.Describe(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range desc.Disks {
		if d.Export != "" {
			runs[d.Target] = d.Export
		}
	}
	for _, d := range w.hosts[host].libvirt.Defined(id).Disks {
		if d.NBD != nil {
			defined[d.Target] = d.NBD.Export
		}
	}
	return runs, defined
}

func wantExports(t *testing.T, w *fakeWorld, host string, id cloud.ServerID, disks ...*hostpb.VolumeDisk) {
	t.Helper()
	runs, defined := exports(t, w, host, id)
	if len(runs) != len(disks) || len(defined) != len(disks) {
		t.Errorf("%s: runs with %v and is defined with %v, want %d volumes", host, runs, defined, len(disks))
	}
	for _, d := range disks {
		if runs[d.Device] != d.Export || defined[d.Device] != d.Export {
			t.Errorf("%s: %s runs as %q and is defined as %q, want %q", host, d.Device, runs[d.Device], defined[d.Device], d.Export)
		}
	}
}

func TestAVolumeIsPluggedIntoARunningServerAndTakenOutAgain(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.boot(host1, false)
	d := volume("vdc")
	s.generation++
	for range 2 { // a repeated call finds what the first one did
		s.spec.Volumes = nil
		if err := s.attach(d); err != nil {
			t.Fatal(err)
		}
	}
	wantExports(t, w, host1, s.id, d)
	if err := s.attach(volume("vdc")); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("another volume at the same device: %v", err)
	}
	must[*hostpb.ServerState](t, "resize")(w.agent(host1).ResizeVolume(t.Context(), &hostpb.ResizeVolumeRequest{Call: s.call(), VolumeId: d.VolumeId, Bytes: 2 << 30}))
	if err := second(w.agent(host1).ResizeVolume(t.Context(), &hostpb.ResizeVolumeRequest{Call: s.call(), VolumeId: "unknown", Bytes: 2 << 30})); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("resize of a volume it has not: %v", err)
	}
	s.generation++
	for range 2 {
		if err := s.detach(d, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	wantExports(t, w, host1, s.id)
	s.end(host1)
}

func TestAGuestThatDoesNotLetGoKeepsItsVolume(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.boot(host1, false)
	d := volume("vdb")
	if err := s.attach(d); err != nil {
		t.Fatal(err)
	}
	w.hosts[host1].libvirt.Deafen(s.id, 1)
	s.generation++
	if err := s.detach(d, time.Millisecond); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("detach from a deaf guest: %v", err)
	}
	wantExports(t, w, host1, s.id, d)
	if err := s.detach(d, time.Millisecond); err != nil {
		t.Errorf("asked again: %v", err)
	}
	wantExports(t, w, host1, s.id)
	s.end(host1)
}

func TestAVolumeOfAStoppedServerIsThereWhenItStarts(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.boot(host1, false)
	s.generation++
	must[*hostpb.ServerState](t, "stop")(w.agent(host1).Stop(t.Context(), &hostpb.StopRequest{Call: s.call()}))
	d := volume("vdb")
	if err := s.attach(d); err != nil {
		t.Fatal(err)
	}
	must[*hostpb.ServerState](t, "start")(w.agent(host1).Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	wantExports(t, w, host1, s.id, d)
	s.end(host1)
}

// onVolume makes the server boot from a volume.
func (s *server) onVolume() *hostpb.VolumeDisk {
	d := volume("vda")
	d.BootIndex = 0
	s.spec.Root, s.spec.Volumes = nil, []*hostpb.VolumeDisk{d}
	return d
}

func TestAServerOnVolumesMovesThroughTheTargetsAttachments(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	root := s.onVolume()
	s.boot(host1, false)
	wantExports(t, w, host1, s.id, root)
	data := volume("vdb")
	s.generation++
	if err := s.attach(data); err != nil {
		t.Fatal(err)
	}
	s.generation++
	there := []*hostpb.VolumeDisk{elsewhere(root), elsewhere(data)}
	there[1].Bytes = 5 << 30 // it has grown since
	moved := proto.CloneOf(s.spec)
	moved.Volumes = there
	must[*hostpb.PrepareReply](t, "prepare target")(w.agent(host2).Prepare(t.Context(), &hostpb.PrepareRequest{Call: s.call(), Spec: moved, Incoming: true}))
	req := s.moveRequest(t.Name())
	req.CopyDisks, req.TargetVolumes = false, there
	if reply := must[*hostpb.MigrateReply](t, "migrate")(w.agent(host1).Migrate(t.Context(), req)); reply.Outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		t.Fatalf("reply %v", reply)
	}
	s.spec = moved
	s.landed()
	wantExports(t, w, host2, s.id, there...)
	if told := w.hosts[host2].libvirt.Resized(s.id); len(told) != 1 || told["vdb"] != 5<<30 {
		t.Errorf("the guest was told of sizes %v", told)
	}
	s.end(host2)
}

func TestAServerWaitsForItsVolumeServiceAndGoesOn(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.onVolume()
	s.boot(host1, false)
	h := w.hosts[host1]
	h.storage.set(true)
	before := h.storage.looks()
	h.libvirt.FailDisk(s.id)
	w.reported(host1, "that it stands still", func(e *hostpb.HostEvent) bool {
		return e.GetObservation().GetDomain() == hostpb.DomainState_DOMAIN_STATE_PAUSED && e.GetObservation().GetReason() == kvm.ReasonIOError
	})
	awaitLooks(t, h, before+2)
	s.expect(host1, hostpb.DomainState_DOMAIN_STATE_PAUSED)
	s.generation++
	s.prepareTarget()
	if _, err := w.agent(host1).Migrate(t.Context(), s.moveRequest(t.Name())); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("a server that waits for its volume leaves: %v", err)
	}
	w.restartAgent(host1) // whoever comes next goes on waiting
	awaitLooks(t, h, h.storage.looks()+1)
	h.storage.set(false)
	s.eventually(host1, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	s.discard(host2, false)
	s.end(host1)
}

func awaitLooks(t *testing.T, h *fakeHost, n int) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); h.storage.looks() < n; {
		select {
		case <-poll.C:
		case <-limit:
			t.Fatal("nobody looks whether the volume service is there")
		}
	}
}

func TestAVolumeServiceThatIsAwayRefusesBeforeQEMUHangs(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	s.boot(host1, false)
	w.hosts[host1].storage.set(true)
	s.generation++
	if err := s.attach(volume("vdb")); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("attach: %v", err)
	}
	w.hosts[host1].storage.set(false)
	wantExports(t, w, host1, s.id)
	s.end(host1)
}
