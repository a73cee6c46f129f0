package volumehost

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
)

const (
	mib = int64(1) << 20
	// waitMax bounds every wait of these tests; only a bug reaches it.
	waitMax = 20 * time.Second
)

// library is godwit's server as a volume service sees it: images, and connections that break.
type library struct {
	mu     sync.Mutex
	images map[cloud.ImageID][]byte
	opened int
	breaks int           // how many of the next connections break halfway
	gate   chan struct{} // nil: open; else fetches wait for it to be closed
	asked  chan struct{} // receives once for each fetch that waits
}

func (l *library) fetch(ctx context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error) {
	l.mu.Lock()
	gate := l.gate
	l.mu.Unlock()
	if gate != nil {
		l.asked <- struct{}{}
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened++
	data, ok := l.images[id]
	if !ok {
		return nil, cloud.Errorf(cloud.KindNotFound, "image %s does not exist", id)
	}
	rest := data[offset:]
	if l.breaks > 0 {
		l.breaks--
		return io.NopCloser(io.MultiReader(bytes.NewReader(rest[:len(rest)/2]), failing{})), nil
	}
	return io.NopCloser(bytes.NewReader(rest)), nil
}

// failing is a connection that is lost.
type failing struct{}

func (failing) Read([]byte) (int, error) {
	return 0, cloud.Errorf(cloud.KindUnavailable, "the connection is lost")
}

type world struct {
	t       *testing.T
	dir     string
	library *library
	stores  []*volume.Store
	*Host
}

// newWorld makes a service of the back ends "a" and "b" in dir, which may be that of an earlier one.
func newWorld(t *testing.T, dir string) *world {
	t.Helper()
	return newWorldLogging(t, dir, slog.New(slog.DiscardHandler))
}

// newWorldKeeping is newWorld with room for more images.
func newWorldKeeping(t *testing.T, dir string, imageBytes int64) *world {
	t.Helper()
	return newWorldOf(t, dir, slog.New(slog.DiscardHandler), imageBytes)
}

func newWorldLogging(t *testing.T, dir string, log *slog.Logger) *world {
	t.Helper()
	return newWorldOf(t, dir, log, mib)
}

func newWorldOf(t *testing.T, dir string, log *slog.Logger, imageBytes int64) *world {
	t.Helper()
	w := &world{t: t, dir: dir, library: &library{images: map[cloud.ImageID][]byte{}, asked: make(chan struct{}, 16)}}
	for _, name := range []string{"a", "b"} {
		s, err := volume.Open(t.Context(), volume.Options{Dir: filepath.Join(dir, name), Name: name, Kind: "file", Direct: volume.DirectOff, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		w.stores = append(w.stores, s)
	}
	var err error
	w.Host, err = New(t.Context(), Options{
		Name: "storage-1", Stores: w.stores, Dir: filepath.Join(dir, "service"), Fetch: w.library.fetch, ImageCacheBytes: imageBytes,
		NBD: netip.MustParseAddrPort("192.0.2.1:10809"), TLS: true, Engine: "threads", EngineWhy: "test", Version: "1", Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	return w
}

func (w *world) end() {
	if w.Host == nil {
		return
	}
	w.Close()
	for _, s := range w.stores {
		if err := s.Close(context.Background()); err != nil {
			w.t.Error(err)
		}
	}
	w.Host = nil
}

func call(id string, generation int64) *hostpb.VolumeCall {
	return &hostpb.VolumeCall{VolumeId: id, Generation: generation, RunId: "run"}
}

func (w *world) blank(id, backend string, generation int64) {
	w.t.Helper()
	_, err := w.CreateVolume(w.t.Context(), &hostpb.CreateVolumeRequest{Call: call(id, generation), Backend: backend, Bytes: mib})
	if err != nil {
		w.t.Fatal(err)
	}
}

// image puts an image into the library and returns how a volume is made of it.
func (w *world) image(id cloud.ImageID, data []byte) *hostpb.VolumeImage {
	sum := sha512.Sum512(data)
	w.library.mu.Lock()
	defer w.library.mu.Unlock()
	w.library.images[id] = data
	return &hostpb.VolumeImage{ImageId: string(id), Format: "raw", Bytes: int64(len(data)), Sha512: hex.EncodeToString(sum[:])}
}

// sink receives a stream.
type sink struct {
	hostpb.VolumeHost_ReadVolumeServer
	ctx  context.Context
	data []byte
}

func (s *sink) Context() context.Context { return s.ctx }

func (s *sink) Send(c *hostpb.VolumeChunk) error {
	if s.data == nil {
		s.data = make([]byte, c.GetBytes())
	}
	copy(s.data[c.GetOffset():], c.GetData())
	return nil
}

func (w *world) content(id, snapshot string) []byte {
	w.t.Helper()
	s := &sink{ctx: w.t.Context()}
	if err := w.ReadVolume(&hostpb.ReadVolumeRequest{VolumeId: id, SnapshotId: snapshot}, s); err != nil {
		w.t.Fatal(err)
	}
	return s.data
}

func TestAVolumeFromAnImageIsReadAsTheImage(t *testing.T) {
	w := newWorld(t, t.TempDir())
	data := bytes.Repeat([]byte("godwit"), 40_000)
	w.library.breaks = 2
	s, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib, Image: w.image("i1", data)})
	if err != nil {
		t.Fatal(err)
	}
	if !s.GetPresent() || s.GetBackend() != "a" || s.GetBytes() != mib {
		t.Errorf("state %v", s)
	}
	if got := w.content("v1", ""); !bytes.Equal(got[:len(data)], data) || len(got) != int(mib) {
		t.Errorf("read %d bytes that differ", len(got))
	}
	opened := w.library.opened
	if _, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v2", 1), Backend: "b", Bytes: mib, Image: w.image("i1", data)}); err != nil {
		t.Fatal(err)
	}
	if opened != 3 || w.library.opened != opened {
		t.Errorf("fetched %d times, then %d: want 3 for two broken connections, then from the cache", opened, w.library.opened)
	}
}

func TestAnImageThatIsNotWhatItsRecordSaysMakesNoVolume(t *testing.T) {
	w := newWorld(t, t.TempDir())
	image := w.image("i1", []byte("what the record speaks of"))
	w.image("i1", []byte("what somebody put in place"))
	image.Bytes = int64(len("what somebody put in place"))
	_, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib, Image: image})
	if !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("got %v", err)
	}
	s, err := w.InspectVolume(t.Context(), &hostpb.InspectVolumeRequest{VolumeId: "v1"})
	if err != nil || s.GetPresent() {
		t.Errorf("left %v, %v", s, err)
	}
	if left, err := os.ReadDir(w.images[w.stores[0]].dir); err != nil || len(left) != 0 {
		t.Errorf("the cache has %v, %v", left, err)
	}
}

