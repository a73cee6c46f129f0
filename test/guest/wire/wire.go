// Package wire is what the test guest and those who talk to it say to each other: its ports, and the answer to the control command "status".
// The commands are described in init/services.go. It knows no other package: it is part of the guest's user space too.
package wire

// Ports the guest serves.
const (
	EchoPort    = 7
	ControlPort = 9999
)

// Status is what a guest says of itself.
type Status struct {
	BootID       string `json:"boot_id"`
	Hostname     string `json:"hostname,omitempty"`
	UptimeMS     int64  `json:"uptime_ms"`
	UnixMS       int64  `json:"unix_ms"`
	Ticks        uint64 `json:"ticks"`
	LogLast      uint64 `json:"log_last"`
	LogErrors    uint64 `json:"log_errors"`
	DirtyRate    int64  `json:"dirty_rate"` // bytes of memory per second
	DirtiedBytes uint64 `json:"dirtied_bytes"`
	FreeBytes    int64  `json:"free_bytes"`
	Orders       string `json:"orders"`
	AgentPings   uint64 `json:"agent_pings"` // that the guest agent has answered
	NetworkStatus
}

// NetworkStatus is the network's part of a Status.
type NetworkStatus struct {
	IP      string   `json:"ip,omitempty"`
	MAC     string   `json:"mac,omitempty"`
	MTU     int      `json:"mtu,omitempty"`
	Gateway string   `json:"gateway,omitempty"`
	Routes  []string `json:"routes,omitempty"`
	// Renewals counts leases renewed after the first.
	Renewals int `json:"renewals"`
	// MetadataSeen says that the metadata service answered; UUID and Name are from it or the config drive.
	MetadataSeen bool   `json:"metadata_seen"`
	UUID         string `json:"uuid,omitempty"`
	Name         string `json:"name,omitempty"`
}
