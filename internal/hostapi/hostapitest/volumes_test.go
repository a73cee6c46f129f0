package hostapitest_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const gib = int64(1) << 30

type volumes struct {
	t *testing.T
	hostpb.VolumeHostClient
	generation int64
}

func (v *volumes) call() *hostpb.VolumeCall {
	v.generation++
	return &hostpb.VolumeCall{VolumeId: "v1", Generation: v.generation, RunId: "run"}
}

func (v *volumes) open(id, host string, handover bool) *hostpb.AttachmentState {
	v.t.Helper()
	a, err := v.OpenAttachment(v.t.Context(), &hostpb.OpenAttachmentRequest{Call: v.call(), AttachmentId: id, Host: host, Handover: handover})
	if err != nil {
		v.t.Fatal(err)
	}
	return a
}

func (v *volumes) close(id string) {
	v.t.Helper()
	if _, err := v.CloseAttachment(v.t.Context(), &hostpb.AttachmentRequest{Call: v.call(), AttachmentId: id}); err != nil {
		v.t.Fatal(err)
	}
}

func newVolumes(t *testing.T) (*hostapitest.Fleet, *volumes) {
	t.Helper()
	f := hostapitest.NewFleet("a", "b")
	f.AddVolumes("storage-1")
	client, err := f.Volumes("storage-1")
	if err != nil {
		t.Fatal(err)
	}
	v := &volumes{t: t, VolumeHostClient: client}
	if _, err := v.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: v.call(), Backend: "main", Bytes: gib}); err != nil {
		t.Fatal(err)
	}
	return f, v
}

func diskOf(a *hostpb.AttachmentState) *hostpb.VolumeDisk {
	return &hostpb.VolumeDisk{
		VolumeId: "v1", AttachmentId: a.GetAttachmentId(), Device: "vda", Export: a.GetExport(), Address: a.GetAddress(), Port: a.GetPort(), Tls: a.GetTls(),
		TlsHostname: a.GetTlsHostname(),
	}
}