func TestTheImageCacheIsBounded(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for i, id := range []cloud.ImageID{"i1", "i2", "i3"} {
		image := w.image(id, bytes.Repeat([]byte{byte(i)}, 600<<10))
		if _, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v"+string(id), 1), Backend: "a", Bytes: mib, Image: image}); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(w.images[w.stores[0]].dir)
	if err != nil || len(left) != 2 { // one with its sum
		t.Errorf("%v of images of 600 KiB are kept within 1 MiB, %v", left, err)
	}
}

// waiting has a volume's creation wait for its image, and returns what lets it go on.
func (w *world) waiting(ctx context.Context, req *hostpb.CreateVolumeRequest) (open func(), done <-chan error) {
	w.t.Helper()
	gate, result := make(chan struct{}), make(chan error, 1)
	w.library.mu.Lock()
	w.library.gate = gate
	w.library.mu.Unlock()
	go func() { // ends with the call
		_, err := w.CreateVolume(ctx, req)
		result <- err
	}()
	select {
	case <-w.library.asked:
	case <-time.After(waitMax):
		w.t.Fatal("the image was not asked for")
	}
	return func() {
		w.library.mu.Lock()
		w.library.gate = nil
		w.library.mu.Unlock()
		close(gate)
	}, result
}

func TestACreationGoesOnWithoutItsCallerAndIsJoined(t *testing.T) {
	w := newWorld(t, t.TempDir())
	req := &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib, Image: w.image("i1", []byte("data"))}
	ctx, cancel := context.WithCancel(t.Context())
	open, done := w.waiting(ctx, req)
	cancel() // the server is gone
	if err := <-done; !cloud.Is(err, cloud.KindCancelled) {
		t.Errorf("the caller that went away got %v", err)
	}
	joined := make(chan error, 1)
	go func() { // ends with the call
		_, err := w.CreateVolume(t.Context(), req)
		joined <- err
	}()
	open()
	if err := <-joined; err != nil {
		t.Error(err)
	}
	if w.library.opened != 1 {
		t.Errorf("the image was fetched %d times", w.library.opened)
	}
}

