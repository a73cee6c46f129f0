package compute

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// serverViews writes servers for one request. What several servers share (names of networks and groups, zones, link prefixes) is
// looked up once.
type serverViews struct {
	document
	*call
	hosts    fleet
	self     string // URL prefix of "self" links
	bookmark string // URL prefix of "bookmark" links
	networks map[cloud.NetworkID]string
	groups   map[cloud.SecurityGroupID]string
	hostIDs  map[tenancy]string
}

// tenancy is a project on a host; its digest is the same for all the project's servers there.
type tenancy struct {
	project cloud.ProjectID
	host    cloud.HostName
}

// serverBytes is about what one server takes in a detailed list; it saves growing the buffer.
const serverBytes = 2200

func (c *call) serverViews(servers int) *serverViews {
	v := &serverViews{call: c, hosts: fleet{view: c.view}, networks: map[cloud.NetworkID]string{}, groups: map[cloud.SecurityGroupID]string{}, hostIDs: map[tenancy]string{}}
	v.self, v.bookmark = c.r.PublicURL(apiRoot), c.r.PublicURL("/compute")
	v.b = make([]byte, 0, serverBytes*(servers+1))
	return v
}

// AppendJSON makes the finished document an openstack.Appender.
func (d *document) AppendJSON(b []byte) []byte {
	if len(b) == 0 {
		return d.b
	}
	return append(b, d.b...)
}

func (v *serverViews) hostID(s *cloud.Server) string {
	key := tenancy{s.Project, s.Host}
	id, ok := v.hostIDs[key]
	if !ok {
		id = hostID(s.Project, s.Host)
		v.hostIDs[key] = id
	}
	return id
}

// basic writes a server as lists without detail show it.
func (v *serverViews) basic(s *cloud.Server) {
	v.begin()
	v.text("id", string(s.ID))
	v.text("name", s.Name)
	v.links("/servers/", string(s.ID))
	v.close('}')
}

// parts says which parts of a server an answer has. PUT showed fewer of them before 2.75.
type parts struct {
	extended bool // everything with a prefix, keys, groups, host status
	groups   bool // server_groups (2.71), never in lists
}

// full writes a server with all that the caller may see at its microversion.
func (v *serverViews) full(s *cloud.Server, p parts) {
	status := statusOf(s)
	v.begin()
	v.text("id", string(s.ID))
	v.text("name", s.Name)
	v.text("status", status)
	v.text("tenant_id", string(s.Project))
	v.text("user_id", string(s.User))
	v.texts("metadata", s.Metadata)
	v.text("hostId", v.hostID(s))
	v.image(s)
	v.flavor(s)
	v.seconds("created", s.Created)
	v.seconds("updated", s.Updated)
	ports := v.ports(s)
	v.addresses(s, ports, p.extended)
	v.text("accessIPv4", s.AccessIPv4)
	v.text("accessIPv6", s.AccessIPv6)
	v.links("/servers/", string(s.ID))
	v.text("OS-DCF:diskConfig", diskConfig(s))
	if status == "ERROR" || status == "DELETED" {
		v.fault(s)
	}
	if hasProgress(status) {
		v.integer("progress", s.Progress)
	}
	if p.extended {
		v.extended(s, ports)
	}
	v.versioned(s)
	if p.groups && v.since(71) {
		v.array("server_groups")
		if s.Group != "" {
			v.item(string(s.Group))
		}
		v.close(']')
	}
	v.close('}')
}

