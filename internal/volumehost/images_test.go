package volumehost

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

func program(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// mounted is a directory on a file system of that kind.
func mounted(t testing.TB, kind string, bytes int64) string {
	t.Helper()
	if testing.Short() {
		t.Skip("mounts file systems, which wants root; not part of -short")
	}
	disk, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	f, err := os.Create(disk)
	if err == nil {
		err = f.Truncate(bytes)
	}
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	program(t, "mkfs."+kind, "-q", disk)
	program(t, "mount", "-o", "loop", disk, dir)
	t.Cleanup(func() {
		for range 200 { // the kernel lets go of files a moment after those who had them open
			if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
				if err != nil {
					t.Errorf("umount: %v", err)
				}
				return
			}
			<-time.After(50 * time.Millisecond)
		}
		t.Error("umount: busy")
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	return dir
}

// noise is data that nothing can compress.
func noise(n int64) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(p) // never fails
	return p
}

// packed is an image as qcow2, with how volumes are made of it.
func (w *world) packed(id cloud.ImageID, raw []byte) *hostpb.VolumeImage {
	w.t.Helper()
	dir := w.t.TempDir()
	from, to := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	if err := os.WriteFile(from, raw, 0o600); err != nil {
		w.t.Fatal(err)
	}
	program(w.t, "qemu-img", "convert", "-O", "qcow2", from, to)
	data, err := os.ReadFile(to)
	if err != nil {
		w.t.Fatal(err)
	}
	image := w.image(id, data)
	image.Format = "qcow2"
	return image
}

func (w *world) create(id, backend string, bytes int64, image *hostpb.VolumeImage) error {
	_, err := w.CreateVolume(w.t.Context(), &hostpb.CreateVolumeRequest{Call: call(id, 1), Backend: backend, Bytes: bytes, Image: image})
	return err
}

// used is what a file system holds, when all that is on its way has arrived.
func used(t testing.TB, dir string) int64 {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// Where blocks are shared, volumes of an image cost what is written to them: the image is fetched once, converted once, and cloned.
func TestWhereBlocksAreSharedTheSecondVolumeOfAnImageTakesNoRoom(t *testing.T) {
	const imageBytes = 24 * mib
	for _, kind := range []string{"xfs", "btrfs"} {
		for _, format := range []string{"raw", "qcow2"} {
			t.Run(kind+" "+format, func(t *testing.T) {
				dir := mounted(t, kind, 400*mib)
				w := newWorld(t, dir)
				w.images[w.stores[0]].bytesMax = 100 * mib // the tests' service keeps less
				raw := noise(imageBytes)
				image := w.image("i1", raw)
				if format == "qcow2" {
					image = w.packed("i1", raw)
				}
				if err := w.create("v1", "a", imageBytes, image); err != nil {
					t.Fatal(err)
				}
				before := used(t, dir)
				if err := w.create("v2", "a", 2*imageBytes, image); err != nil {
					t.Fatal(err)
				}
				if err := w.create("v3", "b", imageBytes, image); err != nil { // another back end on the file system
					t.Fatal(err)
				}
				if more := used(t, dir) - before; more > 2*mib {
					t.Errorf("two more volumes of an image of 24 MiB take %d KiB", more>>10)
				}
				if w.library.opened != 1 {
					t.Errorf("fetched %d times", w.library.opened)
				}
				for _, id := range []string{"v1", "v2", "v3"} {
					if got := w.content(id, ""); !bytes.Equal(got[:imageBytes], raw) || len(bytes.Trim(got[imageBytes:], "\x00")) > 0 {
						t.Errorf("%s is not the image", id)
					}
				}
			})
		}
	}
}

// Zeros in an image are holes in the cache and in the volume.
func TestZerosOfAnImageTakeNoRoom(t *testing.T) {
	dir := mounted(t, "xfs", 400*mib)
	w := newWorld(t, dir)
	raw := make([]byte, 64*mib)
	copy(raw[32*mib:], noise(mib))
	before := used(t, dir)
	if err := w.create("v1", "a", 64*mib, w.image("i1", raw)); err != nil {
		t.Fatal(err)
	}
	if more := used(t, dir) - before; more > 8*mib {
		t.Errorf("an image with a MiB of data takes %d MiB", more>>20)
	}
	if !bytes.Equal(w.content("v1", ""), raw) {
		t.Error("the volume is not the image")
	}
}

func TestBackEndsThatDoNotShareBlocksShareOneCache(t *testing.T) {
	w := newWorld(t, mounted(t, "ext4", 64*mib))
	a, b := w.images[w.stores[0]], w.images[w.stores[1]]
	if a != b || a.dir != filepath.Join(w.dir, "service", imagesDir) {
		t.Errorf("images are kept in %s and %s", a.dir, b.dir)
	}
}

func TestACacheThatTheConfigurationHasLeftBehindIsRemoved(t *testing.T) {
	dir := mounted(t, "xfs", 320*mib)
	for _, old := range []string{"b", "service"} { // as when another back end was named first, or none shared blocks
		if err := os.MkdirAll(filepath.Join(dir, old, imagesDir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, dir)
	if c := w.images[w.stores[0]]; c != w.images[w.stores[1]] || c.dir != filepath.Join(dir, "a", imagesDir) {
		t.Errorf("images are kept in %s", c.dir)
	}
	for _, old := range []string{"b", "service"} {
		if _, err := os.Stat(filepath.Join(dir, old, imagesDir)); !os.IsNotExist(err) {
			t.Errorf("the cache in %s is still there: %v", old, err)
		}
	}
}

func TestTheCacheSurvivesARestartAndHalfAnImageDoesNot(t *testing.T) {
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			dir, raw := t.TempDir(), noise(512<<10)
			w := newWorld(t, dir)
			image := w.image("i1", raw)
			if format == "qcow2" {
				image = w.packed("i1", raw)
			}
			if err := w.create("v1", "a", mib, image); err != nil {
				t.Fatal(err)
			}
			cache := w.images[w.stores[0]].dir
			w.end()
			sum := sha512.Sum512(raw)
			other := hex.EncodeToString(sum[:])
			for _, name := range []string{other + partSuffix, other + rawSuffix + partSuffix, other + rawSuffix + fetchSuffix, "litter",
				other + rawSuffix + sumSuffix, other + rawSuffix + sumSuffix + partSuffix} { // a crash at any moment
				if err := os.WriteFile(filepath.Join(cache, name), raw[:1000], 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w = newWorld(t, dir)
			if err := w.create("v2", "a", mib, image); err != nil { // the library of this world has no image at all
				t.Fatal(err)
			}
			if got := w.content("v2", ""); !bytes.Equal(got[:len(raw)], raw) {
				t.Error("the volume is not the image")
			}
			left, err := os.ReadDir(cache)
			if err != nil || len(left) != 2 || strings.TrimSuffix(left[0].Name(), rawSuffix) != image.GetSha512() || left[1].Name() != left[0].Name()+sumSuffix {
				t.Errorf("the cache has %v, %v", left, err)
			}
		})
	}
}

// Each of these fails on its way, and leaves nothing in the cache and no volume.
func TestAnImageThatCannotBeUsedLeavesNothing(t *testing.T) {
	w := newWorld(t, t.TempDir())
	raw := noise(mib)
	wrong := w.packed("wrong", raw)
	wrong.Sha512 = w.image("other", raw).GetSha512()
	no := w.image("no", raw)
	no.Format = "qcow2"
	vmdk := w.image("vmdk", raw)
	vmdk.Format = "vmdk"
	for name, image := range map[string]*hostpb.VolumeImage{
		"it is not what its record says": wrong, "it is not in its format": no, "its format is none of ours": vmdk, "it is larger than the volume": w.packed("large", noise(2*mib)),
	} {
		if err := w.create("v1", "a", mib, image); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(w.images[w.stores[0]].dir); err != nil || len(left) != 0 {
			t.Errorf("%s: the cache has %v, %v", name, left, err)
		}
	}
	if st, err := w.stores[0].Inspect(t.Context(), "v1"); err != nil || st.Present {
		t.Errorf("left %+v, %v", st, err)
	}
	if err := w.create("v1", "a", mib, w.packed("fits", raw)); err != nil {
		t.Error(err)
	}
}

// A back end that is full says so, and images that nobody uses make room.
func TestAnImageThatDoesNotFitOnTheDiskLeavesNothing(t *testing.T) {
	dir := mounted(t, "btrfs", 128*mib)
	w := newWorld(t, dir)
	cache := w.images[w.stores[0]]
	cache.bytesMax = 1 << 40
	if err := w.create("v1", "a", mib, w.image("i1", noise(mib))); err != nil {
		t.Fatal(err)
	}
	if err := w.create("v2", "a", 160*mib, w.image("i2", noise(160*mib))); !cloud.Is(err, cloud.KindExhausted) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(cache.dir); err != nil || len(left) != 0 {
		t.Errorf("the cache has %v, %v", left, err)
	}
	if err := w.create("v2", "a", mib, w.image("i3", noise(mib))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
