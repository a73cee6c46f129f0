package operator

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// The states of a host.
const (
	HostUp         = "up"          // its agent is connected
	HostDown       = "down"        // its agent is not connected
	HostForcedDown = "forced-down" // an operator declared it dead
)

// Host is everything known of one compute host, in one row.
type Host struct {
	cloud.Host
	// State is HostUp, HostDown or HostForcedDown, or the power state of a host that rests: falling-asleep, asleep, waking.
	State string `json:"state"`
	// AvailabilityZone is the zone after aggregates; the record's own zone is the default.
	AvailabilityZone string `json:"availability_zone"`
	// Report is what the host last said of itself; absent when it never did.
	Report *cloud.HostReport `json:"report,omitempty"`
	// Session is the connection to its agent; absent when there is none.
	Session *cloud.HostSession `json:"session,omitempty"`
	// Power says whether it sleeps on purpose and what is known of waking it; absent while it was never asked to.
	Power *cloud.HostPower `json:"power,omitempty"`
	// Checkup is what was last found of its clock, its certificates and its ways to others; absent until it was looked at.
	Checkup *cloud.Checkup `json:"checkup,omitempty"`
	// Verdict is what the leader believes of the host's life; absent when it was never silent.
	Verdict *cloud.HostVerdict `json:"verdict,omitempty"`
	// Room is what may be promised to servers, what is, and what is left.
	Room Room `json:"room"`
	// Servers live here; MovesIn and MovesOut count the unfinished migrations towards and away from the host.
	Servers  int `json:"servers"`
	MovesIn  int `json:"moves_in"`
	MovesOut int `json:"moves_out"`
}

// Room is placement's arithmetic of a host: Capacity follows from the report and the policy, Claimed is the sum of the claims.
type Room struct {
	Capacity cloud.Resources `json:"capacity"`
	Claimed  cloud.Resources `json:"claimed"`
	Free     cloud.Resources `json:"free"` // may be negative after a ratio was lowered
}

// HostDetail is a Host with what is on it.
type HostDetail struct {
	Host
	Claims     map[string]cloud.Claim `json:"claims"`     // by server id
	Migrations []Migration            `json:"migrations"` // unfinished, from or to this host
}

func (s *Service) hostView(v store.View, h *cloud.Host) Host {
	out := Host{Host: *h, State: HostDown, AvailabilityZone: tables.Zone(v, h.Name), Servers: len(store.By(v, tables.Servers, tables.ByHost, h.Name))}
	if session, ok := store.Lookup(v, tables.HostSessions, h.Name); ok {
		out.Session = session
		if tables.Connected(v, h.Name) {
			out.State = HostUp
		}
	}
	if p, ok := store.Lookup(v, tables.HostPowers, h.Name); ok {
		out.Power = p
		if p.Resting() {
			out.State = string(p.State)
		}
	}
	if h.ForcedDown {
		out.State = HostForcedDown
	}
	out.Checkup, _ = store.Lookup(v, tables.Checkups, h.Name)
	out.Verdict, _ = store.Lookup(v, tables.HostVerdicts, h.Name)
	if report, ok := store.Lookup(v, tables.HostReports, h.Name); ok {
		out.Report, out.Room.Capacity = report, s.policy.Capacity(*report)
	}
	if u, ok := store.Lookup(v, tables.Usages, h.Name); ok {
		out.Room.Claimed = u.Total()
	}
	c, t := out.Room.Capacity, out.Room.Claimed
	out.Room.Free = cloud.Resources{VCPUs: c.VCPUs - t.VCPUs, RAMMiB: c.RAMMiB - t.RAMMiB, DiskGiB: c.DiskGiB - t.DiskGiB}
	for _, m := range unfinishedAt(v, h.Name) {
		if m.Source == h.Name {
			out.MovesOut++
		} else {
			out.MovesIn++
		}
	}
	return out
}

func unfinishedAt(v store.View, host cloud.HostName) []*cloud.Migration {
	var out []*cloud.Migration
	for _, status := range cloud.MigrationStatuses() {
		if status.Resting() {
			continue
		}
		// By status, because few migrations are unfinished at any time, while a host's history grows.
		for _, m := range store.By(v, tables.Migrations, tables.ByStatus, status) {
			if touches(m, host) {
				out = append(out, m)
			}
		}
	}
	return out
}

// listHosts answers with all hosts, by name.
func (s *Service) listHosts(w http.ResponseWriter, r *openstack.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	v := s.store.View()
	out := []Host{}
	for _, h := range store.All(v, tables.Hosts) {
		out = append(out, s.hostView(v, h))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"hosts": out})
}

func (s *Service) showHost(w http.ResponseWriter, r *openstack.Request) error {
	v, name := s.store.View(), r.PathValue("name")
	h, ok := store.Lookup(v, tables.Hosts, name)
	if !ok {
		return cloud.Errorf(cloud.KindNotFound, "host %s does not exist", name)
	}
	out := HostDetail{Host: s.hostView(v, h), Claims: map[string]cloud.Claim{}, Migrations: []Migration{}}
	if u, ok := store.Lookup(v, tables.Usages, h.Name); ok && u.Claims != nil {
		out.Claims = u.Claims
	}
	for _, m := range unfinishedAt(v, h.Name) {
		out.Migrations = append(out.Migrations, migrationView(v, m))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]HostDetail{"host": out})
}
