package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	vol = cloud.VolumeID("7d8f3c1e-0000-4000-8000-000000000001")
	mib = int64(1) << 20
)

func call(generation int64) Call { return Call{Volume: vol, Generation: generation} }

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = "fast"
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantKind(t testing.TB, err error, kind cloud.Kind) {
	t.Helper()
	if !cloud.Is(err, kind) {
		t.Fatalf("got error %v, want one of kind %v", err, kind)
	}
}

// contents reads a volume or snapshot through its Reader.
func contents(t testing.TB, s *Store, id cloud.VolumeID, snapshot cloud.SnapshotID) []byte {
	t.Helper()
	r := must(s.Read(context.Background(), id, snapshot))(t)
	defer r.Close()
	out := make([]byte, r.Size())
	buf := make([]byte, min(r.Size(), 64<<10))
	for {
		off, n, err := r.Next(buf)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		copy(out[off:], buf[:n])
	}
}

func TestAWriterThatIsCutOffCannotWriteAgainAndLosesNothing(t *testing.T) {
	ctx := context.Background()
	s := openStore(t, Options{Dir: t.TempDir(), Direct: DirectOff})
	must(s.Create(ctx, call(1), Spec{Bytes: mib}))(t)
	a := must(s.OpenAttachment(ctx, call(2), Request{Attachment: "a", Host: "h1"}))(t)
	if a.Role != RoleWriter || a.Epoch != 1 {
		t.Fatalf("opened as %+v", a)
	}
	ended := make(chan struct{})
	la := must(s.Admit(Visit{Volume: vol, Attachment: "a", Host: "h1", CutOff: func() { close(ended) }}))(t)
	defer la.Close()
	if v := la.Begin(); v != Go {
		t.Fatalf("the writer's Begin: %v", v)
	}
	b := must(s.OpenAttachment(ctx, call(3), Request{Attachment: "b", Host: "h2", Handover: true}))(t)
	if b.Role != RoleStandby {
		t.Fatalf("opened for handover as %+v", b)
	}
	lb := must(s.Admit(Visit{Volume: vol, Attachment: "b", Host: "h2"}))(t)
	defer lb.Close()
	if v := lb.Begin(); v != Held {
		t.Fatalf("the standby's Begin: %v", v)
	}
	promoted := make(chan error, 1)
	lb.Await(func(err error) { promoted <- err })
	want := bytes.Repeat([]byte("last"), 1024)
	if _, err := la.File().WriteAt(want, 4096); err != nil {
		t.Fatal(err)
	}
	select {
	case <-promoted:
		t.Fatal("the standby became the writer while the older one's write was under way")
	default:
	}
	la.End()
	if err := <-promoted; err != nil {
		t.Fatal(err)
	}
	<-ended
	if v := la.Begin(); v != Refused || !errors.Is(la.Err(), ErrCutOff) {
		t.Fatalf("the older writer's Begin: %v, %v", v, la.Err())
	}
	if v := lb.Begin(); v != Go {
		t.Fatalf("the new writer's Begin: %v", v)
	}
	lb.End()
	if got := contents(t, s, vol, ""); !bytes.Equal(got[4096:8192], want) {
		t.Fatal("the older writer's last write is lost")
	}
	_, err := s.Promote(ctx, call(3), "a")
	wantKind(t, err, cloud.KindConflict)
	_, err = s.Promote(ctx, call(2), "b")
	wantKind(t, err, cloud.KindStale)
}
