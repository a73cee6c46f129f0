package hostagent

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// powercap writes a tree as the kernel's.
func powercap(t *testing.T, zones map[string][3]string) string {
	t.Helper()
	dir := t.TempDir()
	for zone, files := range zones {
		if err := os.MkdirAll(filepath.Join(dir, zone), 0o755); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"name", "energy_uj", "max_energy_range_uj"} {
			if err := os.WriteFile(filepath.Join(dir, zone, name), []byte(files[i]+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestRAPLCountsPackagesAndMemoryOnceOrElseThePlatform(t *testing.T) {
	const wraps = "262143328850"
	before := readRAPL(powercap(t, map[string][3]string{
		"intel-rapl:0": {"package-0", "1000000", wraps}, "intel-rapl:0:0": {"core", "900000", wraps}, "intel-rapl:0:1": {"dram", "0", wraps},
		"intel-rapl:1": {"package-1", "262143000000", wraps},
	}))
	now := readRAPL(powercap(t, map[string][3]string{
		"intel-rapl:0": {"package-0", "401000000", wraps}, "intel-rapl:0:0": {"core", "300000000", wraps}, "intel-rapl:0:1": {"dram", "50000000", wraps},
		"intel-rapl:1": {"package-1", "349671150", wraps}, // began anew: 0.32885 J to the end, then 349.671150
	}))
	rename := func(in map[string]raplCounter) map[string]raplCounter { // the trees have different places
		out := map[string]raplCounter{}
		for path, c := range in {
			out[filepath.Base(path)] = c
		}
		return out
	}
	if got := raplWatts(rename(before), rename(now), 10*time.Second); got < 79.99 || got > 80.01 {
		t.Errorf("%g W, want (400 + 50 + 350) J in 10 s", got)
	}
	if got := raplWatts(nil, now, time.Second); got != 0 {
		t.Errorf("%g W from the first look", got)
	}
	platform := readRAPL(powercap(t, map[string][3]string{"intel-rapl:0": {"package-0", "1", wraps}, "intel-rapl:1": {"psys", "7000000", wraps}}))
	if len(platform) != 1 {
		t.Errorf("counters %v, want the platform's alone", platform)
	}
	if none := readRAPL(t.TempDir()); len(none) != 0 {
		t.Errorf("counters %v of a machine without", none)
	}
}
