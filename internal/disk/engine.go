package disk

import (
	"context"
	"os"
	"strings"
)

// Engine is how QEMU does I/O on a store's file system.
type Engine struct {
	IO    string // "io_uring", or "threads" where the kernel refuses rings
	Cache string // "none" (O_DIRECT), or "writeback" where the file system cannot
	Why   string // empty for the best pair; else why it is not
}

// enginesTried are the pairs in order of preference. Both are proved by doing one read, because kernel settings, seccomp filters and file
// systems may each refuse.
var enginesTried = []Engine{
	{IO: "io_uring", Cache: "none"},
	{IO: "io_uring", Cache: "writeback"},
	{IO: "threads", Cache: "none"},
	{IO: "threads", Cache: "writeback"},
}

// probeEngine finds the first engine that works on the directory that holds disks.
func (s *Store) probeEngine(ctx context.Context) (Engine, error) {
	f, err := os.CreateTemp(s.path(instancesDir), "probe-*"+tempSuffix)
	if err != nil {
		return Engine{}, err
	}
	defer os.Remove(f.Name())
	const probeBytes = 1 << 20
	err = f.Truncate(probeBytes)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Engine{}, err
	}
	var why []string
	for _, e := range enginesTried {
		err = s.run(ctx, "bench", "-q", "-f", FormatRaw, "-c", "1", "-d", "1", "-s", "4096", "-t", e.Cache, "-i", e.IO, f.Name())
		if err == nil {
			e.Why = strings.Join(why, "; ")
			s.log.Info("disk engine", "io", e.IO, "cache", e.Cache, "why_not_better", e.Why)
			return e, nil
		}
		why = append(why, e.IO+" with cache="+e.Cache+": "+err.Error())
	}
	return Engine{}, err
}
