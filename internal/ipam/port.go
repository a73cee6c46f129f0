package ipam

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// The statuses of ports and networks.
const (
	StatusActive = "ACTIVE"
	StatusDown   = "DOWN"
)

// PortRequest asks for a port. Network, Project and Now are required.
type PortRequest struct {
	ID          cloud.PortID // empty: a new UUID
	Network     cloud.NetworkID
	Project     cloud.ProjectID // owner of the port
	Anywhere    bool            // the caller may use networks and security groups of other projects: administrators
	Name        string
	Description string
	MAC         string // empty: one that is free on the network
	// Addresses are asked for; nil means one address of the network, if it has subnets; empty but not nil means none.
	Addresses []AddressRequest
	// SecurityGroups nil means the project's default group.
	SecurityGroups []cloud.SecurityGroupID
	PortSecurity   *bool // nil: as the network has it
	AllowedPairs   []cloud.AddressPair
	DeviceID       string // the server's ID when a server gets the port
	DeviceOwner    string
	BindingHost    cloud.HostName
	VNICType       string // empty: normal
	AutoCreated    bool   // removed together with its server
	AdminDown      bool
	DNSName        string
	Now            time.Time
}

// AllocatePort creates a port with its MAC and addresses. Refusals: NetworkNotFound, SecurityGroupNotFound, MacAddressInUse,
// IpAddressAlreadyAllocated, IpAddressGenerationFailure (cloud.KindExhausted), InvalidIpForNetwork and the like.
func AllocatePort(tx *store.Tx, r PortRequest) (cloud.Port, error) {
	network, err := store.Get(tx, tables.Networks, r.Network)
	if cloud.Is(err, cloud.KindNotFound) || err == nil && !Visible(&network, r.Project, r.Anywhere) {
		return cloud.Port{}, NetworkNotFound(r.Network)
	}
	if err != nil {
		return cloud.Port{}, err
	}
	p := newPort(r, &network)
	if p.SecurityGroups, err = groupsFor(tx, &p, r); err != nil {
		return cloud.Port{}, err
	}
	if p.MAC, err = chooseMAC(tx, r.Network, r.MAC); err != nil {
		return cloud.Port{}, err
	}
	wanted := r.Addresses
	if wanted == nil && len(network.Subnets) > 0 {
		wanted = []AddressRequest{{}}
	}
	if p.FixedIPs, err = resolve(tx, &network, p.ID, wanted, nil); err != nil {
		return cloud.Port{}, err
	}
	if len(p.FixedIPs) == 0 {
		if err := claimAddress(tx, p.ID, bareClaim(&p)); err != nil {
			return cloud.Port{}, err
		}
	}
	return p, store.Create(tx, tables.Ports, p.ID, p)
}

// Visible reports whether the project may see and use the network; anywhere is an administrator's right.
func Visible(n *cloud.Network, project cloud.ProjectID, anywhere bool) bool {
	return anywhere || n.Shared || n.Project == project
}

func newPort(r PortRequest, network *cloud.Network) cloud.Port {
	p := cloud.Port{
		ID: r.ID, Name: r.Name, Description: r.Description, Network: r.Network, Project: r.Project, AdminUp: !r.AdminDown,
		DeviceID: r.DeviceID, DeviceOwner: r.DeviceOwner, PortSecurity: network.PortSecurity, AllowedPairs: r.AllowedPairs,
		VNICType: r.VNICType, AutoCreated: r.AutoCreated, DNSName: r.DNSName, Created: r.Now, Updated: r.Now, Revision: 1,
	}
	if p.ID == "" {
		p.ID = cloud.PortID(uuid.NewString())
	}
	if r.PortSecurity != nil {
		p.PortSecurity = *r.PortSecurity
	}
	if p.VNICType == "" {
		p.VNICType = "normal"
	}
	bind(&p, r.BindingHost)
	return p
}

// groupsFor returns the security groups of a new port, all of them existing when the transaction commits.
func groupsFor(tx *store.Tx, p *cloud.Port, r PortRequest) ([]cloud.SecurityGroupID, error) {
	if r.SecurityGroups == nil && p.PortSecurity {
		group, err := DefaultGroup(tx, r.Project, r.Now)
		return []cloud.SecurityGroupID{group.ID}, err
	}
	return r.SecurityGroups, CheckGroups(tx, p, r.SecurityGroups, r.Anywhere)
}

// CheckGroups returns an error unless the port may be in all of the groups.
func CheckGroups(tx *store.Tx, p *cloud.Port, groups []cloud.SecurityGroupID, anywhere bool) error {
	if len(groups) > 0 && !p.PortSecurity {
		return Refuse(cloud.KindConflict, "PortSecurityAndIPRequiredForSecurityGroups",
			"Port security must be enabled and port must have an IP address in order to use security groups.")
	}
	for _, id := range groups {
		g, err := store.Peek(tx, tables.SecurityGroups, id)
		if err != nil {
			return err
		}
		if g == nil || g.Project != p.Project && !anywhere {
			return SecurityGroupNotFound(id)
		}
	}
	return nil
}

const (
	// macPrefix is OpenStack's block of locally administered addresses.
	macPrefix = "fa:16:3e"
	// macTriesMax bounds the search for a free MAC. The block has 2^24 addresses a network; sixteen misses mean that it is practically full.
	macTriesMax = 16
)

