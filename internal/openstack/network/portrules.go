package network

import (
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/netspec"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

var portList = &listing{plural: "ports", path: "ports", attributes: []string{
	"id", "name", "description", "network_id", "project_id", "tenant_id", "mac_address", "admin_state_up", "status", "device_id", "device_owner",
	"security_groups", "port_security_enabled", "binding:host_id", "binding:vif_type", "binding:vnic_type", "ip_allocation", "revision_number",
	"created_at", "updated_at",
}, special: map[string]filter{
	"fixed_ips":    byFixedIPs,
	"mac_address":  byMAC,
	"subnet_id":    func(v object, values []string) (bool, error) { return hasFixedIP(v, "subnet_id", values), nil },
	"ip_address":   func(v object, values []string) (bool, error) { return hasFixedIP(v, "ip_address", values), nil },
	"device_owner": byDeviceOwner,
}}

// byFixedIPs takes "ip_address=A", "subnet_id=S" and "ip_address_substr=PART"; values of one kind are alternatives, the kinds add up.
func byFixedIPs(view object, values []string) (bool, error) {
	asked := map[string][]string{}
	for _, v := range values {
		for one := range strings.SplitSeq(v, ",") {
			name, value, ok := strings.Cut(one, "=")
			if !ok || !slices.Contains([]string{"ip_address", "subnet_id", "ip_address_substr"}, name) {
				return false, ipam.Refuse(cloud.KindInvalid, "HTTPBadRequest", "Invalid filter fixed_ips=%s", v)
			}
			asked[name] = append(asked[name], value)
		}
	}
	for name, wanted := range asked {
		if name == "ip_address_substr" {
			if !hasAddressPart(view, wanted) {
				return false, nil
			}
			continue
		}
		if !hasFixedIP(view, name, wanted) {
			return false, nil
		}
	}
	return true, nil
}

func hasFixedIP(view object, name string, wanted []string) bool {
	ips, _ := view["fixed_ips"].([]object)
	return slices.ContainsFunc(ips, func(ip object) bool { return slices.Contains(wanted, text(ip[name])) })
}

func hasAddressPart(view object, parts []string) bool {
	ips, _ := view["fixed_ips"].([]object)
	return slices.ContainsFunc(ips, func(ip object) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text(ip["ip_address"]), p) })
	})
}

// byMAC compares MACs whatever their spelling.
func byMAC(view object, values []string) (bool, error) {
	return slices.ContainsFunc(values, func(v string) bool {
		mac, err := ipam.ParseMAC(v)
		return err == nil && mac == text(view["mac_address"])
	}), nil
}

// byDeviceOwner also takes prefixes that end with a colon, as Neutron does.
func byDeviceOwner(view object, values []string) (bool, error) {
	have := text(view["device_owner"])
	return slices.ContainsFunc(values, func(v string) bool {
		return have == v || strings.HasSuffix(v, ":") && strings.HasPrefix(have, v)
	}), nil
}

// vnicTypes are what a host can build.
var vnicTypes = []string{"normal"}

// mayPort returns an error unless the caller may set the attributes that were given to other values than the port has (a fresh port: the
// zero value), by Neutron's default policies.
func (c *call) mayPort(rule string, network cloud.NetworkID, in *portInput, p *cloud.Port) error {
	owns := c.ownsNetwork(network)
	named := in.FixedIPs != nil && slices.ContainsFunc(*in.FixedIPs, func(f fixedIPInput) bool {
		return f.Address != "" && !slices.ContainsFunc(p.FixedIPs, func(have cloud.FixedIP) bool { return have.Address == f.Address })
	})
	service := in.DeviceOwner != nil && *in.DeviceOwner != p.DeviceOwner && strings.HasPrefix(*in.DeviceOwner, "network:")
	for _, need := range []struct {
		attribute string
		given     bool
		allowed   bool
	}{
		{"device_owner", service, owns},
		{"mac_address", in.MAC != nil && *in.MAC != p.MAC, owns},
		{"fixed_ips:ip_address", named, owns},
		{"port_security_enabled", in.PortSecurity != nil && (p.ID == "" || *in.PortSecurity != p.PortSecurity), owns},
		{"allowed_address_pairs", in.Pairs != nil && len(*in.Pairs) > 0, owns},
		{"binding:host_id", in.BindingHost != nil && *in.BindingHost != p.BindingHost, c.admin()},
	} {
		if need.given && !need.allowed {
			return openstack.Forbid(rule + ":" + need.attribute)
		}
	}
	if in.DeviceOwner != nil && *in.DeviceOwner == cloud.DeviceOwnerDHCP {
		return invalid("device_owner '%s' is kept for the subnets' own DHCP ports", *in.DeviceOwner)
	}
	if in.VNICType != nil && !slices.Contains(vnicTypes, *in.VNICType) {
		return invalid("binding:vnic_type '%s' is not offered, only %s", *in.VNICType, strings.Join(vnicTypes, ", "))
	}
	return nil
}

func pairsNeedSecurity() error {
	return ipam.Refuse(cloud.KindConflict, "AddressPairAndPortSecurityRequired", "Port Security must be enabled in order to have allowed address pairs on a port.")
}

// parsePairs validates allowed address pairs. mac is the port's, empty when it is not chosen yet; a pair with another MAC is refused, because
// hosts filter a NIC's frames by its own.
func parsePairs(in []pairInput, mac string, security bool) ([]cloud.AddressPair, error) {
	if len(in) > 0 && !security {
		return nil, pairsNeedSecurity()
	}
	var out []cloud.AddressPair
	for _, p := range in {
		block, err := netspec.ParsePair(p.Address)
		if err != nil {
			return nil, invalid("%v", err)
		}
		if p.MAC != "" {
			if given, err := ipam.ParseMAC(p.MAC); err != nil || given != mac {
				return nil, invalid("allowed address pair with MAC address '%s' is not offered, only with the port's own", p.MAC)
			}
		}
		one := cloud.AddressPair{Address: block.String()}
		if block.IsSingleIP() {
			one.Address = block.Addr().String()
		}
		if slices.Contains(out, one) {
			return nil, ipam.Refuse(cloud.KindInvalid, "DuplicateAddressPairInRequest", "Request contains duplicate address pair: mac_address %s ip_address %s.", mac, p.Address)
		}
		out = append(out, one)
	}
	return out, nil
}
