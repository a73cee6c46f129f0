package placement

import (
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// PurposeCold looks for a host for a server whose power will be off on the way.
const PurposeCold Purpose = "cold-move"

// ForColdMove returns the request that finds s a host for m, a cold migration or a resize. The guest begins anew there, so nothing of what a live migration asks
// of two hosts matters but the processor model that the guest knows. A server's own host is offered to a resize only, and only if m allows it; tried are hosts
// that have failed already.
func ForColdMove(s *cloud.Server, m *cloud.Migration, tried []cloud.HostName) Request {
	after := *s
	if m.NewFlavor != nil {
		after.Flavor = *m.NewFlavor
	}
	r := ForServer(&after)
	r.Purpose, r.CPUModel, r.ForcedHost, r.Exclude = PurposeCold, s.CPUModel, m.AskedTarget, slices.Clone(tried)
	if m.Type != cloud.TypeResize || !m.SameHost {
		r.Exclude = append(r.Exclude, m.Source)
	}
	return r
}
