package placement

import (
	"math"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Policy is the operator's part of the decision: how much of a host may be promised, and what makes one host better than another.
// The zero Policy promises nothing; start from DefaultPolicy. Whoever takes a Policy from outside checks it first: ratios are finite and
// above 0, reserves not negative.
type Policy struct {
	// CPURatio, RAMRatio and DiskRatio say how much is promised for each unit that is there. 1 promises exactly what exists.
	CPURatio, RAMRatio, DiskRatio float64
	// ReservedRAMMiB and ReservedDiskGiB are kept for the host itself and subtracted before the ratio applies.
	ReservedRAMMiB, ReservedDiskGiB int
	// Weights rank the hosts that fit.
	Weights Weights
}

// Weights say how much each consideration counts. Each consideration is a number from 0 (worst) to 1 (best); a negative weight turns
// it round, so a negative RAM packs servers instead of spreading them.
type Weights struct {
	RAM, CPU, Disk float64 // share that stays free
	Moves          float64 // few unfinished migrations towards the host
	Group          float64 // soft affinity and soft anti-affinity
}

// DefaultPolicy returns Nova's present defaults: processors are shared fourfold, memory and disk are promised once, half a GiB of memory
// is left to the host. (Nova's older 16.0 and 1.5 date from before it could migrate its way out of a crowded host; a guest that
// swaps on its host is worse than a refusal.) Servers are spread. Group outweighs the rest together: a soft rule is a wish of the
// owner, the others are taste.
func DefaultPolicy() Policy {
	return Policy{
		CPURatio: 4, RAMRatio: 1, DiskRatio: 1, ReservedRAMMiB: 512,
		Weights: Weights{RAM: 1, CPU: 1, Disk: 0.5, Moves: 0.5, Group: 4},
	}
}

// Capacity returns how much may be promised on a host that reports r.
func (p Policy) Capacity(r cloud.HostReport) cloud.Resources {
	return cloud.Resources{
		VCPUs:   scaled(r.VCPUs, p.CPURatio),
		RAMMiB:  scaled(r.RAMMiB-p.ReservedRAMMiB, p.RAMRatio),
		DiskGiB: scaled(r.DiskGiB-p.ReservedDiskGiB, p.DiskRatio),
	}
}

// scaled rounds down: a promise is whole or not made. The small addend forgives binary fractions (10 * 0.7 must be 7).
func scaled(amount int, ratio float64) int {
	return max(0, int(math.Floor(float64(amount)*ratio+1e-9)))
}