func bootOn(t *testing.T, f *hostapitest.Fleet, host cloud.HostName, d *hostpb.VolumeDisk) {
	t.Helper()
	h, err := f.On(host)
	if err != nil {
		t.Fatal(err)
	}
	call := &hostpb.Call{ServerId: "s1", Generation: 1, RunId: "run"}
	spec := &hostpb.ServerSpec{ServerId: "s1", Volumes: []*hostpb.VolumeDisk{d}}
	if _, err := h.Prepare(t.Context(), &hostpb.PrepareRequest{Call: call, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Start(t.Context(), &hostpb.StartRequest{Call: call, Spec: spec}); err != nil {
		t.Fatal(err)
	}
}

func TestVolumeHostRefusesOlderDecisions(t *testing.T) {
	_, v := newVolumes(t)
	v.open("a1", "a", false)
	_, err := v.ExtendVolume(t.Context(), &hostpb.ExtendVolumeRequest{Call: &hostpb.VolumeCall{VolumeId: "v1", Generation: 1, RunId: "run"}, Bytes: 2 * gib})
	if !cloud.Is(err, cloud.KindStale) {
		t.Fatalf("got %v, want a stale decision", err)
	}
}

func TestANewerAttachmentCutsTheOlderOff(t *testing.T) {
	f, v := newVolumes(t)
	v.open("a1", "a", false)
	second := v.open("a2", "b", false)
	if second.GetRole() != hostpb.AttachmentRole_ATTACHMENT_ROLE_WRITER {
		t.Errorf("the newer one is %v", second.GetRole())
	}
	if role := f.VolumeHost("storage-1").State("v1").GetAttachments()[0].GetRole(); role != hostpb.AttachmentRole_ATTACHMENT_ROLE_CUT_OFF {
		t.Errorf("the older one is %v", role)
	}
	if got := f.Violations(); len(got) > 0 {
		t.Error(got)
	}
}

func TestCuttingARunningGuestOffIsAViolation(t *testing.T) {
	f, v := newVolumes(t)
	bootOn(t, f, "a", diskOf(v.open("a1", "a", false)))
	v.open("a2", "b", false)
	if got := f.Violations(); len(got) != 1 || !strings.Contains(got[0], "cut off by attachment a2") {
		t.Errorf("violations %q", got)
	}
}

func TestClosingUnderARunningGuestIsAViolation(t *testing.T) {
	f, v := newVolumes(t)
	bootOn(t, f, "a", diskOf(v.open("a1", "a", false)))
	v.close("a1")
	if got := f.Violations(); len(got) != 1 || !strings.Contains(got[0], "closed") {
		t.Errorf("violations %q", got)
	}
}

func TestStartingWithAVolumeThatIsNotOpenIsAViolation(t *testing.T) {
	f, v := newVolumes(t)
	d := diskOf(v.open("a1", "a", false))
	v.close("a1")
	h, err := f.On("a")
	if err != nil {
		t.Fatal(err)
	}
	call, spec := &hostpb.Call{ServerId: "s1", Generation: 1, RunId: "run"}, &hostpb.ServerSpec{ServerId: "s1", Volumes: []*hostpb.VolumeDisk{d}}
	if _, err := h.Prepare(t.Context(), &hostpb.PrepareRequest{Call: call, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	_, err = h.Start(t.Context(), &hostpb.StartRequest{Call: call, Spec: spec})
	if !cloud.Is(err, cloud.KindConflict) || len(f.Violations()) != 1 {
		t.Errorf("error %v, violations %q", err, f.Violations())
	}
}

func TestAMigrationHandsTheVolumeOver(t *testing.T) {
	for _, outcome := range []hostpb.MigrateOutcome{hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED, hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED} {
		t.Run(outcome.String(), func(t *testing.T) {
			f, v := newVolumes(t)
			f.ScriptMigrations(func(*hostpb.MigrateRequest) hostapitest.Migration { return hostapitest.Migration{Outcome: outcome} })
			bootOn(t, f, "a", diskOf(v.open("a1", "a", false)))
			target := v.open("a2", "b", true)
			if target.GetRole() != hostpb.AttachmentRole_ATTACHMENT_ROLE_STANDBY {
				t.Fatalf("the target's attachment is %v before the move", target.GetRole())
			}
			a, errA := f.On("a")
			b, errB := f.On("b")
			call := &hostpb.Call{ServerId: "s1", Generation: 2, RunId: "run"}
			prepared, errP := b.Prepare(t.Context(), &hostpb.PrepareRequest{
				Call: call, Spec: &hostpb.ServerSpec{ServerId: "s1", Volumes: []*hostpb.VolumeDisk{diskOf(target)}}, Incoming: true,
			})
			_, errM := a.Migrate(t.Context(), &hostpb.MigrateRequest{Call: call, MigrationId: "m1", TargetHost: "b", TargetAddress: prepared.GetMigrationAddress(),
				TargetVolumes: []*hostpb.VolumeDisk{diskOf(target)}})
			if err := errors.Join(errA, errB, errP, errM); err != nil {
				t.Fatal(err)
			}
			keep, drop := "a1", "a2"
			if outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
				keep, drop = drop, keep
			}
			v.close(drop)
			open := f.VolumeHost("storage-1").State("v1").GetAttachments()
			if len(open) != 1 || open[0].GetAttachmentId() != keep || open[0].GetRole() != hostpb.AttachmentRole_ATTACHMENT_ROLE_WRITER {
				t.Errorf("open at the end: %v", open)
			}
			if got := f.Violations(); len(got) > 0 {
				t.Error(got)
			}
		})
	}
}

func TestVolumesAreMadeFromTheirSources(t *testing.T) {
	f, v := newVolumes(t)
	service := f.VolumeHost("storage-1")
	service.SetContent("v1", []byte("hello"))
	_, errSnap := v.CreateSnapshot(t.Context(), &hostpb.SnapshotRequest{Call: v.call(), SnapshotId: "s1"})
	service.SetContent("v1", []byte("later"))
	_, errClone := v.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{
		Call: &hostpb.VolumeCall{VolumeId: "v2", Generation: 1, RunId: "run"}, Backend: "main", Bytes: gib, SnapshotId: "s1", SnapshotVolumeId: "v1",
	})
	stream, errRead := v.ReadVolume(t.Context(), &hostpb.ReadVolumeRequest{VolumeId: "v2"})
	if err := errors.Join(errSnap, errClone, errRead); err != nil {
		t.Fatal(err)
	}
	chunk, err := stream.Recv()
	if err != nil || string(chunk.GetData()) != "hello" || chunk.GetBytes() != gib {
		t.Errorf("read %v, %v", chunk, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
	if _, err := v.DeleteVolume(t.Context(), &hostpb.DeleteVolumeRequest{Call: v.call()}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("a volume with a snapshot was deleted: %v", err)
	}
	want := []string{"storage-1: main, 1073741824 bytes"}
	if got := f.VolumeLeftovers("v2"); !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

func TestACrashedVolumeHostKeepsItsAttachments(t *testing.T) {
	f, v := newVolumes(t)
	v.open("a1", "a", false)
	service := f.VolumeHost("storage-1")
	service.Crash()
	if _, err := v.InspectVolume(t.Context(), &hostpb.InspectVolumeRequest{VolumeId: "v1"}); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("a crashed service answers %v", err)
	}
	service.Revive()
	s, err := v.InspectVolume(t.Context(), &hostpb.InspectVolumeRequest{VolumeId: "v1"})
	if err != nil || len(s.GetAttachments()) != 1 {
		t.Errorf("after the restart: %v, %v", s, err)
	}
}

func TestAttachingPlugsAndDetachingUnplugs(t *testing.T) {
	f, v := newVolumes(t)
	h, err := f.On("a")
	if err != nil {
		t.Fatal(err)
	}
	f.Host("a").Place(&hostpb.ServerSpec{ServerId: "s1"}, 1)
	d := diskOf(v.open("a1", "a", false))
	call := &hostpb.Call{ServerId: "s1", Generation: 2, RunId: "run"}
	if _, err := h.AttachVolume(t.Context(), &hostpb.AttachVolumeRequest{Call: call, Volume: d}); err != nil {
		t.Fatal(err)
	}
	if n := f.VolumeHost("storage-1").State("v1").GetAttachments()[0].GetConnections(); n != 1 {
		t.Errorf("%d connections after attaching", n)
	}
	for range 2 {
		if _, err := h.DetachVolume(t.Context(), &hostpb.DetachVolumeRequest{Call: call, VolumeId: "v1"}); err != nil {
			t.Fatal(err)
		}
	}
	v.close("a1")
	if got := f.Violations(); len(got) > 0 {
		t.Error(got)
	}
}
