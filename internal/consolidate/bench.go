package consolidate

import "math"

// HistoryLength is how many steps of history deciders look at; it is what the paper's build kept.
const HistoryLength = 30

// Bench is where moves are tried before they are made: a copy of who is on which host, with the sums that the questions need. Trying
// a guest on a host costs no more than adding its numbers.
type Bench struct {
	f     *Fleet
	hosts []benchHost
	// meanMigration takes the mean guest's migration for a host's, as Neat does, instead of the slowest one in whole steps.
	meanMigration bool
}

type benchHost struct {
	guests  []GuestIndex
	asked   float64                // CPU that the guests ask for
	granted float64                // the same, each guest's capped at a core's speed
	heldMiB float64                // memory of guests here and of those that leave: it is theirs until they are gone
	history [HistoryLength]float64 // utilisation, the current step last
	depth   int                    // how many of the history's newest steps count: from the first that is not 0
}

// NewBench lays a fleet out.
func NewBench(f *Fleet) *Bench {
	b := &Bench{f: f, hosts: make([]benchHost, len(f.Hosts))}
	for h := range f.Hosts {
		b.hosts[h].guests = append([]GuestIndex(nil), f.Hosts[h].Guests...)
		b.recount(HostIndex(h))
	}
	return b
}

// recount sums a host up anew. Sums are never subtracted from: what is left would drift away from the sum of what is there.
func (b *Bench) recount(h HostIndex) {
	host := &b.hosts[h]
	held := host.heldMiB
	*host = benchHost{guests: host.guests}
	for _, g := range host.guests {
		b.count(host, h, g)
	}
	host.heldMiB = max(held, host.heldMiB)
}

func (b *Bench) count(host *benchHost, h HostIndex, g GuestIndex) {
	guest := &b.f.Guests[g]
	host.asked += guest.Demand
	host.granted += b.grant(h, guest.Demand)
	host.heldMiB += guest.RAMMiB
	host.depth = max(host.depth, addHistory(&host.history, guest, b.f.Hosts[h].CPU))
}

// addHistory adds a guest's use to a host's utilisation and returns how far back the guest used anything.
func addHistory(history *[HistoryLength]float64, guest *Guest, capacity float64) (depth int) {
	n := min(len(guest.History), HistoryLength)
	for k, share := range guest.History[len(guest.History)-n:] {
		history[HistoryLength-n+k] += share * guest.CPU / capacity
		if share != 0 && depth == 0 {
			depth = n - k
		}
	}
	return depth
}

// grant caps a demand at the speed of a host's core.
func (b *Bench) grant(h HostIndex, demand float64) float64 {
	if core := b.f.Hosts[h].CPUCore; core > 0 {
		return min(demand, core)
	}
	return demand
}

// Guests returns who is on a host now; the slice is the bench's own.
func (b *Bench) Guests(h HostIndex) []GuestIndex { return b.hosts[h].guests }

// Asked returns the CPU that the guests on a host ask for together.
func (b *Bench) Asked(h HostIndex) float64 { return b.hosts[h].asked }

// Add puts a guest on a host, last in its list. A guest may be on two benches' hosts at once: where it is and where it is tried.
func (b *Bench) Add(h HostIndex, g GuestIndex) {
	host := &b.hosts[h]
	host.guests = append(host.guests, g)
	b.count(host, h, g)
}

// Remove takes a guest off a host. The memory of one that really is there stays held: it is free only when the move is over.
func (b *Bench) Remove(h HostIndex, g GuestIndex) {
	host := &b.hosts[h]
	for i, on := range host.guests {
		if on == g {
			host.guests = append(host.guests[:i], host.guests[i+1:]...)
			b.recount(h)
			if b.f.Guests[g].Host != h {
				host.heldMiB -= b.f.Guests[g].RAMMiB // was only tried
			}
			return
		}
	}
}

// Load returns what a detector sees of a host as it is on the bench.
func (b *Bench) Load(h HostIndex) Load {
	host := &b.hosts[h]
	return Load{
		Now:            host.asked / b.f.Hosts[h].CPU,
		History:        host.history[HistoryLength-host.depth:],
		MigrationSteps: b.migrationSteps(h, 0),
	}
}

// LoadWith returns what a detector would see with one more guest on a host.
func (b *Bench) LoadWith(h HostIndex, g GuestIndex, scratch *[HistoryLength]float64) Load {
	host, guest := &b.hosts[h], &b.f.Guests[g]
	*scratch = host.history
	depth := max(host.depth, addHistory(scratch, guest, b.f.Hosts[h].CPU))
	return Load{
		Now:            (host.asked + guest.Demand) / b.f.Hosts[h].CPU,
		History:        scratch[HistoryLength-depth:],
		MigrationSteps: b.migrationSteps(h, guest.RAMMiB),
	}
}

// migrationSteps is how many steps a migration away from a host takes: in the paper that of its largest guest, in whole steps. with is
// the memory of a guest that is tried on the host, 0 for none.
func (b *Bench) migrationSteps(h HostIndex, with float64) float64 {
	largest, sum, n := with, with, 0
	if with > 0 {
		n = 1
	}
	for _, g := range b.hosts[h].guests {
		mib := b.f.Guests[g].RAMMiB
		largest = max(largest, mib)
		sum += mib
		n++
	}
	perStep := b.f.Hosts[h].MigrationMiBps * b.f.StepSeconds
	switch {
	case perStep <= 0 || n == 0:
		return 0
	case b.meanMigration:
		return sum / float64(n) / perStep
	}
	return math.Ceil(largest / perStep)
}

// Fits tells whether a host has room for a guest right now: a core fast enough, CPU free, and memory where it is limited.
func (b *Bench) Fits(h HostIndex, g GuestIndex) bool {
	spec, host, guest := &b.f.Hosts[h], &b.hosts[h], &b.f.Guests[g]
	if spec.CPUCore > 0 && guest.Demand > spec.CPUCore {
		return false
	}
	if spec.CPU-host.granted < guest.Demand {
		return false
	}
	return spec.RAMMiB == 0 || host.heldMiB+guest.RAMMiB <= spec.RAMMiB
}