// extended writes what once were extensions.
func (v *serverViews) extended(s *cloud.Server, ports []*cloud.Port) {
	zone := s.Zone
	if s.Host != "" {
		zone = v.hosts.zone(s.Host)
	}
	v.text("OS-EXT-AZ:availability_zone", zone)
	v.text("config_drive", map[bool]string{true: "True"}[s.ConfigDrive])
	v.textOrNull("key_name", s.KeyName)
	v.microseconds("OS-SRV-USG:launched_at", s.Launched)
	v.microseconds("OS-SRV-USG:terminated_at", s.Terminated)
	v.securityGroups(ports)
	if v.admin() {
		v.attributes(s)
	}
	v.textOrNull("OS-EXT-STS:task_state", string(s.Task))
	v.text("OS-EXT-STS:vm_state", string(s.VMState))
	v.integer("OS-EXT-STS:power_state", int(s.Power))
	v.volumes(s)
	if v.since(16) && v.admin() {
		v.text("host_status", v.hosts.status(s.Host))
	}
	if v.since(90) && !v.admin() {
		v.text("OS-EXT-SRV-ATTR:hostname", s.Hostname)
	}
}

// attributes writes what only administrators see.
func (v *serverViews) attributes(s *cloud.Server) {
	v.textOrNull("OS-EXT-SRV-ATTR:host", string(s.Host))
	v.text("OS-EXT-SRV-ATTR:instance_name", instanceName(s))
	v.textOrNull("OS-EXT-SRV-ATTR:hypervisor_hostname", string(s.Host))
	if !v.since(3) {
		return
	}
	v.text("OS-EXT-SRV-ATTR:reservation_id", s.Reservation)
	v.integer("OS-EXT-SRV-ATTR:launch_index", s.BootIndex)
	v.text("OS-EXT-SRV-ATTR:hostname", s.Hostname)
	v.text("OS-EXT-SRV-ATTR:kernel_id", "")
	v.text("OS-EXT-SRV-ATTR:ramdisk_id", "")
	v.text("OS-EXT-SRV-ATTR:root_device_name", rootDevice)
	v.textOrNull("OS-EXT-SRV-ATTR:user_data", s.UserData)
}

// versioned writes what microversions after 2.3 brought, all of it shown wherever a server is.
func (v *serverViews) versioned(s *cloud.Server) {
	if v.since(9) {
		v.boolean("locked", s.Locked)
	}
	if v.since(73) {
		v.textOrNull("locked_reason", s.LockedReason)
	}
	if v.since(19) {
		v.textOrNull("description", s.Description)
	}
	if v.since(26) {
		v.array("tags")
		for _, t := range s.Tags {
			v.item(t)
		}
		v.close(']')
	}
	if v.since(63) {
		v.null("trusted_image_certificates")
	}
}

// rootDevice is the name of the root disk in every guest.
const rootDevice = "/dev/vda"

// instanceName is the name of the server's domain on its host.
func instanceName(s *cloud.Server) string { return "instance-" + string(s.ID) }

// diskConfig returns what the owner asked for; it has no effect on a guest that grows its own file system.
func diskConfig(s *cloud.Server) string {
	if s.DiskConfig != "" {
		return s.DiskConfig
	}
	return "MANUAL"
}

func (v *serverViews) links(collection, id string) {
	v.array("links")
	for _, l := range [...]struct{ rel, base string }{{"self", v.self}, {"bookmark", v.bookmark}} {
		v.begin()
		v.text("rel", l.rel)
		v.text("href", l.base+collection+id)
		v.close('}')
	}
	v.close(']')
}

// reference writes an id with its bookmark.
func (v *serverViews) reference(name, collection, id string) {
	v.object(name)
	v.text("id", id)
	v.array("links")
	v.begin()
	v.text("rel", "bookmark")
	v.text("href", v.bookmark+collection+id)
	v.close('}')
	v.close(']')
	v.close('}')
}

func (v *serverViews) image(s *cloud.Server) {
	id := s.OwnersImage()
	if id == "" {
		v.text("image", "")
		return
	}
	v.reference("image", "/images/", string(id))
}

