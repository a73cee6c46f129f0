package netspec

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// ForServer returns the server's NICs in the order of its ports, the order in which the guest sees them. A port, network or subnet that
// is missing is cloud.KindNotFound.
func ForServer(r Records, s *cloud.Server) ([]cloud.NIC, error) {
	out := make([]cloud.NIC, 0, len(s.Ports))
	for _, id := range s.Ports {
		p := r.Port(id)
		if p == nil {
			return nil, missing(s.ID, "port", id)
		}
		nic, err := ForPort(r, p)
		if err != nil {
			return nil, fmt.Errorf("server %s: %w", s.ID, err)
		}
		out = append(out, nic)
	}
	return out, nil
}

// ForPort resolves one port. A port that is administratively down becomes a NIC that allows nothing.
func ForPort(r Records, p *cloud.Port) (cloud.NIC, error) {
	network := r.Network(p.Network)
	if network == nil {
		return cloud.NIC{}, missing(p.ID, "network", p.Network)
	}
	nic := cloud.NIC{Port: p.ID, MAC: p.MAC, MTU: network.MTU, Network: network.ID, VNI: network.VNI, PortSecurity: p.PortSecurity}
	for _, ip := range p.FixedIPs {
		address, err := resolveAddress(r, p, ip)
		if err != nil {
			return cloud.NIC{}, err
		}
		nic.Addresses = append(nic.Addresses, address)
	}
	switch {
	case !p.AdminUp || !network.AdminUp:
		nic.PortSecurity = true
	case p.PortSecurity:
		nic.Rules = resolveRules(r, p)
		nic.AllowedPairs = pairs(p)
	}
	return nic, nil
}

func resolveAddress(r Records, p *cloud.Port, ip cloud.FixedIP) (cloud.NICAddress, error) {
	subnet := r.Subnet(ip.Subnet)
	if subnet == nil {
		return cloud.NICAddress{}, missing(p.ID, "subnet", ip.Subnet)
	}
	prefix, err := netip.ParsePrefix(subnet.CIDR)
	if err != nil {
		return cloud.NICAddress{}, cloud.E(cloud.KindInternal, "", fmt.Sprintf("subnet %s", subnet.ID), err)
	}
	out := cloud.NICAddress{
		Subnet: subnet.ID, Address: ip.Address, Prefix: prefix.Bits(), Gateway: subnet.Gateway,
		DNS: slices.Clone(subnet.DNS), Routes: slices.Clone(subnet.Routes),
	}
	if subnet.DHCP {
		out.DHCPAddress = DHCPAddress(r, subnet.ID)
		out.DHCP = out.DHCPAddress != ""
	}
	return out, nil
}

// DHCPAddress returns the address from which hosts answer DHCP and metadata requests on the subnet; empty when it has none.
func DHCPAddress(r Records, id cloud.SubnetID) string {
	for _, p := range r.PortsOfDevice(cloud.DHCPDevice(id)) {
		if p.DeviceOwner != cloud.DeviceOwnerDHCP {
			continue
		}
		for _, ip := range p.FixedIPs {
			if ip.Subnet == id {
				return ip.Address
			}
		}
	}
	return ""
}

func pairs(p *cloud.Port) []string {
	var out []string
	for _, pair := range p.AllowedPairs {
		out = append(out, pair.Address)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func missing[O, K ~string](of O, what string, id K) error {
	return cloud.E(cloud.KindNotFound, "resolve nic", string(of), fmt.Errorf("%s %s does not exist", what, id))
}
