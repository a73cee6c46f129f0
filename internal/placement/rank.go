package placement

import (
	"cmp"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Rank returns one verdict for each host of the snapshot: those that fit first, best first, equals by name; then the refused by name.
func Rank(p Policy, snap *cloud.Snapshot, req Request) []cloud.Verdict {
	c := newChecker(p, snap, req)
	out := make([]cloud.Verdict, 0, len(snap.Hosts))
	for i := range snap.Hosts {
		h := &snap.Hosts[i]
		v := cloud.Verdict{Host: h.Host.Name, Reasons: c.check(h)}
		if len(v.Reasons) == 0 {
			v.Fits, v.Score = true, c.score(h)
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b cloud.Verdict) int {
		switch {
		case a.Fits != b.Fits:
			if a.Fits {
				return -1
			}
			return 1
		case a.Score != b.Score: // both 0 for the refused
			return cmp.Compare(b.Score, a.Score)
		}
		return cmp.Compare(a.Host, b.Host)
	})
	return out
}

// score weighs a host that fits. Each consideration is absolute, not relative to the other hosts, so a host's score does not change
// because another host came or went.
func (c *checker) score(h *cloud.HostView) float64 {
	w := c.policy.Weights
	capacity, free := c.free(h)
	left := minus(free, c.req.Resources)
	return w.RAM*share(left.RAMMiB, capacity.RAMMiB) +
		w.CPU*share(left.VCPUs, capacity.VCPUs) +
		w.Disk*share(left.DiskGiB, capacity.DiskGiB) +
		w.Moves/float64(1+movesTowards(h.Usage, c.req.Server)) +
		w.Group*c.group.score(h.Host.Name) +
		c.reserveScore(h)
}

// share returns part/whole within 0 and 1; 0 of nothing is 0.
func share(part, whole int) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, max(0, float64(part)/float64(whole)))
}
