package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// SubnetsPerNetworkMax bounds a network's subnets: a network is removed with all of them in one transaction, and a transaction holds 128 operations.
const SubnetsPerNetworkMax = 12

// AddSubnet writes a new subnet, enters it in its network, and reserves its DHCP address when it has DHCP. The caller has validated the
// subnet by itself (CIDR, gateway, pools); here it must fit its network. Refusals: NetworkNotFound, InvalidInput for an overlap, OverQuota.
func AddSubnet(tx *store.Tx, s cloud.Subnet) error {
	network, err := store.Get(tx, tables.Networks, s.Network)
	if cloud.Is(err, cloud.KindNotFound) {
		return NetworkNotFound(s.Network)
	}
	if err != nil {
		return err
	}
	if len(network.Subnets) >= SubnetsPerNetworkMax {
		return Refuse(cloud.KindQuota, "OverQuota", "Quota exceeded for resources: a network has at most %d subnets.", SubnetsPerNetworkMax)
	}
	others, err := subnetsOf(tx, &network)
	if err != nil {
		return err
	}
	block, err := ParseCIDR(s.CIDR)
	if err != nil {
		return err
	}
	for _, o := range others {
		if other, err := ParseCIDR(o.CIDR); err == nil && other.Overlaps(block) {
			return Refuse(cloud.KindInvalid, "InvalidInput",
				"Invalid input for operation: Requested subnet with cidr: %s for network: %s overlaps with another subnet.", block, network.ID)
		}
	}
	network.Subnets = append(slices.Clone(network.Subnets), s.ID)
	network.Updated = s.Created
	network.Revision++
	if err := store.Put(tx, tables.Networks, network.ID, network); err != nil {
		return err
	}
	if err := store.Create(tx, tables.Subnets, s.ID, s); err != nil {
		return err
	}
	return SyncDHCP(tx, &s, s.Created)
}

// SyncDHCP makes the subnet's DHCP port exist exactly when the subnet has DHCP. It takes the lowest free address of the pools.
func SyncDHCP(tx *store.Tx, s *cloud.Subnet, now time.Time) error {
	id := dhcpPortID(s.ID)
	if !s.DHCP {
		return ReleasePort(tx, id)
	}
	old, err := store.Peek(tx, tables.Ports, id)
	if err != nil || old != nil {
		return err
	}
	free, err := first(tx, s)
	if err != nil {
		return err
	}
	if !free.IsValid() {
		return Refuse(cloud.KindExhausted, "IpAddressGenerationFailure", "No more IP addresses available on network %s.", s.Network)
	}
	off := false
	_, err = AllocatePort(tx, PortRequest{
		ID: id, Network: s.Network, Project: s.Project, Anywhere: true, PortSecurity: &off, SecurityGroups: []cloud.SecurityGroupID{},
		Addresses: []AddressRequest{{Subnet: s.ID, Address: free.String()}},
		DeviceID:  cloud.DHCPDevice(s.ID), DeviceOwner: cloud.DeviceOwnerDHCP, AutoCreated: true, Now: now,
	})
	return err
}

// dhcpSpace makes the DHCP port's ID a function of the subnet's, so that a transaction finds it without an index.
var dhcpSpace = uuid.MustParse("6f3b0f5e-8a1c-4d52-9a7e-2f0d64a1c9b3")

func dhcpPortID(s cloud.SubnetID) cloud.PortID {
	return cloud.PortID(uuid.NewSHA1(dhcpSpace, []byte(s)).String())
}

// RemoveSubnet removes a subnet that no port but its own DHCP port has an address of. Refusals: SubnetNotFound, SubnetInUse.
func RemoveSubnet(tx *store.Tx, id cloud.SubnetID, now time.Time) error {
	s, err := store.Get(tx, tables.Subnets, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return SubnetNotFound(id)
	}
	if err != nil {
		return err
	}
	if err := dropSubnet(tx, &s); err != nil {
		return err
	}
	network, err := store.Get(tx, tables.Networks, s.Network)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	network.Subnets = slices.DeleteFunc(slices.Clone(network.Subnets), func(o cloud.SubnetID) bool { return o == id })
	network.Updated = now
	network.Revision++
	return store.Put(tx, tables.Networks, network.ID, network)
}

// dropSubnet removes the subnet's record and DHCP port, not its entry in the network.
func dropSubnet(tx *store.Tx, s *cloud.Subnet) error {
	claims, err := store.PeekList(tx, tables.AddressClaims, tables.AddressKey(s.ID, ""))
	if err != nil {
		return err
	}
	for _, c := range claims {
		if c.Port != dhcpPortID(s.ID) {
			return Refuse(cloud.KindConflict, "SubnetInUse", "Unable to complete operation on subnet %s: One or more ports have an IP allocation from this subnet.", s.ID)
		}
	}
	if err := ReleasePort(tx, dhcpPortID(s.ID)); err != nil {
		return err
	}
	return store.Delete(tx, tables.Subnets, s.ID)
}

// RemoveNetwork removes a network with its subnets and DHCP ports. Refusals: NetworkNotFound, NetworkInUse.
func RemoveNetwork(tx *store.Tx, id cloud.NetworkID) error {
	network, err := store.Get(tx, tables.Networks, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return NetworkNotFound(id)
	}
	if err != nil {
		return err
	}
	inUse := Refuse(cloud.KindConflict, "NetworkInUse", "Unable to complete operation on network %s. There are one or more ports still in use on the network.", id)
	bare, err := store.PeekList(tx, tables.AddressClaims, tables.AddressKey(cloud.SubnetID(id), ""))
	if err != nil {
		return err
	}
	if len(bare) > 0 {
		return inUse
	}
	subnets, err := subnetsOf(tx, &network)
	if err != nil {
		return err
	}
	for i := range subnets {
		if err := dropSubnet(tx, &subnets[i]); err != nil {
			if cloud.Is(err, cloud.KindConflict) {
				return inUse
			}
			return err
		}
	}
	return store.Delete(tx, tables.Networks, id)
}

// Taken returns the addresses of the subnet that ports hold, for checks of a changed gateway or pool.
func Taken(tx *store.Tx, id cloud.SubnetID) (map[netip.Addr]cloud.PortID, error) {
	claims, err := store.PeekList(tx, tables.AddressClaims, tables.AddressKey(id, ""))
	out := make(map[netip.Addr]cloud.PortID, len(claims))
	for _, c := range claims {
		if a, err := ParseAddress(c.Address); err == nil {
			out[a] = c.Port
		}
	}
	return out, err
}

// vniTriesMax bounds how many numbers that administrators chose by hand are skipped in a row.
const vniTriesMax = 64

// VNIMax is the greatest VXLAN network identifier.
const VNIMax = 1<<24 - 1

// NextVNI returns a VXLAN network identifier that no network has.
func NextVNI(tx *store.Tx) (int, error) {
	for range vniTriesMax {
		n, err := tables.Next(tx, tables.CountVNIs)
		if err != nil {
			return 0, err
		}
		if n > VNIMax {
			break
		}
		taken, err := VNITaken(tx, n)
		if err != nil || !taken {
			return n, err
		}
	}
	return 0, Refuse(cloud.KindUnavailable, "NoNetworkAvailable", "Unable to create the network. No tenant network is available for allocation.")
}
