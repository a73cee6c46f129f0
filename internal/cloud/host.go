package cloud

import "time"

// Host is what operators say of a compute host. Written by the edge (operators) and, on first contact, by control.
type Host struct {
	Name           HostName  `json:"name"`
	ID             string    `json:"id"`         // UUID: hypervisor id from 2.53 on
	ServiceID      string    `json:"service_id"` // UUID: os-services id from 2.53 on
	Number         int       `json:"number"`     // integer id of older microversions, unique among hosts
	Zone           string    `json:"zone"`       // default availability zone, "nova"; an aggregate may override it
	Disabled       bool      `json:"disabled"`   // takes no new servers
	DisabledReason string    `json:"disabled_reason,omitempty"`
	ForcedDown     bool      `json:"forced_down"` // operators assert that it is dead and fenced
	Created        time.Time `json:"created"`
	Updated        time.Time `json:"updated"`
}

// HostReport is what a host says of itself. Owned by the host: Generation grows with each agent start, Seq with each report,
// and readers keep the greatest (Generation, Seq).
type HostReport struct {
	Host           HostName `json:"host"`
	Generation     int64    `json:"generation"`
	Seq            int64    `json:"seq"`
	AgentVersion   string   `json:"agent_version"`
	LibvirtVersion string   `json:"libvirt_version"`     // "9.0.0"
	QEMUVersion    string   `json:"qemu_version"`        // "7.2.0"
	Hypervisor     string   `json:"hypervisor"`          // "QEMU" (emulated) or "KVM", by proof: see Virtualization
	Virtualization string   `json:"virtualization"`      // "kvm" when a probe guest ran under KVM, else "tcg"
	Arch           string   `json:"arch"`                // "x86_64"
	CPUModels      []string `json:"cpu_models"`          // models this host can give a guest, by libvirt's names
	CPUModel       string   `json:"cpu_model,omitempty"` // what a guest gets here that asks for none
	CPUInfo        string   `json:"cpu_info"`            // JSON text as Nova's hypervisors show
	VCPUs          int      `json:"vcpus"`               // physical threads
	RAMMiB         int      `json:"ram_mib"`
	RAMFreeMiB     int      `json:"ram_free_mib"`
	DiskGiB        int      `json:"disk_gib"` // size of the file system that holds server disks
	DiskFreeGiB    int      `json:"disk_free_gib"`
	SharedDiskID   string   `json:"shared_disk_id,omitempty"` // identity of the disk directory when several hosts share it; empty when local
	// Shared says how the file system of the network is that the disk directory lies on; nil: the directory is local.
	Shared           *SharedStorage `json:"shared,omitempty"`
	MigrationAddress string         `json:"migration_address"` // IP for libvirt and QEMU traffic
	TunnelAddress    string         `json:"tunnel_address"`    // IP of the VXLAN end point
	// ManagementAddress is the IP address the agent dials from; where witnesses look for it.
	ManagementAddress string     `json:"management_address,omitempty"`
	SelfFencing       bool       `json:"self_fencing,omitempty"` // its agent stops servers whose disks nothing else guards when it is cut off
	Images            []string   `json:"images,omitempty"`       // SHA-512 of base images that other hosts may fetch from it
	PeerPort          int        `json:"peer_port,omitempty"`    // where, at MigrationAddress; 0: nowhere
	Running           int        `json:"running"`                // guests running
	WakeMACs          []string   `json:"wake_macs,omitempty"`    // interfaces that a magic packet wakes
	Load              [3]float64 `json:"load"`                   // load averages, 1, 5, 15 minutes
	UptimeSeconds     int64      `json:"uptime_seconds"`
	At                time.Time  `json:"at"` // when the server received it
}

// HostSession says that a host's agent is connected. The record is bound to a lease that the server holds while the stream is
// alive, so its presence means "up" and nobody has to compare clocks.
type HostSession struct {
	Host     HostName  `json:"host"`
	Endpoint string    `json:"endpoint"` // which server instance holds the stream
	Since    time.Time `json:"since"`
	Seen     time.Time `json:"seen"` // last heartbeat that was written (written at most every few seconds)
}

// Usage is what is claimed on one host, in one record so that a claim is one compare-and-swap.
type Usage struct {
	Host   HostName         `json:"host"`
	Claims map[string]Claim `json:"claims"` // by ClaimKey
}

// Claim is a reservation of a host's resources for a server: one while it lives there, a second one on the target while it moves.
type Claim struct {
	Server    ServerID    `json:"server"`
	Migration MigrationID `json:"migration,omitempty"` // set on the target of an unfinished move
	Resources Resources   `json:"resources"`
}

// ClaimKey names the claim of a server on a host. A server has at most one claim on each host.
func ClaimKey(id ServerID) string { return string(id) }

// Total returns the sum of all claims.
func (u Usage) Total() Resources {
	var sum Resources
	for _, c := range u.Claims {
		sum = sum.Add(c.Resources)
	}
	return sum
}

// Aggregate groups hosts under metadata; the key "availability_zone" makes it a zone.
type Aggregate struct {
	ID       AggregateID       `json:"id"`
	Number   int               `json:"number"`
	Name     string            `json:"name"`
	Hosts    []HostName        `json:"hosts"`
	Metadata map[string]string `json:"metadata"`
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
}

// MetaZone is the aggregate metadata key that names an availability zone.
const MetaZone = "availability_zone"

// DefaultZone is the availability zone of hosts that no aggregate places elsewhere.
const DefaultZone = "nova"

// ServerGroup holds an affinity policy. Members and the hosts they are placed on live in one record, so that placing two members at once is one compare-and-swap.
type ServerGroup struct {
	ID         GroupID                 `json:"id"`
	Name       string                  `json:"name"`
	Project    ProjectID               `json:"project"`
	User       UserID                  `json:"user"`
	Policy     GroupPolicy             `json:"policy"`
	MaxPerHost int                     `json:"max_per_host,omitempty"` // anti-affinity rule max_server_per_host, 2.64; 0 means 1
	Members    []ServerID              `json:"members"`
	Placed     map[ServerID][]HostName `json:"placed"` // hosts on which a member holds a claim
	Created    time.Time               `json:"created"`
}

// GroupPolicy is a server group's placement rule.
type GroupPolicy string

// The policies of Nova's server groups.
const (
	PolicyAffinity         GroupPolicy = "affinity"
	PolicyAntiAffinity     GroupPolicy = "anti-affinity"
	PolicySoftAffinity     GroupPolicy = "soft-affinity"
	PolicySoftAntiAffinity GroupPolicy = "soft-anti-affinity"
)
