package hostagent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// raplDir is where the kernel shows the energy counters of processors (RAPL), of Intel's and AMD's alike.
const raplDir = "/sys/class/powercap"

// A raplCounter is one counter of microjoules, which begins anew at its range.
type raplCounter struct{ joules, wraps float64 }

// readRAPL returns the counters by name: of the whole platform where there is one, else of all packages and memories. Empty when there are none, or
// only root may read them and this is not root.
func readRAPL(dir string) map[string]raplCounter {
	zones, err := filepath.Glob(filepath.Join(dir, "intel-rapl:*"))
	if err != nil {
		return nil
	}
	parts, platform := map[string]raplCounter{}, map[string]raplCounter{}
	for _, zone := range zones {
		name, err := os.ReadFile(filepath.Join(zone, "name"))
		if err != nil {
			continue
		}
		c, ok := readRAPLCounter(zone)
		switch kind := strings.TrimSpace(string(name)); {
		case !ok:
		case strings.HasPrefix(kind, "psys"):
			platform[zone] = c
		case strings.HasPrefix(kind, "package") || strings.HasPrefix(kind, "dram"): // core and uncore are parts of a package
			parts[zone] = c
		}
	}
	if len(platform) > 0 {
		return platform
	}
	return parts
}

func readRAPLCounter(zone string) (raplCounter, bool) {
	number := func(file string) (float64, bool) {
		raw, err := os.ReadFile(filepath.Join(zone, file))
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
		return float64(n) / 1e6, err == nil
	}
	joules, ok := number("energy_uj")
	wraps, _ := number("max_energy_range_uj")
	return raplCounter{joules, wraps}, ok
}

// raplWatts returns the mean power between two readings, 0 when a counter is new or gone, or went back without a range to explain it.
func raplWatts(before, now map[string]raplCounter, span time.Duration) float64 {
	if len(now) == 0 || len(before) != len(now) || span <= 0 {
		return 0
	}
	sum := 0.0
	for name, c := range now {
		was, ok := before[name]
		used := c.joules - was.joules
		if used < 0 {
			used += c.wraps
		}
		if !ok || used < 0 {
			return 0
		}
		sum += used
	}
	return sum / span.Seconds()
}