func (v *serverViews) flavor(s *cloud.Server) {
	if !v.since(47) {
		v.reference("flavor", "/flavors/", string(s.Flavor.ID))
		return
	}
	v.object("flavor")
	v.integer("vcpus", s.Flavor.VCPUs)
	v.integer("ram", s.Flavor.RAMMiB)
	v.integer("disk", s.Flavor.RootGiB)
	v.integer("ephemeral", s.Flavor.EphemeralGiB)
	v.integer("swap", s.Flavor.SwapMiB)
	v.text("original_name", s.Flavor.Name)
	v.texts("extra_specs", s.Flavor.ExtraSpecs)
	v.close('}')
}

// ports returns the server's ports in the order of its NICs.
func (v *serverViews) ports(s *cloud.Server) []*cloud.Port {
	out := make([]*cloud.Port, 0, len(s.Ports))
	for _, id := range s.Ports {
		if p, ok := store.Lookup(v.view, tables.Ports, id); ok {
			out = append(out, p)
		}
	}
	return out
}

// addresses writes the fixed addresses by network. They are hidden while the server is built, as Nova hides them.
func (v *serverViews) addresses(s *cloud.Server, ports []*cloud.Port, extended bool) {
	if s.VMState == cloud.VMBuilding {
		v.object("addresses")
		v.close('}')
		return
	}
	v.object("addresses")
	v.networkAddresses(ports, extended)
	v.close('}')
}

// networkAddresses writes one member for each network, in the order of the first port on it.
func (v *serverViews) networkAddresses(ports []*cloud.Port, extended bool) {
	for i, p := range ports {
		if firstOn(ports[:i], p.Network) >= 0 {
			continue // written with the network's first port
		}
		v.comma()
		v.b = openstack.AppendString(v.b, v.networkName(p.Network))
		v.b = append(v.b, ':', '[')
		for _, same := range ports[i:] {
			if same.Network == p.Network {
				v.portAddresses(same, extended)
			}
		}
		v.close(']')
	}
}

func firstOn(ports []*cloud.Port, network cloud.NetworkID) int {
	for i, p := range ports {
		if p.Network == network {
			return i
		}
	}
	return -1
}

func (v *serverViews) portAddresses(p *cloud.Port, extended bool) {
	for _, ip := range p.FixedIPs {
		v.begin()
		v.integer("version", ipVersion(ip.Address))
		v.text("addr", ip.Address)
		if extended {
			v.text("OS-EXT-IPS:type", "fixed")
			v.text("OS-EXT-IPS-MAC:mac_addr", p.MAC)
		}
		v.close('}')
	}
}

func ipVersion(address string) int {
	for i := range len(address) {
		if address[i] == ':' {
			return 6
		}
	}
	return 4
}

func (v *serverViews) networkName(id cloud.NetworkID) string {
	name, ok := v.networks[id]
	if !ok {
		name = string(id)
		if n, found := store.Lookup(v.view, tables.Networks, id); found {
			name = n.Name
		}
		v.networks[id] = name
	}
	return name
}

// securityGroups writes the groups of all ports, once per port and group as Nova does; nothing when there are none.
func (v *serverViews) securityGroups(ports []*cloud.Port) {
	began := false
	for _, p := range ports {
		for _, id := range p.SecurityGroups {
			if !began {
				v.array("security_groups")
				began = true
			}
			v.begin()
			v.text("name", v.groupName(id))
			v.close('}')
		}
	}
	if began {
		v.close(']')
	}
}

func (v *serverViews) groupName(id cloud.SecurityGroupID) string {
	name, ok := v.groups[id]
	if !ok {
		name = string(id)
		if g, found := store.Lookup(v.view, tables.SecurityGroups, id); found {
			name = g.Name
		}
		v.groups[id] = name
	}
	return name
}

func (v *serverViews) fault(s *cloud.Server) {
	if s.Fault == nil {
		return
	}
	v.object("fault")
	v.integer("code", s.Fault.Code)
	v.seconds("created", s.Fault.Created)
	v.text("message", s.Fault.Message)
	if s.Fault.Details != "" && (v.admin() || s.Fault.Code != 500) {
		v.text("details", s.Fault.Details)
	}
	v.close('}')
}