// chooseMAC returns the wanted MAC in canonical form, or a random one, that no port of the network has.
func chooseMAC(tx *store.Tx, network cloud.NetworkID, wanted string) (string, error) {
	if wanted != "" {
		mac, err := ParseMAC(wanted)
		if err != nil {
			return "", err
		}
		taken, err := macTaken(tx, network, mac)
		if err == nil && taken {
			err = Refuse(cloud.KindConflict, "MacAddressInUse", "Unable to complete operation for network %s. The mac address %s is in use.", network, mac)
		}
		return mac, err
	}
	for range macTriesMax {
		n := rand.Uint32()
		mac := fmt.Sprintf("%s:%02x:%02x:%02x", macPrefix, byte(n>>16), byte(n>>8), byte(n))
		if taken, err := macTaken(tx, network, mac); err != nil || !taken {
			return mac, err
		}
	}
	return "", Refuse(cloud.KindUnavailable, "MacAddressGenerationFailure", "Unable to generate unique mac on network %s.", network)
}

func macTaken(tx *store.Tx, network cloud.NetworkID, mac string) (bool, error) {
	_, err := store.GetBy(tx, tables.Ports, tables.ByMAC, string(network)+"/"+mac)
	if cloud.Is(err, cloud.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ParseMAC reads a unicast Ethernet address into lower case with colons.
func ParseMAC(s string) (string, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 == 1 || slices.Equal(mac, make(net.HardwareAddr, 6)) {
		return "", cloud.Errorf(cloud.KindInvalid, "'%s' is not a valid MAC address", s)
	}
	return mac.String(), nil
}

// ReleasePort removes the port and gives back its addresses. Releasing a port that does not exist is no error.
func ReleasePort(tx *store.Tx, id cloud.PortID) error {
	p, err := store.Get(tx, tables.Ports, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, ip := range heldBy(&p) {
		if err := store.Delete(tx, tables.AddressClaims, tables.AddressKey(ip.Subnet, ip.Address)); err != nil {
			return err
		}
	}
	return store.Delete(tx, tables.Ports, id)
}

// AttachPort gives an existing port to a server. Refusals: PortNotFound, PortInUse. Attaching it to the server that has it changes nothing.
func AttachPort(tx *store.Tx, id cloud.PortID, server cloud.ServerID, now time.Time) (cloud.Port, error) {
	p, err := getPort(tx, id)
	switch {
	case err != nil, p.DeviceID == string(server):
		return p, err
	case p.DeviceID != "":
		return p, Refuse(cloud.KindConflict, "PortInUse", "Unable to complete operation on port %s for network %s. Port already has an attached device %s.", id, p.Network, p.DeviceID)
	}
	p.DeviceID, p.DeviceOwner = string(server), ComputeOwner("")
	return p, putPort(tx, &p, now)
}

// ComputeOwner returns the device owner of a server's port in the zone; empty means the default zone.
func ComputeOwner(zone string) string {
	if zone == "" {
		zone = cloud.DefaultZone
	}
	return cloud.DeviceOwnerComputePrefix + zone
}

// BindPort records the host where the port's NIC is; empty unbinds it. Binding it where it is bound changes nothing.
func BindPort(tx *store.Tx, id cloud.PortID, host cloud.HostName, now time.Time) error {
	p, err := getPort(tx, id)
	if err != nil || p.BindingHost == host && p.Status == statusOf(host) {
		return err
	}
	bind(&p, host)
	return putPort(tx, &p, now)
}

func bind(p *cloud.Port, host cloud.HostName) { p.BindingHost, p.Status = host, statusOf(host) }

func statusOf(host cloud.HostName) string {
	if host == "" {
		return StatusDown
	}
	return StatusActive
}

// ReleaseServer takes the ports from a server that is going away: those made for it are removed, those its owner made are left, unbound. Ports that
// do not exist, or belong to another device by now, are passed over.
func ReleaseServer(tx *store.Tx, server cloud.ServerID, ports []cloud.PortID, now time.Time) error {
	for _, id := range ports {
		p, err := store.Get(tx, tables.Ports, id)
		if cloud.Is(err, cloud.KindNotFound) || err == nil && p.DeviceID != string(server) {
			continue
		}
		if err != nil {
			return err
		}
		if p.AutoCreated {
			err = ReleasePort(tx, id)
		} else {
			p.DeviceID, p.DeviceOwner = "", ""
			bind(&p, "")
			err = putPort(tx, &p, now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func getPort(tx *store.Tx, id cloud.PortID) (cloud.Port, error) {
	p, err := store.Get(tx, tables.Ports, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return p, PortNotFound(id)
	}
	return p, err
}

func putPort(tx *store.Tx, p *cloud.Port, now time.Time) error {
	p.Updated = now
	p.Revision++
	return store.Put(tx, tables.Ports, p.ID, *p)
}

// ServerPort reports whether the port belongs to a server.
func ServerPort(p *cloud.Port) bool {
	return p.DeviceID != "" && strings.HasPrefix(p.DeviceOwner, cloud.DeviceOwnerComputePrefix)
}
