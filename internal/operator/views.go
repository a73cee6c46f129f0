package operator

import (
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Host is one host in the overview.
type Host struct {
	Name           cloud.HostName  `json:"name"`
	Up             bool            `json:"up"`
	Disabled       bool            `json:"disabled"`
	DisabledReason string          `json:"disabled_reason,omitempty"`
	Zone           string          `json:"zone"`
	Virtualization string          `json:"virtualization,omitempty"`
	Address        string          `json:"address,omitempty"`
	Capacity       cloud.Resources `json:"capacity"` // what may be promised in all, after ratios and reserves
	Claimed        cloud.Resources `json:"claimed"`
	Servers        int             `json:"servers"` // that live there
	Arriving       int             `json:"arriving"`
	AgentVersion   string          `json:"agent_version,omitempty"`
	Libvirt        string          `json:"libvirt,omitempty"`
	QEMU           string          `json:"qemu,omitempty"`
}

// Server is the short form of a server that the stream shows.
type Server struct {
	ID      cloud.ServerID   `json:"id"`
	Name    string           `json:"name"`
	VMState cloud.VMState    `json:"vm_state"`
	Task    cloud.TaskState  `json:"task"`
	Host    cloud.HostName   `json:"host"`
	Power   cloud.PowerState `json:"power"`
	Fault   string           `json:"fault,omitempty"`
	Deleted bool             `json:"deleted,omitempty"`
}

// Migration is a migration with everything known about how it goes. Durations are seconds.
type Migration struct {
	ID       cloud.MigrationID     `json:"id"`
	Number   int                   `json:"number"`
	Server   cloud.ServerID        `json:"server"`
	Name     string                `json:"name,omitempty"` // the server's
	Source   cloud.HostName        `json:"source"`
	Target   cloud.HostName        `json:"target,omitempty"`
	Kind     cloud.MigrationKind   `json:"kind,omitempty"`
	Status   cloud.MigrationStatus `json:"status"`
	Final    bool                  `json:"final"`
	Error    string                `json:"error,omitempty"`
	Created  time.Time             `json:"created"`
	Finished time.Time             `json:"finished,omitzero"`
	Figures  *Figures              `json:"figures,omitempty"`
	Phases   []Phase               `json:"phases,omitempty"`
}

// Figures are QEMU's, in bytes and bytes per second, with an estimate of what is left.
type Figures struct {
	MemoryTotal     int64   `json:"memory_total"`
	MemoryRemaining int64   `json:"memory_remaining"`
	MemoryRate      int64   `json:"memory_rate"`
	DirtyRate       int64   `json:"dirty_rate"`
	Iterations      int64   `json:"iterations"`
	DiskTotal       int64   `json:"disk_total"`
	DiskRemaining   int64   `json:"disk_remaining"`
	DiskRate        int64   `json:"disk_rate"`
	Downtime        float64 `json:"downtime"`
	Elapsed         float64 `json:"elapsed"`
	ETA             float64 `json:"eta,omitempty"` // 0: unknown, or it does not converge
}

// Phase is a timed step of a migration.
type Phase struct {
	Name  string  `json:"name"`
	Took  float64 `json:"took"`
	Error string  `json:"error,omitempty"`
}

func hostView(h *cloud.HostView, policy placement.Policy, servers int) Host {
	arriving := 0
	for _, c := range h.Usage.Claims {
		if c.Migration != "" {
			arriving++
		}
	}
	return Host{
		Name: h.Host.Name, Up: h.Up, Disabled: h.Host.Disabled, DisabledReason: h.Host.DisabledReason, Zone: h.Zone,
		Virtualization: h.Report.Virtualization, Address: h.Report.MigrationAddress, Capacity: policy.Capacity(h.Report), Claimed: h.Usage.Total(),
		Servers: servers, Arriving: arriving, AgentVersion: h.Report.AgentVersion, Libvirt: h.Report.LibvirtVersion, QEMU: h.Report.QEMUVersion,
	}
}

func serverView(s *cloud.Server) Server {
	out := Server{ID: s.ID, Name: s.Name, VMState: s.VMState, Task: s.Task, Host: s.Host, Power: s.Power, Deleted: s.VMState == cloud.VMDeleted}
	if s.Fault != nil {
		out.Fault = s.Fault.Message
	}
	return out
}

func migrationView(v store.View, m *cloud.Migration) Migration {
	out := Migration{
		ID: m.ID, Number: m.Number, Server: m.Server, Source: m.Source, Target: m.Target, Kind: m.Kind, Status: m.Status, Final: m.Status.Final(),
		Error: m.Error, Created: m.Created, Finished: m.Finished,
	}
	if s, ok := store.Lookup(v, tables.Servers, m.Server); ok {
		out.Name = s.Name
	}
	if m.Totals != nil {
		out.Figures = figures(*m.Totals, true)
	} else if p, ok := store.Lookup(v, tables.Progress, m.ID); ok {
		out.Figures = figures(p.Stats, false)
	}
	for _, p := range m.Phases {
		out.Phases = append(out.Phases, Phase{Name: p.Name, Took: p.Took.Seconds(), Error: p.Error})
	}
	return out
}

func figures(s cloud.MigrationStats, final bool) *Figures {
	f := &Figures{
		MemoryTotal: s.MemoryTotal, MemoryRemaining: s.MemoryRemaining, MemoryRate: s.MemoryBytesPerSecond, DirtyRate: s.DirtyBytesPerSecond,
		Iterations: s.MemoryIterations, DiskTotal: s.DiskTotal, DiskRemaining: s.DiskRemaining, DiskRate: s.DiskBytesPerSecond,
		Downtime: s.Downtime.Seconds(), Elapsed: s.Elapsed.Seconds(),
	}
	if !final {
		f.ETA = estimate(s).Seconds()
	}
	return f
}

// estimate is how long the rest takes at the present rates: disk and memory are copied one after the other or share the link, and what the guest
// dirties must be copied again. 0 means that nobody can tell, or that the guest dirties faster than can be copied.
func estimate(s cloud.MigrationStats) time.Duration {
	var seconds float64
	if s.DiskRemaining > 0 {
		if s.DiskBytesPerSecond <= 0 {
			return 0
		}
		seconds += float64(s.DiskRemaining) / float64(s.DiskBytesPerSecond)
	}
	if s.MemoryRemaining > 0 {
		rate := s.MemoryBytesPerSecond - s.DirtyBytesPerSecond
		if rate <= 0 {
			return 0
		}
		seconds += float64(s.MemoryRemaining) / float64(rate)
	}
	return time.Duration(seconds * float64(time.Second))
}
