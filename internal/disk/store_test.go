package disk

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	serverA cloud.ServerID = "0b4eb0b2-52bb-4e04-9a4e-2b6cf9ddc6e0"
	serverB cloud.ServerID = "1b4eb0b2-52bb-4e04-9a4e-2b6cf9ddc6e1"
)

func open(t *testing.T, dir string, fetch Fetch) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Dir: dir, Fetch: fetch, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// rawBase describes an image of the given data, in raw format.
func rawBase(data []byte) Base {
	sum := sha512.Sum512(data)
	return Base{Image: "image", Format: FormatRaw, Bytes: int64(len(data)), SHA512: hex.EncodeToString(sum[:])}
}

func serve(data []byte) Fetch {
	return func(_ context.Context, _ cloud.ImageID, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[offset:])), nil
	}
}

var sample = bytes.Repeat([]byte("godwit "), 40000)

func TestManyBootsFetchABaseOnce(t *testing.T) {
	var fetches atomic.Int32
	release := make(chan struct{})
	s := open(t, t.TempDir(), func(ctx context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error) {
		fetches.Add(1)
		<-release
		return serve(sample)(ctx, id, offset)
	})
	var boots sync.WaitGroup
	for range 8 {
		boots.Go(func() {
			path, size, err := s.EnsureBase(t.Context(), rawBase(sample))
			if err != nil || size != int64(len(sample)) {
				t.Errorf("%d bytes, %v", size, err)
			}
			if got, _ := os.ReadFile(path); !bytes.Equal(got, sample) {
				t.Error("base differs from the image")
			}
		})
	}
	close(release)
	boots.Wait()
	if n := fetches.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestInterruptedFetchGoesOnWhereItStopped(t *testing.T) {
	dir := t.TempDir()
	var offsets []int64
	broken := func(_ context.Context, _ cloud.ImageID, offset int64) (io.ReadCloser, error) {
		offsets = append(offsets, offset)
		lost := cloud.Errorf(cloud.KindUnavailable, "connection lost")
		if len(offsets) == 3 {
			return nil, cloud.Errorf(cloud.KindForbidden, "no longer yours") // ends this process's attempt
		}
		end := min(offset+100000, int64(len(sample)))
		return io.NopCloser(io.MultiReader(bytes.NewReader(sample[offset:end]), failing{lost})), nil
	}
	first := open(t, dir, broken)
	if _, _, err := first.EnsureBase(t.Context(), rawBase(sample)); !cloud.Is(err, cloud.KindForbidden) {
		t.Fatalf("error %v", err)
	}
	first.Close()
	second := open(t, dir, broken)
	if _, _, err := second.EnsureBase(t.Context(), rawBase(sample)); err != nil {
		t.Fatal(err)
	}
	want := []int64{0, 100000, 200000, 200000}
	if len(offsets) != len(want) || offsets[1] != want[1] || offsets[3] != want[3] {
		t.Errorf("fetched from %v, want %v", offsets, want)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestDataThatDoesNotMatchItsHashNeverGetsItsName(t *testing.T) {
	s := open(t, t.TempDir(), serve(bytes.ToUpper(sample)))
	b := rawBase(sample)
	if _, _, err := s.EnsureBase(t.Context(), b); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("error %v", err)
	}
	if names, _ := filepath.Glob(s.path(imagesDir, "*")); len(names) > 0 {
		t.Errorf("left %v", names)
	}
}

func TestAbandonedFetchStops(t *testing.T) {
	stopped := make(chan struct{})
	s := open(t, t.TempDir(), func(ctx context.Context, _ cloud.ImageID, _ int64) (io.ReadCloser, error) {
		<-ctx.Done()
		close(stopped)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, _, err := s.EnsureBase(ctx, rawBase(sample)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	<-stopped
}

func TestImageThatReachesIntoTheHostIsRefused(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/shadow", "evil", "1M")
	evil, err := os.ReadFile(filepath.Join(dir, "evil"))
	if err != nil {
		t.Fatal(err)
	}
	b := rawBase(evil)
	b.Format = FormatQCOW2
	s := open(t, t.TempDir(), serve(evil))
	if _, err := s.EnsureRoot(t.Context(), serverA, Root{Base: b, Bytes: 2 << 20}); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("error %v", err)
	}
	if s.Present(serverA) {
		t.Error("a disk was made of it")
	}
	// Called raw, the same bytes are only data.
	b.Format = FormatRaw
	if _, err := s.EnsureRoot(t.Context(), serverA, Root{Base: b, Bytes: 2 << 20}); err != nil {
		t.Error(err)
	}
}

func TestRootDiskIsMadeOnceAndGrowsTheImage(t *testing.T) {
	s := open(t, t.TempDir(), serve(sample))
	root := Root{Base: rawBase(sample), Bytes: 1 << 30}
	for i, want := range []bool{true, false} {
		made, err := s.EnsureRoot(t.Context(), serverA, root)
		if err != nil || made != want {
			t.Errorf("call %d: made %v, %v", i, made, err)
		}
	}
	f, _ := s.Files(serverA)
	h, err := headerOf(f.Root)
	if err != nil || h.VirtualBytes != 1<<30 || h.Backing != s.basePath(root.Base.SHA512) {
		t.Errorf("disk is %+v, %v", h, err)
	}
	other := root
	other.Bytes = 2 << 30
	if _, err := s.EnsureRoot(t.Context(), serverA, other); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("another size: %v", err)
	}
	other.Bytes = 512
	if _, err := s.EnsureRoot(t.Context(), serverB, other); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("smaller than the image: %v", err)
	}
	if n, err := s.Usage(serverA); err != nil || n == 0 || n > 1<<20 {
		t.Errorf("usage %d, %v", n, err)
	}
}

func TestRemoveTouchesNothingBesidesTheServersDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, serve(sample))
	for _, id := range []cloud.ServerID{serverA, serverB} {
		if _, err := s.EnsureRoot(t.Context(), id, Root{Base: rawBase(sample)}); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := s.Files(serverA)
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(a.Dir, "link")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove(serverA); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []cloud.ServerID{"", "..", "../images", "0b4eb0b2-52bb-4e04-9a4e-2b6cf9ddc6e0/..", "0B4EB0B2-52BB-4E04-9A4E-2B6CF9DDC6E0"} {
		if err := s.Remove(id); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
	if s.Present(serverA) || !s.Present(serverB) {
		t.Error("removed the wrong server")
	}
	for _, path := range []string{outside, s.basePath(rawBase(sample).SHA512)} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestEvictKeepsWhatADiskNeeds(t *testing.T) {
	s := open(t, t.TempDir(), serve(sample))
	if _, err := s.EnsureRoot(t.Context(), serverA, Root{Base: rawBase(sample)}); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(BaseIdleMax + time.Hour)
	if removed, err := s.Evict(later, BaseIdleMax); err != nil || len(removed) > 0 {
		t.Fatalf("removed %v, %v", removed, err)
	}
	if err := s.Remove(serverA); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.Evict(time.Now(), BaseIdleMax); err != nil || len(removed) > 0 {
		t.Errorf("removed %v while it was young, %v", removed, err)
	}
	if removed, err := s.Evict(later, BaseIdleMax); err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
}

func TestConsoleSpansHostsAndIsBounded(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	f, _ := s.Files(serverA)
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.SetPast(serverA, []byte("one\ntwo\n")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Console, []byte("three\nfour\npart"), 0o600); err != nil {
		t.Fatal(err)
	}
	for lines, want := range map[int]string{0: "one\ntwo\nthree\nfour\npart", 1: "part", 3: "three\nfour\npart", 9: "one\ntwo\nthree\nfour\npart"} {
		if got, err := s.Console(serverA, lines); err != nil || string(got) != want {
			t.Errorf("%d lines: %q, %v; want %q", lines, got, err, want)
		}
	}
	if err := os.WriteFile(f.Console, bytes.Repeat([]byte("0123456789abcde\n"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	before, _ := s.Usage(serverA)
	if err := s.TrimConsole(serverA); err != nil {
		t.Fatal(err)
	}
	if after, _ := s.Usage(serverA); after >= before || after > consoleTrimAt {
		t.Errorf("trimmed from %d to %d bytes", before, after)
	}
	got, err := s.Console(serverA, 0)
	if err != nil || len(got) != ConsoleBytesMax || !strings.HasSuffix(string(got), "0123456789abcde\n") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestDirectoryIdentityIsSharedByItsUsersOnly(t *testing.T) {
	shared := t.TempDir()
	first := open(t, shared, nil)
	id := first.SharedID()
	first.Close()
	if again := open(t, shared, nil).SharedID(); again != id {
		t.Errorf("identity changed from %s to %s", id, again)
	}
	if other := open(t, t.TempDir(), nil).SharedID(); other == id {
		t.Error("two directories have one identity")
	}
}

func TestASharedDirectoryIsRemovedByItsOwnerOnly(t *testing.T) {
	one, two := open(t, t.TempDir(), serve(sample)), open(t, t.TempDir(), serve(sample))
	shared := one.path(instancesDir)
	if err := os.RemoveAll(two.path(instancesDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shared, two.path(instancesDir)); err != nil {
		t.Fatal(err)
	}
	root := Root{Base: rawBase(sample), Bytes: 1 << 20}
	if _, err := one.EnsureRoot(t.Context(), serverA, root); err != nil {
		t.Fatal(err)
	}
	f, _ := one.Files(serverA)
	if err := os.WriteFile(f.Root+".mark", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(f.Root)
	if err := two.RemakeRoot(t.Context(), serverA, root); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(f.Root); !os.SameFile(before, after) {
		t.Error("the second host made the first one's disk anew")
	}
	owned := func(s *Store) bool {
		ok, err := s.Owned(serverA)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !owned(one) || owned(two) {
		t.Errorf("owned by the first %v, by the second %v", owned(one), owned(two))
	}
	if err := two.Claim(serverA); err != nil {
		t.Fatal(err)
	}
	if taken, err := two.Taken(serverA); err != nil || !taken {
		t.Errorf("taken over by the second: %v %v", taken, err)
	}
	temp := f.Root + tempSuffix
	if err := os.WriteFile(temp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := one.sweepTemps(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(temp); err != nil {
		t.Errorf("the first host swept away what the second is making: %v", err)
	}
	if err := one.Recognise(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(two.path(instancesDir)); err != nil {
		t.Fatal(err)
	}
	if err := two.Recognise(); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("a directory that is gone: %v", err)
	}
	if err := os.Symlink(shared, two.path(instancesDir)); err != nil {
		t.Fatal(err)
	}
	if owned(one) || !owned(two) {
		t.Errorf("after the claim: owned by the first %v, by the second %v", owned(one), owned(two))
	}
}

func TestARemadeDiskHasNothingOfItsPast(t *testing.T) {
	s := open(t, t.TempDir(), serve(sample))
	root := Root{Base: rawBase(sample), Bytes: 1 << 20}
	if _, err := s.EnsureRoot(t.Context(), serverA, root); err != nil {
		t.Fatal(err)
	}
	f, _ := s.Files(serverA)
	empty, err := os.ReadFile(f.Root)
	if err != nil {
		t.Fatal(err)
	}
	qemuIO(t, f.Root, "write -P 7 0 64k")
	if err := s.RemakeRoot(t.Context(), serverA, root); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.Root); err != nil || !bytes.Equal(got, empty) {
		t.Errorf("remade disk of %d bytes differs from a new one (%v)", len(got), err)
	}
}

func TestASecondProcessCannotHoldTheStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	if _, err := Open(t.Context(), Options{Dir: dir}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("second open: %v", err)
	}
	s.Close()
	open(t, dir, nil)
}

func TestConfigDriveIsWrittenWhole(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	files := map[string][]byte{"openstack/latest/meta_data.json": []byte("{}")}
	for range 2 {
		if err := s.WriteConfig(serverA, files); err != nil {
			t.Fatal(err)
		}
	}
	f, _ := s.Files(serverA)
	image, err := os.ReadFile(f.Config)
	if err != nil || string(isoFiles(t, image, 16)["openstack/latest/meta_data.json"]) != "{}" {
		t.Errorf("drive of %d bytes, %v", len(image), err)
	}
}

// TestQEMUPassesThroughTheStoreAsAnyUser: the directory may be there already, and closed, because the agent keeps its keys below it.
func TestQEMUPassesThroughTheStoreAsAnyUser(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, d := range []string{dir, filepath.Join(dir, imagesDir), filepath.Join(dir, instancesDir)} {
		info, err := os.Stat(d)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o011 != 0o011 || mode&0o044 != 0 {
			t.Errorf("%s: %v, others must pass and not look", d, mode)
		}
	}
}
