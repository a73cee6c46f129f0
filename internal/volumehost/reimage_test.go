package volumehost

import (
	"bytes"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

func TestAVolumeBecomesWhatAnImageIsAndKeepsItsSnapshots(t *testing.T) {
	w := newWorld(t, t.TempDir())
	before, after := []byte("before, and longer than what comes"), []byte("after")
	if _, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib, Image: w.image("i1", before)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateSnapshot(t.Context(), &hostpb.SnapshotRequest{Call: call("v1", 2), SnapshotId: "s1"}); err != nil {
		t.Fatal(err)
	}
	image := w.image("i2", after)
	for range 2 { // a repeated call makes it the same again
		s, err := w.RevertVolume(t.Context(), &hostpb.RevertVolumeRequest{Call: call("v1", 3), Image: image})
		if err != nil || s.GetBytes() != mib || len(s.GetSnapshotIds()) != 1 {
			t.Fatalf("reimaged: %v %v", s, err)
		}
	}
	if got := w.content("v1", ""); !bytes.Equal(bytes.TrimRight(got, "\x00"), after) {
		t.Errorf("the volume has %.40q", got)
	}
	if got := w.content("v1", "s1"); !bytes.HasPrefix(got, before) {
		t.Errorf("the snapshot has %.40q", got)
	}
	wrong := w.image("i3", []byte("x"))
	wrong.Sha512 = image.GetSha512()[1:] + "0"
	if _, err := w.RevertVolume(t.Context(), &hostpb.RevertVolumeRequest{Call: call("v1", 4), Image: wrong}); err == nil {
		t.Error("data of another hash was taken")
	}
	large := w.image("i4", bytes.Repeat([]byte("x"), int(2*mib)))
	if _, err := w.RevertVolume(t.Context(), &hostpb.RevertVolumeRequest{Call: call("v1", 5), Image: large}); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("an image larger than the volume: %v", err)
	}
	if _, err := w.OpenAttachment(t.Context(), &hostpb.OpenAttachmentRequest{Call: call("v1", 6), AttachmentId: "a1", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RevertVolume(t.Context(), &hostpb.RevertVolumeRequest{Call: call("v1", 7), Image: image}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("under an attachment: %v", err)
	}
	if got := w.content("v1", ""); !bytes.HasPrefix(got, after) {
		t.Errorf("after the refusals the volume has %.40q", got)
	}
}
