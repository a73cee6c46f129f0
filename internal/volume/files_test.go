package volume

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/uring"
)

// mounted makes a file system for the test, on a loop file or in memory, and unmounts it afterwards.
func mounted(t testing.TB, kind string, size int64) string {
	t.Helper()
	if testing.Short() {
		t.Skip("mounts file systems, which wants root; not part of -short")
	}
	work := t.TempDir()
	dir, image := filepath.Join(work, "mnt"), filepath.Join(work, "image")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	if kind == "tmpfs" {
		run("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "godwit-test", dir)
	} else {
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
			t.Fatal(err)
		}
		switch kind {
		case "xfs":
			run("mkfs.xfs", "-q", "-m", "reflink=1", image)
		case "btrfs":
			run("mkfs.btrfs", "-q", image)
		default:
			run("mkfs.ext4", "-q", image)
		}
		run("mount", "-o", "loop", image, dir) // the loop device goes with the mount
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// unmount unmounts. The kernel ends a killed process's ring a moment after the process, and the ring's files with it.
func unmount(t testing.TB, dir string) {
	t.Helper()
	const (
		tries = 100
		pause = 50 * time.Millisecond
	)
	for n := range tries {
		out, err := exec.Command("umount", dir).CombinedOutput()
		if err == nil {
			return
		}
		if n == tries-1 {
			t.Errorf("umount: %v: %s", err, out)
		}
		<-time.After(pause)
	}
	if err := exec.Command("umount", "-l", dir).Run(); err != nil {
		t.Error(err)
	}
}

// xfsBytes is the least that mkfs.xfs takes.
const xfsBytes = 320 << 20

// engines are the ways in which a store does its I/O.
func engines(t *testing.T, f func(t *testing.T, loop *uring.Loop)) {
	t.Run("threads", func(t *testing.T) { f(t, nil) })
	t.Run("io_uring", func(t *testing.T) {
		loop, err := uring.NewLoop(uring.Options{})
		if errors.Is(err, uring.ErrUnavailable) {
			t.Skipf("this machine has none: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { loop.Close() })
		f(t, loop)
	})
}

// image makes a raw image with data here and there, and returns its content.
func image(t testing.TB, dir string, size int64) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(dir, "image.raw")
	content = make([]byte, size)
	r := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		off := r.Int64N(size - 100_000)
		for i := range content[off : off+100_000] {
			content[off+int64(i)] = byte(r.Uint32())
		}
	}
	f := must(os.Create(path))(t)
	defer f.Close()
	for off := int64(0); off < size; off += holeBytes {
		if p := content[off:min(off+holeBytes, size)]; !bytes.Equal(p, zeros[:len(p)]) {
			must(f.WriteAt(p, off))(t)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestSnapshotsAndClonesOnRealFileSystems(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs", "ext4", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, xfsBytes)
			engines(t, func(t *testing.T, loop *uring.Loop) {
				sub := filepath.Join(dir, filepath.Base(t.Name()))
				s := openStore(t, Options{Dir: sub, Loop: loop})
				if f := s.Facts(); f.Reflink != (kind == "xfs" || kind == "btrfs") || f.Reflink != (f.ReflinkWhy == "") || f.TotalBytes == 0 || f.FreeBytes == 0 {
					t.Fatalf("facts %+v", f)
				}
				live(t, s)
			})
		})
	}
}

// live takes a volume through all that can be done with its data, and compares the data each time.
func live(t *testing.T, s *Store) {
	ctx := context.Background()
	const size = 16 << 20
	path, content := image(t, t.TempDir(), size)
	clone := cloud.VolumeID("clone")
	st := must(s.Create(ctx, call(1), Spec{Bytes: 2 * size, Source: Source{Path: path}}))(t)
	if st.AllocatedBytes > 2<<20 {
		t.Errorf("an image with about 800 kB of data takes %d bytes", st.AllocatedBytes)
	}
	content = append(content, make([]byte, size)...)
	check := func(what string, id cloud.VolumeID, snap cloud.SnapshotID, want []byte) {
		t.Helper()
		if got := contents(t, s, id, snap); !bytes.Equal(got, want) {
			t.Fatalf("%s is not what it should be", what)
		}
	}
	check("the new volume", vol, "", content)
	must(s.Snapshot(ctx, call(2), "s1"))(t)
	l := attach(t, s, Request{Attachment: "a", Host: "h"})
	before := slices.Clone(content)
	for _, off := range []int{0, 5 << 20, 2*size - 1<<16} {
		p := uring.Aligned(1<<16, 4096)
		copy(p, bytes.Repeat([]byte{byte(off>>20) + 1}, 1<<16))
		if v := l.Begin(); v != Go {
			t.Fatal(v)
		}
		must(l.File().WriteAt(p, int64(off)))(t)
		l.End()
		copy(content[off:], p)
	}
	must(s.Snapshot(ctx, call(2), "s2"))(t)
	check("the attached volume", vol, "", content)
	check("the first snapshot", vol, "s1", before)
	check("the second snapshot", vol, "s2", content)
	must(s.Create(ctx, Call{Volume: clone, Generation: 1}, Spec{Bytes: 3 * size, Source: Source{Volume: vol, Snapshot: "s2"}}))(t)
	check("the clone of a snapshot", clone, "", append(slices.Clone(content), make([]byte, size)...))
	if err := l.File().Punch(0, 1<<16); err != nil {
		t.Fatal(err)
	}
	clear(content[:1<<16])
	if err := l.File().Zero(5<<20, 1<<16); err != nil && s.Facts().Reflink { // tmpfs has no such operation
		t.Fatal(err)
	} else if err == nil {
		clear(content[5<<20 : 5<<20+1<<16])
	}
	check("the volume with a hole", vol, "", content)
	must(s.Extend(ctx, call(2), 4*size))(t)
	check("the longer volume", vol, "", append(slices.Clone(content), make([]byte, 2*size)...))
	l.Close()
	must(s.CloseAttachment(ctx, call(2), "a"))(t)
	must(s.Revert(ctx, call(3), "s1"))(t)
	check("the reverted volume", vol, "", append(slices.Clone(before), make([]byte, 2*size)...))
	wantKind(t, s.Delete(ctx, call(4)), cloud.KindConflict)
	for _, snap := range []cloud.SnapshotID{"s1", "s2"} {
		if err := s.DeleteSnapshot(ctx, call(4), snap); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, call(5)); err != nil {
		t.Fatal(err)
	}
	if got := s.List(); len(got) != 1 || got[0] != clone {
		t.Fatalf("left are %v", got)
	}
}

func TestDataIsReadableWithoutGodwit(t *testing.T) {
	s := openStore(t, Options{Dir: t.TempDir()})
	path, content := image(t, t.TempDir(), 1<<20)
	must(s.Create(context.Background(), call(1), Spec{Bytes: 1 << 20, Source: Source{Path: path}}))(t)
	raw := must(os.ReadFile(s.dataPath(vol)))(t)
	if sha512.Sum512(raw) != sha512.Sum512(content) {
		t.Fatal("the data file is not the volume's content")
	}
}

func TestAFullDiskRefusesAndKeepsNothing(t *testing.T) {
	for _, kind := range []string{"ext4", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, 24<<20)
			engines(t, func(t *testing.T, loop *uring.Loop) {
				s := openStore(t, Options{Dir: filepath.Join(dir, filepath.Base(t.Name())), Loop: loop})
				path := filepath.Join(t.TempDir(), "image")
				if err := os.WriteFile(path, bytes.Repeat([]byte("full"), 12<<20), 0o600); err != nil {
					t.Fatal(err)
				}
				full(t, s, path)
			})
		})
	}
}

