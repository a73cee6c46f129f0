package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestDamagedMetadataIsSaidAndNothingIsTouched(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	o := Options{Dir: dir, Direct: DirectOff, Log: slog.New(slog.DiscardHandler)}
	s := must(Open(ctx, o))(t)
	must(s.Create(ctx, call(1), Spec{Bytes: mib, Source: Source{Raw: strings.NewReader("precious")}}))(t)
	must(s.Create(ctx, Call{Volume: "healthy"}, Spec{Bytes: mib}))(t)
	path := s.dir(vol) + "/" + metaName
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	raw := must(os.ReadFile(path))(t)
	flipped := bytes.Replace(raw, []byte(`"generation": 1`), []byte(`"generation": 9`), 1)
	for name, broken := range map[string][]byte{
		"a changed body": flipped, "a short file": raw[:len(raw)/2], "an empty file": nil, "zeros": make([]byte, len(raw)),
		"a newer version": bytes.Replace(raw, []byte("volume    1"), []byte("volume    2"), 1),
	} {
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		s := must(Open(ctx, o))(t)
		_, err := s.Inspect(ctx, vol)
		if err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), s.dir(vol)) {
			t.Errorf("%s: Inspect: %v", name, err)
		}
		for what, err := range map[string]error{
			"create": discard(s.Create(ctx, call(5), Spec{Bytes: mib})), "delete": s.Delete(ctx, call(5)),
			"attach": discard(s.OpenAttachment(ctx, call(5), Request{Attachment: "a"})), "read": discard(s.Read(ctx, vol, "")),
		} {
			if err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if f := s.Facts(); len(f.Damaged) != 1 || f.Damaged[0] != vol || f.Volumes != 2 {
			t.Errorf("%s: facts %+v", name, f)
		}
		must(s.Inspect(ctx, "healthy"))(t)
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if now := must(os.ReadFile(path))(t); !bytes.Equal(now, broken) {
			t.Errorf("%s: the file was changed", name)
		}
		if data := must(os.ReadFile(s.dataPath(vol)))(t); !bytes.HasPrefix(data, []byte("precious")) {
			t.Errorf("%s: the data was changed", name)
		}
	}
}

