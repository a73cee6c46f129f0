package placement

import (
	"maps"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Claim records in the host's usage, and in the server's group when it has one (group may be nil), that the server takes the resources there.
// migration is set on the target of a move and empty otherwise. Claiming again replaces the server's claim on that host. The maps reachable from
// the arguments are replaced, never written to, so snapshots that share them stay whole.
func Claim(usage *cloud.Usage, group *cloud.ServerGroup, c cloud.Claim) {
	claims := maps.Clone(usage.Claims)
	if claims == nil {
		claims = map[string]cloud.Claim{}
	}
	claims[cloud.ClaimKey(c.Server)] = c
	usage.Claims = claims
	if group == nil {
		return
	}
	placed := maps.Clone(group.Placed)
	if placed == nil {
		placed = map[cloud.ServerID][]cloud.HostName{}
	}
	if !slices.Contains(placed[c.Server], usage.Host) {
		placed[c.Server] = append(slices.Clone(placed[c.Server]), usage.Host)
	}
	group.Placed = placed
}

// Release removes the server's claim on the host, and the host from the server's places in the group (group may be nil). Releasing what
// is not claimed changes nothing. It reports whether anything changed.
func Release(usage *cloud.Usage, group *cloud.ServerGroup, server cloud.ServerID) bool {
	changed := false
	if _, ok := usage.Claims[cloud.ClaimKey(server)]; ok {
		claims := maps.Clone(usage.Claims)
		delete(claims, cloud.ClaimKey(server))
		usage.Claims, changed = claims, true
	}
	if group == nil || !slices.Contains(group.Placed[server], usage.Host) {
		return changed
	}
	placed := maps.Clone(group.Placed)
	left := slices.DeleteFunc(slices.Clone(placed[server]), func(h cloud.HostName) bool { return h == usage.Host })
	if len(left) == 0 {
		delete(placed, server)
	} else {
		placed[server] = left
	}
	group.Placed = placed
	return true
}

// Settle turns the claim of a finished move into an ordinary one: the server lives here now. It reports whether anything changed.
func Settle(usage *cloud.Usage, server cloud.ServerID) bool {
	c, ok := usage.Claims[cloud.ClaimKey(server)]
	if !ok || c.Migration == "" {
		return false
	}
	c.Migration = ""
	Claim(usage, nil, c)
	return true
}
