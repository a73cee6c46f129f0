package guest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	dir := t.TempDir()
	dep := "kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n" +
		"kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\nkernel/drivers/virtio/virtio_ring.ko:\n" +
		"kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n"
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), []byte(dep), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := kernel{modules: dir}.moduleFiles()
	want := []string{
		"kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko",
		"kernel/drivers/virtio/virtio_pci.ko", "kernel/drivers/block/virtio_blk.ko",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("order %v, %v; want %v", got, err, want)
	}
}

func TestNewestKernelIsChosenByNumber(t *testing.T) {
	root := t.TempDir()
	for _, release := range []string{"6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "5.10.0-99-cloud-amd64"} {
		modules := filepath.Join(root, "lib/modules", release)
		for _, dir := range []string{filepath.Join(root, "boot"), modules} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, file := range []string{filepath.Join(root, "boot/vmlinuz-"+release), filepath.Join(modules, "modules.dep")} {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	k, err := findKernel(t.TempDir(), root)
	if err != nil || k.release != "6.1.0-56-cloud-amd64" {
		t.Errorf("chose %q, %v", k.release, err)
	}
}

func TestImageIsBuiltOnceAndSmall(t *testing.T) {
	first, err := Image(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	const sizeMax = 60 << 20
	if info.Size() > sizeMax {
		t.Errorf("image has %d bytes", info.Size())
	}
	second, err := Image(t.Context())
	if err != nil || second != first {
		t.Errorf("built again: %s, then %s, %v", first, second, err)
	}
	again, err := os.Stat(second)
	if err != nil || !os.SameFile(again, info) {
		t.Errorf("the cached image was written again: %v", err)
	}
}

func TestImagesThatNobodyUsesArePruned(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{"old": 2 * unusedMax, "new": time.Hour} {
		file := filepath.Join(dir, "godwit-guest-"+name+".qcow2")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	prune(dir, now.Add(-unusedMax))
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "godwit-guest-new.qcow2" {
		t.Errorf("left: %v, %v", left, err)
	}
}