func TestDataThatIsMissingOrShortIsDamage(t *testing.T) {
	ctx := context.Background()
	for name, spoil := range map[string]func(path string) error{"missing": os.Remove, "short": func(p string) error { return os.Truncate(p, 512) }} {
		o := Options{Dir: t.TempDir(), Direct: DirectOff, Log: slog.New(slog.DiscardHandler)}
		s := must(Open(ctx, o))(t)
		must(s.Create(ctx, call(1), Spec{Bytes: mib}))(t)
		if err := errors.Join(s.Close(ctx), spoil(s.dataPath(vol))); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, o)
		if _, err := s.Inspect(ctx, vol); err == nil || !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), "512 bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOlderDecisionsAreRefusedEvenAfterDeletion(t *testing.T) {
	s, files := memStore(t, true)
	ctx := context.Background()
	if err := s.DeleteSnapshot(ctx, call(5), "never"); err != nil {
		t.Fatal(err)
	}
	stale := func(s *Store) {
		t.Helper()
		c := call(4)
		for what, err := range map[string]error{
			"create": discard(s.Create(ctx, c, Spec{Bytes: mib})), "delete": s.Delete(ctx, c), "extend": discard(s.Extend(ctx, c, 2*mib)),
			"snapshot": discard(s.Snapshot(ctx, c, "s")), "delete snapshot": s.DeleteSnapshot(ctx, c, "s"), "revert": discard(s.Revert(ctx, c, "s")),
			"limits": discard(s.SetLimits(ctx, c, Limits{})), "attach": discard(s.OpenAttachment(ctx, c, Request{Attachment: "a"})),
			"promote": discard(s.Promote(ctx, c, "a")), "detach": discard(s.CloseAttachment(ctx, c, "a")),
		} {
			if !cloud.Is(err, cloud.KindStale) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	stale(s)
	if err := s.Delete(ctx, call(6)); err != nil {
		t.Fatal(err)
	}
	again := openStore(t, Options{Dir: dirOne, Direct: DirectOff, files: newMemFiles(files.live, true)})
	for _, s := range []*Store{s, again} {
		_, err := s.Create(ctx, call(5), Spec{Bytes: mib})
		wantKind(t, err, cloud.KindStale)
		if err := s.Delete(ctx, call(6)); err != nil {
			t.Errorf("deleting what is gone: %v", err)
		}
	}
}

func TestGenerationsOfDeletedVolumesAreForgottenInTime(t *testing.T) {
	ctx := context.Background()
	s, files := memStore(t, true)
	if err := s.Delete(ctx, call(2)); err != nil {
		t.Fatal(err)
	}
	v := s.lookup(vol)
	old := v.meta
	old.Updated = time.Now().Add(-goneAgeMax - time.Minute)
	if err := v.commit(old); err != nil {
		t.Fatal(err)
	}
	after := newMemFiles(files.live, true)
	again := openStore(t, Options{Dir: dirOne, Direct: DirectOff, files: after})
	if again.lookup(vol) != nil {
		t.Fatal("remembered")
	}
	if l := litter(after, again); len(l) > 0 {
		t.Fatalf("left: %v", l)
	}
}

func TestAStoreThatDeletesAllDayForgets(t *testing.T) {
	s, files := memStore(t, true)
	ctx := context.Background()
	id := func(i int) cloud.VolumeID { return cloud.VolumeID(fmt.Sprint("gone", i)) }
	for i := range forgetEvery - 1 {
		if err := s.Delete(ctx, Call{Volume: id(i), Generation: 1}); err != nil {
			t.Fatal(err)
		}
	}
	old := s.lookup(id(0)).meta
	old.Updated = time.Now().Add(-goneAgeMax - time.Minute)
	if err := s.lookup(id(0)).commit(old); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, Call{Volume: "last", Generation: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(ctx); err != nil { // waits for what Delete has left for later
		t.Fatal(err)
	}
	if s.lookup(id(0)) != nil || s.lookup(id(1)) == nil {
		t.Fatal("forgotten is not what is old")
	}
	if _, err := files.Stat(s.dir(id(0))); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestDeleteEndsACreationUnderWay(t *testing.T) {
	s, files := memStore(t, true)
	ctx := context.Background()
	r, w := io.Pipe()
	defer w.Close()
	c := Call{Volume: "slow", Generation: 1}
	made := make(chan error, 1)
	go func() { made <- discard(s.Create(ctx, c, Spec{Bytes: 8 * mib, Source: Source{Raw: r}})) }()
	if _, err := w.Write(make([]byte, chunkBytes)); err != nil { // it is under way
		t.Fatal(err)
	}
	deleted := make(chan error, 1)
	go func() { deleted <- s.Delete(ctx, Call{Volume: "slow", Generation: 2}) }()
	go func() {
		for {
			if _, err := w.Write(make([]byte, 512)); err != nil {
				return
			}
		}
	}()
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	wantKind(t, <-made, cloud.KindCancelled)
	r.Close()
	if l := litter(files, s); len(l) > 0 {
		t.Fatalf("left: %v", l)
	}
	_, err := s.Create(ctx, c, Spec{Bytes: mib})
	wantKind(t, err, cloud.KindStale)
}

func TestAStreamThatBreaksOffMakesNoVolume(t *testing.T) {
	s, files := memStore(t, true)
	c := Call{Volume: "torn", Generation: 1}
	for _, broke := range []error{errBroken, io.ErrUnexpectedEOF} {
		_, err := s.Create(context.Background(), c, Spec{Bytes: mib, Source: Source{Raw: io.MultiReader(strings.NewReader("half"), failing{broke})}})
		if !errors.Is(err, broke) {
			t.Fatalf("got %v", err)
		}
	}
	if l := litter(files, s); len(l) > 0 || len(s.List()) != 1 {
		t.Fatalf("left: %v, %v", l, s.List())
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	s, _ := memStore(t, true)
	ctx, other := context.Background(), Call{Volume: "other", Generation: 1}
	for what, err := range map[string]error{
		"a size of zero":         discard(s.Create(ctx, other, Spec{})),
		"a negative size":        discard(s.Create(ctx, other, Spec{Bytes: -512})),
		"a size between sectors": discard(s.Create(ctx, other, Spec{Bytes: 513})),
		"an immense size":        discard(s.Create(ctx, other, Spec{Bytes: 1 << 62})),
		"a path as an id":        discard(s.Create(ctx, Call{Volume: "../etc"}, Spec{Bytes: 512})),
		"an empty id":            discard(s.Create(ctx, Call{}, Spec{Bytes: 512})),
		"a path as a snapshot":   discard(s.Snapshot(ctx, call(1), "../data")),
		"a path as a source":     discard(s.Create(ctx, other, Spec{Bytes: 512, Source: Source{Volume: vol, Snapshot: "../data"}})),
		"a path as attachment":   discard(s.OpenAttachment(ctx, call(1), Request{Attachment: "a/b"})),
		"two sources":            discard(s.Create(ctx, other, Spec{Bytes: 512, Source: Source{Volume: vol, Path: "/x"}})),
		"a snapshot of nothing":  discard(s.Create(ctx, other, Spec{Bytes: 512, Source: Source{Snapshot: "s"}})),
		"a negative limit":       discard(s.SetLimits(ctx, call(1), Limits{IOPS: -1})),
		"a larger source":        discard(s.Create(ctx, other, Spec{Bytes: 512, Source: Source{Volume: vol}})),
	} {
		if !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"a source that is not there":   discard(s.Create(ctx, other, Spec{Bytes: mib, Source: Source{Volume: "nobody"}})),
		"a snapshot that is not there": discard(s.Create(ctx, other, Spec{Bytes: mib, Source: Source{Volume: vol, Snapshot: "nothing"}})),
		"extending nothing":            discard(s.Extend(ctx, other, mib)),
		"reading nothing":              discard(s.Read(ctx, "other", "")),
		"reading no snapshot":          discard(s.Read(ctx, vol, "nothing")),
		"attaching nothing":            discard(s.OpenAttachment(ctx, other, Request{Attachment: "a"})),
		"moving nothing":               discard(s.Move(ctx, other, openStore(t, Options{Dir: t.TempDir()}))),
	} {
		if !cloud.Is(err, cloud.KindNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if a, err := s.CloseAttachment(ctx, other, "a"); err != nil || a.Role != RoleAbsent {
		t.Errorf("detaching from nothing: %+v, %v", a, err)
	}
	if got := s.List(); len(got) != 1 {
		t.Errorf("made %v", got)
	}
}

func TestRepeatedCallsChangeNothing(t *testing.T) {
	s, _ := memStore(t, true)
	ctx := context.Background()
	twice := func(what string, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		before := describe(t, s)
		if err := f(); err != nil {
			t.Fatalf("%s again: %v", what, err)
		}
		if after := describe(t, s); after != before {
			t.Errorf("%s again: before\n%safter\n%s", what, before, after)
		}
	}
	twice("create", func() error { return discard(s.Create(ctx, call(1), Spec{Bytes: mib})) })
	twice("extend", func() error { return discard(s.Extend(ctx, call(2), 2*mib)) })
	twice("snapshot", func() error { return discard(s.Snapshot(ctx, call(3), "s")) })
	twice("attach", func() error {
		return discard(s.OpenAttachment(ctx, call(4), Request{Attachment: "a", Host: "h"}))
	})
	twice("stand by", func() error {
		return discard(s.OpenAttachment(ctx, call(4), Request{Attachment: "b", Host: "h", Handover: true}))
	})
	twice("promote", func() error { return discard(s.Promote(ctx, call(4), "b")) })
	twice("detach", func() error { return discard(s.CloseAttachment(ctx, call(5), "a")) })
	twice("detach", func() error { return discard(s.CloseAttachment(ctx, call(5), "b")) })
	twice("revert", func() error { return discard(s.Revert(ctx, call(6), "s")) })
	twice("delete snapshot", func() error { return s.DeleteSnapshot(ctx, call(7), "s") })
	twice("delete", func() error { return s.Delete(ctx, call(8)) })
}

func TestAVolumeIsNotRevertedOrDeletedUnderAnAttachment(t *testing.T) {
	s, _ := memStore(t, true)
	ctx := context.Background()
	must(s.Snapshot(ctx, call(1), "s"))(t)
	attach(t, s, Request{Attachment: "a", Host: "h"})
	_, err := s.Revert(ctx, call(2), "s")
	wantKind(t, err, cloud.KindConflict)
	wantKind(t, s.Delete(ctx, call(2)), cloud.KindConflict)
}

func FuzzMetaDecoder(f *testing.F) {
	m := meta{ID: vol, Phase: phaseReady, Generation: 7, Bytes: mib, Ledger: ledger{Epoch: 2, Writer: 1, Open: []record{{ID: "a", Host: "h", Epoch: 2}}}}
	raw, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:headBytes])
	f.Add([]byte("godwit volume 1 sha256 00\n{}"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := decodeMeta(vol, raw)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeMeta(vol, again); err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
		if len(again)%metaGrain != 0 {
			t.Fatalf("%d bytes", len(again))
		}
	})
}
