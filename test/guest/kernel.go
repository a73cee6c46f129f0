package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is a Debian cloud kernel.
type kernel struct {
	release string // 6.1.0-56-cloud-amd64
	image   string // path of the bootable kernel
	modules string // the directory of its modules
}

// wantedModules are the drivers of the hardware a guest may have. What they depend on is added; what the kernel has built in is left out.
var wantedModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "sr_mod", "ahci", "ata_piix", "virtio_balloon", "virtio-rng",
	"button", "evdev", "pvpanic-mmio", "virtio_console", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "isofs", "crc32c-intel",
}

// findKernel picks the newest cloud kernel of the first root that has one: the machine's own, then the one that
// scripts/install-lab-deps.sh unpacked into the cache.
func findKernel(roots ...string) (kernel, error) {
	for _, root := range roots {
		images, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*-cloud-amd64"))
		if err != nil {
			return kernel{}, err
		}
		slices.SortFunc(images, compareVersions)
		for _, image := range slices.Backward(images) {
			release := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
			modules := filepath.Join(root, "lib/modules", release)
			if _, err := os.Stat(filepath.Join(modules, "modules.dep")); err == nil {
				return kernel{release: release, image: image, modules: modules}, nil
			}
		}
	}
	return kernel{}, errors.New("no cloud kernel found: scripts/install-lab-deps.sh gets one")
}

// Kernel returns the path of the bootable kernel that test guests have.
func Kernel() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	k, err := findKernel("/", filepath.Join(filepath.Dir(cache), "kernel"))
	return k.image, err
}

// compareVersions orders file names with numbers in them by the numbers' values.
func compareVersions(a, b string) int {
	return slices.Compare(numbers(a), numbers(b))
}

func numbers(s string) []int {
	var out []int
	for _, field := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		n := 0
		fmt.Sscanf(field, "%d", &n)
		out = append(out, n)
	}
	return out
}

// moduleFiles lists the files of the wanted modules and of all they need, each after what it needs.
func (k kernel) moduleFiles() ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{} // file -> files, nearest first
	byName := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		file, deps, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		needs[file] = strings.Fields(deps)
		byName[moduleName(file)] = file
	}
	var order []string
	for _, want := range wantedModules {
		file, ok := byName[moduleName(want)]
		if !ok {
			continue // built in, or not made for this kernel
		}
		// depmod lists all that a module needs, the most basic last.
		for _, f := range slices.Backward(append([]string{file}, needs[file]...)) {
			if !slices.Contains(order, f) {
				order = append(order, f)
			}
		}
	}
	return order, nil
}

// moduleName is the kernel's name of a module file; it does not tell - from _.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
