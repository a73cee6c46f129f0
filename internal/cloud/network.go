package cloud

import "time"

// Network is a layer-2 segment that guests share across hosts, carried by VXLAN.
type Network struct {
	ID           NetworkID `json:"id"`
	Name         string    `json:"name"`
	Description  string    `json:"description,omitempty"`
	Project      ProjectID `json:"project"`
	VNI          int       `json:"vni"` // VXLAN network identifier, 1..2^24-1, unique
	MTU          int       `json:"mtu"`
	AdminUp      bool      `json:"admin_up"`
	Shared       bool      `json:"shared"`
	External     bool      `json:"external"`
	PortSecurity bool      `json:"port_security"`
	DNSDomain    string    `json:"dns_domain,omitempty"`
	Tags         []string  `json:"tags,omitempty"`
	Created      time.Time `json:"created"`
	Updated      time.Time `json:"updated"`
	Revision     int       `json:"revision"`

	// Subnets are the network's subnets in the order of their creation, so that a transaction finds them by one read and collides
	// with one that adds or removes a subnet.
	Subnets []SubnetID `json:"subnets,omitempty"`
}

// AddressRange is an inclusive range of addresses.
type AddressRange struct {
	Start string `json:"start"`
	End   string `json:"end"`
}

// Route is a static route handed to guests.
type Route struct {
	Destination string `json:"destination"`
	NextHop     string `json:"nexthop"`
}

// Subnet is an IPv4 block of a network.
type Subnet struct {
	ID          SubnetID       `json:"id"`
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Network     NetworkID      `json:"network"`
	Project     ProjectID      `json:"project"`
	IPVersion   int            `json:"ip_version"` // 4
	CIDR        string         `json:"cidr"`
	Gateway     string         `json:"gateway,omitempty"` // empty: no gateway
	DHCP        bool           `json:"dhcp"`
	DNS         []string       `json:"dns,omitempty"`
	Pools       []AddressRange `json:"pools"`
	Routes      []Route        `json:"routes,omitempty"`
	Tags        []string       `json:"tags,omitempty"`
	Created     time.Time      `json:"created"`
	Updated     time.Time      `json:"updated"`
	Revision    int            `json:"revision"`
}

// FixedIP is an address of a port.
type FixedIP struct {
	Subnet  SubnetID `json:"subnet"`
	Address string   `json:"address"`
}

// Port is the attachment point of a NIC. BindingHost is written by flows when a server lands or moves, or by an operator for a foreign device.
type Port struct {
	ID             PortID            `json:"id"`
	Name           string            `json:"name"`
	Description    string            `json:"description,omitempty"`
	Network        NetworkID         `json:"network"`
	Project        ProjectID         `json:"project"`
	MAC            string            `json:"mac"` // lower case, colons
	FixedIPs       []FixedIP         `json:"fixed_ips"`
	AdminUp        bool              `json:"admin_up"`
	DeviceID       string            `json:"device_id,omitempty"` // server id when a server owns it
	DeviceOwner    string            `json:"device_owner,omitempty"`
	SecurityGroups []SecurityGroupID `json:"security_groups"`
	PortSecurity   bool              `json:"port_security"`
	AllowedPairs   []AddressPair     `json:"allowed_pairs,omitempty"`
	BindingHost    HostName          `json:"binding_host,omitempty"`
	VNICType       string            `json:"vnic_type"`
	Status         string            `json:"status"`       // ACTIVE, DOWN
	AutoCreated    bool              `json:"auto_created"` // made by a server's boot; removed with it
	DNSName        string            `json:"dns_name,omitempty"`
	Tags           []string          `json:"tags,omitempty"`
	Created        time.Time         `json:"created"`
	Updated        time.Time         `json:"updated"`
	Revision       int               `json:"revision"`
}

// AddressPair is an extra address a port may send from.
type AddressPair struct {
	Address string `json:"address"`
	MAC     string `json:"mac,omitempty"`
}

// AddressClaim marks an address of a subnet as taken. Its key is "subnet/address", so that two takers collide. A port without any address
// holds one claim with its network's ID for the subnet and its own for the address, so that whoever removes the network finds it.
type AddressClaim struct {
	Subnet  SubnetID `json:"subnet"`
	Address string   `json:"address"`
	Port    PortID   `json:"port"`
}

// SecurityGroup is a set of rules applied to ports.
type SecurityGroup struct {
	ID          SecurityGroupID     `json:"id"`
	Name        string              `json:"name"`
	Description string              `json:"description"`
	Project     ProjectID           `json:"project"`
	Stateful    bool                `json:"stateful"`
	Rules       []SecurityGroupRule `json:"rules"`
	Tags        []string            `json:"tags,omitempty"`
	Created     time.Time           `json:"created"`
	Updated     time.Time           `json:"updated"`
	Revision    int                 `json:"revision"`
}

// SecurityGroupRule allows traffic; what no rule allows is dropped.
type SecurityGroupRule struct {
	ID          string          `json:"id"`
	Description string          `json:"description,omitempty"`
	Direction   string          `json:"direction"` // ingress, egress
	EtherType   string          `json:"ethertype"` // IPv4, IPv6
	Protocol    string          `json:"protocol,omitempty"`
	PortMin     *int            `json:"port_min,omitempty"`
	PortMax     *int            `json:"port_max,omitempty"`
	RemoteCIDR  string          `json:"remote_cidr,omitempty"`
	RemoteGroup SecurityGroupID `json:"remote_group,omitempty"`
	Created     time.Time       `json:"created"`
}
