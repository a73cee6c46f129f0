package consolidate

import "math/rand"

// Static moves nothing: a guest stays where it boots, on the first host with room. It is what the paper compares with: DVFS when
// hosts without guests sleep and the others draw by load, NPA when every host draws full power always.
type Static struct{}

// Plan implements Planner.
func (Static) Plan(*Fleet, *rand.Rand) []Move { return nil }

// Observe implements Planner.
func (Static) Observe(*Fleet) {}

// Place implements Planner.
func (Static) Place(f *Fleet, g GuestIndex) HostIndex {
	b := NewBench(f)
	for h := range f.Hosts {
		if b.Fits(HostIndex(h), g) && f.allows(g, HostIndex(h)) {
			return HostIndex(h)
		}
	}
	return Nowhere
}