func full(t *testing.T, s *Store, path string) {
	ctx := context.Background()
	free := s.Facts().FreeBytes
	for name, source := range map[string]Source{"file": {Path: path}, "stream": {Raw: must(os.Open(path))(t)}} {
		_, err := s.Create(ctx, call(1), Spec{Bytes: 64 << 20, Source: source})
		wantKind(t, err, cloud.KindExhausted)
		if left := must(os.ReadDir(filepath.Join(s.o.Dir, volumesName)))(t); len(left) != 0 {
			t.Fatalf("%s: %v is left", name, left)
		}
		if now := s.Facts().FreeBytes; now < free-1<<20 {
			t.Fatalf("%s: %d bytes were free, now %d", name, free, now)
		}
	}
	// A volume half as large as the disk has room for no copy of itself.
	must(s.Create(ctx, call(1), Spec{Bytes: 64 << 20}))(t)
	l := attach(t, s, Request{Attachment: "a", Host: "h"})
	chunk := uring.Aligned(1<<20, 4096)
	copy(chunk, bytes.Repeat([]byte("full"), 1<<18))
	for off := int64(0); off < 12<<20; off += 1 << 20 {
		must(l.File().WriteAt(chunk, off))(t)
	}
	_, err := s.Snapshot(ctx, call(2), "s")
	wantKind(t, err, cloud.KindExhausted)
	if got := must(s.Inspect(ctx, vol))(t); len(got.Snapshots) != 0 {
		t.Fatalf("%+v", got)
	}
	if v := l.Begin(); v != Go {
		t.Fatalf("Begin after the snapshot that failed: %v", v)
	}
	l.End()
	// When not a byte is free, the volume can still be handed over, detached and deleted.
	standby := attach(t, s, Request{Attachment: "b", Host: "h", Handover: true})
	for off := int64(12 << 20); ; off += 1 << 20 {
		if _, err := l.File().WriteAt(chunk, off); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := answer(standby); err != nil {
		t.Fatal(err)
	}
	if v := l.Begin(); v != Refused {
		t.Fatalf("the older writer's Begin: %v", v)
	}
	l.Close()
	standby.Close()
	for _, id := range []cloud.AttachmentID{"a", "b"} {
		must(s.CloseAttachment(ctx, call(3), id))(t)
	}
	if err := s.Delete(ctx, call(3)); err != nil {
		t.Fatal(err)
	}
	if now := s.Facts().FreeBytes; now < free-1<<20 {
		t.Fatalf("%d bytes were free, now %d", free, now)
	}
}

func TestASecondProcessIsKeptOut(t *testing.T) {
	dir := t.TempDir()
	openStore(t, Options{Dir: dir})
	if _, err := (osFiles{}).Lock(filepath.Join(dir, lockName)); !errors.Is(err, errLocked) {
		t.Fatalf("locked again: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Open(ctx, Options{Dir: dir})
	wantKind(t, err, cloud.KindConflict)
}

func TestDirectIOIsTakenWhereItIsOffered(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs", "ext4"} {
		t.Run(kind, func(t *testing.T) { takesDirectIO(t, mounted(t, kind, xfsBytes)) })
	}
}

func takesDirectIO(t *testing.T, dir string) {
	s := openStore(t, Options{Dir: dir, Direct: DirectOn})
	must(s.Create(context.Background(), call(1), Spec{Bytes: mib}))(t)
	l := attach(t, s, Request{Attachment: "a", Host: "h"})
	if l.Align() < 512 {
		t.Fatalf("align %d", l.Align())
	}
	flags := must(unix.FcntlInt(uintptr(l.File().FD()), unix.F_GETFL, 0))(t)
	if flags&unix.O_DIRECT == 0 {
		t.Fatal("the data is not open for direct I/O")
	}
	// What is written past the cache is in the snapshot, and what is written afterwards is not, although they share blocks.
	ctx, block := context.Background(), func(b byte) []byte {
		p := uring.Aligned(256<<10, 4096)
		copy(p, bytes.Repeat([]byte{b}, len(p)))
		return p
	}
	must(l.File().WriteAt(block(1), 0))(t)
	must(s.Snapshot(ctx, call(1), "s"))(t)
	must(l.File().WriteAt(block(2)[:64<<10], 4096*3))(t)
	got := uring.Aligned(256<<10, 4096)
	must(l.File().ReadAt(got, 0))(t)
	want := block(1)
	copy(want[4096*3:], block(2)[:64<<10])
	if !bytes.Equal(got, want) {
		t.Error("direct I/O reads other data than it wrote")
	}
	if snap := contents(t, s, vol, "s"); !bytes.Equal(snap[:256<<10], block(1)) || !bytes.Equal(contents(t, s, vol, "")[:256<<10], want) {
		t.Error("the volume or its snapshot is not what was written")
	}
	off := openStore(t, Options{Dir: filepath.Join(dir, "off"), Direct: DirectOff})
	must(off.Create(context.Background(), call(1), Spec{Bytes: mib}))(t)
	if l := attach(t, off, Request{Attachment: "a", Host: "h"}); l.Align() != 1 {
		t.Fatalf("align %d without direct I/O", l.Align())
	}
}

func TestAVolumeMovesToAnotherFileSystemWithItsSnapshots(t *testing.T) {
	ctx := context.Background()
	one := openStore(t, Options{Dir: mounted(t, "xfs", xfsBytes), Name: "one"})
	two := openStore(t, Options{Dir: t.TempDir(), Name: "two"})
	path, content := image(t, t.TempDir(), 4<<20)
	must(one.Create(ctx, call(1), Spec{Bytes: 4 << 20, Source: Source{Path: path}, Limits: Limits{IOPS: 7}}))(t)
	must(one.Snapshot(ctx, call(1), "s"))(t)
	must(one.OpenAttachment(ctx, call(2), Request{Attachment: "a", Host: "h"}))(t)
	_, err := one.Move(ctx, call(3), two)
	wantKind(t, err, cloud.KindConflict)
	must(one.CloseAttachment(ctx, call(3), "a"))(t)
	for range 2 { // the second finds it done
		st := must(one.Move(ctx, call(4), two))(t)
		if st.Backend != "two" || st.Epoch != 1 || st.Limits.IOPS != 7 || st.Generation != 4 || len(st.Snapshots) != 1 {
			t.Fatalf("%+v", st)
		}
	}
	if !bytes.Equal(contents(t, two, vol, ""), content) || !bytes.Equal(contents(t, two, vol, "s"), content) {
		t.Fatal("the data is not what it was")
	}
	if got := one.List(); len(got) != 0 {
		t.Fatalf("%v stayed behind", got)
	}
	_, err = one.Create(ctx, call(3), Spec{Bytes: mib})
	wantKind(t, err, cloud.KindStale)
	clone := Call{Volume: "clone", Generation: 1}
	must(one.Create(ctx, clone, Spec{Bytes: 4 << 20, Source: Source{Volume: vol, Store: two}}))(t)
	if !bytes.Equal(contents(t, one, "clone", ""), content) {
		t.Fatal("the clone across file systems is not what it was made from")
	}
}