func TestANewerDeletionOvertakesACreation(t *testing.T) {
	w := newWorld(t, t.TempDir())
	open, done := w.waiting(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib, Image: w.image("i1", []byte("data"))})
	if _, err := w.DeleteVolume(t.Context(), &hostpb.DeleteVolumeRequest{Call: call("v1", 2)}); err != nil {
		t.Fatal(err)
	}
	open()
	if err := <-done; !cloud.Is(err, cloud.KindStale) {
		t.Errorf("the creation that was overtaken got %v", err)
	}
	if s, err := w.InspectVolume(t.Context(), &hostpb.InspectVolumeRequest{VolumeId: "v1"}); err != nil || s.GetPresent() || s.GetGeneration() != 2 {
		t.Errorf("left %v, %v", s, err)
	}
}

func TestANewerDecisionForAnotherBackEndLeavesOneVolume(t *testing.T) {
	w := newWorld(t, t.TempDir())
	image := w.image("i1", []byte("data"))
	open, done := w.waiting(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib, Image: image})
	w.blank("v1", "b", 2)
	open()
	if err := <-done; !cloud.Is(err, cloud.KindStale) {
		t.Errorf("the older decision got %v", err)
	}
	if n := len(w.stores[0].List()) + len(w.stores[1].List()); n != 1 {
		t.Errorf("the volume is there %d times", n)
	}
	_, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 3), Backend: "a", Bytes: mib})
	if !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("a volume that is on b was made on a: %v", err)
	}
}

func TestOlderDecisionsAreRefusedEverywhere(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.blank("v1", "a", 5)
	ctx, old := t.Context(), call("v1", 4)
	errs := map[string]error{}
	_, errs["create"] = w.CreateVolume(ctx, &hostpb.CreateVolumeRequest{Call: old, Backend: "a", Bytes: mib})
	_, errs["create elsewhere"] = w.CreateVolume(ctx, &hostpb.CreateVolumeRequest{Call: old, Backend: "b", Bytes: mib})
	_, errs["delete"] = w.DeleteVolume(ctx, &hostpb.DeleteVolumeRequest{Call: old})
	_, errs["extend"] = w.ExtendVolume(ctx, &hostpb.ExtendVolumeRequest{Call: old, Bytes: 2 * mib})
	_, errs["revert"] = w.RevertVolume(ctx, &hostpb.RevertVolumeRequest{Call: old, SnapshotId: "s"})
	_, errs["move"] = w.MoveVolume(ctx, &hostpb.MoveVolumeRequest{Call: old, Backend: "b"})
	_, errs["snapshot"] = w.CreateSnapshot(ctx, &hostpb.SnapshotRequest{Call: old, SnapshotId: "s"})
	_, errs["delete snapshot"] = w.DeleteSnapshot(ctx, &hostpb.SnapshotRequest{Call: old, SnapshotId: "s"})
	_, errs["limits"] = w.SetLimits(ctx, &hostpb.SetLimitsRequest{Call: old})
	_, errs["open"] = w.OpenAttachment(ctx, &hostpb.OpenAttachmentRequest{Call: old, AttachmentId: "a", Host: "h"})
	_, errs["promote"] = w.PromoteAttachment(ctx, &hostpb.AttachmentRequest{Call: old, AttachmentId: "a"})
	_, errs["close"] = w.CloseAttachment(ctx, &hostpb.AttachmentRequest{Call: old, AttachmentId: "a"})
	for op, err := range errs {
		if !cloud.Is(err, cloud.KindStale) {
			t.Errorf("%s: got %v", op, err)
		}
	}
	_, err := w.ExtendVolume(ctx, &hostpb.ExtendVolumeRequest{Call: &hostpb.VolumeCall{VolumeId: "v1"}, Bytes: 2 * mib})
	if !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("a call without a generation: %v", err)
	}
}

func TestAnAttachmentSaysHowToConnectAndSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, dir)
	w.blank("v1", "b", 1)
	a, err := w.OpenAttachment(t.Context(), &hostpb.OpenAttachmentRequest{Call: call("v1", 2), AttachmentId: "a1", Host: "compute-1"})
	if err != nil {
		t.Fatal(err)
	}
	if a.GetExport() != "v1/a1" || a.GetAddress() != "192.0.2.1" || a.GetPort() != 10809 || !a.GetTls() || a.GetTlsHostname() != "storage-1" ||
		a.GetRole() != hostpb.AttachmentRole_ATTACHMENT_ROLE_WRITER {
		t.Errorf("connection %v", a)
	}
	if _, err := w.DeleteVolume(t.Context(), &hostpb.DeleteVolumeRequest{Call: call("v1", 3)}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("an attached volume was deleted: %v", err)
	}
	first := w.Facts(t.Context())
	w.end()
	w = newWorld(t, dir)
	s, err := w.InspectVolume(t.Context(), &hostpb.InspectVolumeRequest{VolumeId: "v1"})
	if err != nil || len(s.GetAttachments()) != 1 || s.GetAttachments()[0].GetEpoch() != a.GetEpoch() {
		t.Errorf("after the restart: %v, %v", s, err)
	}
	if second := w.Facts(t.Context()); second.GetGeneration() <= first.GetGeneration() {
		t.Errorf("generations %d, then %d", first.GetGeneration(), second.GetGeneration())
	}
	for range 2 {
		if a, err := w.CloseAttachment(t.Context(), &hostpb.AttachmentRequest{Call: call("v1", 4), AttachmentId: "a1"}); err != nil ||
			a.GetRole() != hostpb.AttachmentRole_ATTACHMENT_ROLE_ABSENT {
			t.Errorf("closing: %v, %v", a, err)
		}
	}
}

func TestAVolumeMovesWithItsSnapshots(t *testing.T) {
	w := newWorld(t, t.TempDir())
	data := []byte("before")
	if _, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib, Image: w.image("i1", data)}); err != nil {
		t.Fatal(err)
	}
	_, errSnap := w.CreateSnapshot(t.Context(), &hostpb.SnapshotRequest{Call: call("v1", 2), SnapshotId: "s1"})
	var err error
	for range 2 { // the second finds it done
		var s *hostpb.VolumeState
		s, err = w.MoveVolume(t.Context(), &hostpb.MoveVolumeRequest{Call: call("v1", 3), Backend: "b"})
		if s.GetBackend() != "b" || len(s.GetSnapshotIds()) != 1 {
			t.Errorf("moved: %v", s)
		}
	}
	if err := errors.Join(errSnap, err); err != nil {
		t.Fatal(err)
	}
	if got := w.content("v1", "s1"); !bytes.HasPrefix(got, data) {
		t.Error("the snapshot's data changed")
	}
	_, err = w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v2", 1), Backend: "a", Bytes: mib, SnapshotId: "s1", SnapshotVolumeId: "v1"})
	if err != nil || !bytes.HasPrefix(w.content("v2", ""), data) {
		t.Errorf("a clone in another back end: %v", err)
	}
}

func TestFactsAreToldAtOnceWhenSomethingChanged(t *testing.T) {
	w := newWorld(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan *hostpb.VolumeFacts, 16)
	var owned sync.WaitGroup
	owned.Go(func() { _ = w.Run(ctx, func(f *hostpb.VolumeFacts) { told <- f }) })
	defer owned.Wait()
	defer cancel()
	if f := <-told; f.GetName() != "storage-1" || f.GetEngine() != "threads" || len(f.GetBackends()) != 2 || f.GetBackends()[1].GetFreeBytes() <= 0 {
		t.Errorf("first facts %v", f)
	}
	w.blank("v1", "b", 1)
	select {
	case f := <-told:
		if f.GetBackends()[1].GetVolumes() != 1 {
			t.Errorf("facts after a creation: %v", f)
		}
	case <-time.After(factsEvery / 2):
		t.Error("nothing was told of a new volume")
	}
}

func TestCallsAfterTheEndAreWorthAnotherAttempt(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.Close()
	_, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: mib})
	if !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("got %v", err)
	}
}
