package cloud

// NIC is all that a host must know to give a server one network interface: the port with its network, subnets and rules resolved. It is
// derived, never stored; the wire's NIC mirrors it.
type NIC struct {
	Port         PortID       `json:"port"`
	MAC          string       `json:"mac"`
	MTU          int          `json:"mtu"`
	Network      NetworkID    `json:"network"`
	VNI          int          `json:"vni"`
	Addresses    []NICAddress `json:"addresses"`
	Rules        []NICRule    `json:"rules"`         // the traffic that is allowed; everything else is dropped
	PortSecurity bool         `json:"port_security"` // false: no rules and no anti-spoofing
	AllowedPairs []string     `json:"allowed_pairs"` // further addresses (IP or CIDR) the NIC may send from
}

// NICAddress is one address of a NIC with what its subnet says.
type NICAddress struct {
	Subnet      SubnetID `json:"subnet"`
	Address     string   `json:"address"`
	Prefix      int      `json:"prefix"`
	Gateway     string   `json:"gateway,omitempty"`
	DNS         []string `json:"dns,omitempty"`
	Routes      []Route  `json:"routes,omitempty"`
	DHCP        bool     `json:"dhcp"`
	DHCPAddress string   `json:"dhcp_address,omitempty"` // where hosts answer DHCP and metadata requests from; set exactly when DHCP
}

// NICRule is a security group rule with remote groups replaced by their members' addresses.
type NICRule struct {
	Direction   string   `json:"direction"`    // ingress, egress
	EtherType   string   `json:"ethertype"`    // IPv4, IPv6
	Protocol    string   `json:"protocol"`     // empty: any; tcp, udp, icmp ... or a number
	PortMin     int      `json:"port_min"`     // -1: any; for ICMP the type
	PortMax     int      `json:"port_max"`     // -1: any; for ICMP the code
	RemoteCIDRs []string `json:"remote_cidrs"` // empty: any
}

// The device owners godwit gives to ports.
const (
	// DeviceOwnerDHCP marks the port whose address a subnet's DHCP and metadata answer from. Its DeviceID is DHCPDevice(subnet).
	DeviceOwnerDHCP = "network:dhcp"
	// DeviceOwnerComputePrefix begins the owner of a server's port; an availability zone follows.
	DeviceOwnerComputePrefix = "compute:"
)

// DHCPDevice is the DeviceID of a subnet's DHCP port.
func DHCPDevice(s SubnetID) string { return "dhcp-" + string(s) }
