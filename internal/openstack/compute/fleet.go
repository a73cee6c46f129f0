package compute

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// binaryCompute is the only kind of service godwit's os-services knows.
const binaryCompute = "nova-compute"

// A fleet answers questions about hosts from one view, working each out once per request.
type fleet struct {
	view       store.View
	aggregates []cloud.Aggregate
	loaded     bool
	zones      map[cloud.HostName]string
}

func (f *fleet) host(name cloud.HostName) (*cloud.Host, bool) {
	return store.Lookup(f.view, tables.Hosts, name)
}

// up reports whether the host's agent is connected and no operator declared the host down.
func (f *fleet) up(h *cloud.Host) bool {
	connected := tables.Connected(f.view, h.Name)
	return connected && !h.ForcedDown
}

// zone returns the host's availability zone.
func (f *fleet) zone(name cloud.HostName) string {
	if zone, ok := f.zones[name]; ok {
		return zone
	}
	if !f.loaded {
		for _, a := range store.All(f.view, tables.Aggregates) {
			f.aggregates = append(f.aggregates, *a)
		}
		f.loaded, f.zones = true, map[cloud.HostName]string{}
	}
	zone := ""
	if h, ok := f.host(name); ok {
		zone = placement.ZoneOf(*h, f.aggregates)
	}
	f.zones[name] = zone
	return zone
}

// status returns a host's state as servers show it (host_status, 2.16).
func (f *fleet) status(name cloud.HostName) string {
	h, ok := f.host(name)
	switch {
	case !ok:
		return ""
	case h.ForcedDown:
		return "DOWN"
	case h.Disabled:
		return "MAINTENANCE"
	case f.up(h):
		return "UP"
	}
	return "UNKNOWN"
}
