package ipam

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// probesMax bounds the random addresses tried before the whole list is read. In a subnet that is half full all of eight are taken once in
	// 256 allocations; each costs one condition of the transaction.
	probesMax = 8
	// FixedIPsMax bounds the addresses of one port, as Neutron's max_fixed_ips_per_port does.
	FixedIPsMax = 5
)

// AddressRequest asks for one address. With neither field set it means any address of the network.
type AddressRequest struct {
	Subnet  cloud.SubnetID
	Address string
}

// resolve turns the requests into addresses of the network for the port and claims them. held are addresses the port has already and
// may keep.
func resolve(tx *store.Tx, network *cloud.Network, port cloud.PortID, requests []AddressRequest, held []cloud.FixedIP) ([]cloud.FixedIP, error) {
	if len(requests) > FixedIPsMax {
		return nil, Refuse(cloud.KindInvalid, "InvalidInput", "Invalid input for operation: Exceeded maximum amount of fixed ips per port.")
	}
	subnets, err := subnetsOf(tx, network)
	if err != nil {
		return nil, err
	}
	var out []cloud.FixedIP
	// Named addresses first, so that a free choice cannot take one of them.
	for _, named := range []bool{true, false} {
		for _, r := range requests {
			if (r.Address != "") != named {
				continue
			}
			var got cloud.FixedIP
			switch {
			case named:
				got, err = takeNamed(tx, network, subnets, port, r, held)
			default:
				got, err = takeAny(tx, network, subnets, port, r.Subnet, held, out)
			}
			if err != nil {
				return nil, err
			}
			if slices.Contains(out, got) {
				return nil, Refuse(cloud.KindInvalid, "InvalidInput", "Invalid input for operation: IP %s is requested twice.", got.Address)
			}
			out = append(out, got)
		}
	}
	return out, nil
}

func subnetsOf(tx *store.Tx, network *cloud.Network) ([]cloud.Subnet, error) {
	out := make([]cloud.Subnet, 0, len(network.Subnets))
	for _, id := range network.Subnets {
		s, err := store.Peek(tx, tables.Subnets, id)
		if err != nil {
			return nil, err
		}
		if s != nil {
			out = append(out, *s)
		}
	}
	return out, nil
}

// takeNamed claims the address that r names, in the subnet it names or the one the address belongs to.
func takeNamed(tx *store.Tx, network *cloud.Network, subnets []cloud.Subnet, port cloud.PortID, r AddressRequest, held []cloud.FixedIP) (cloud.FixedIP, error) {
	wanted, err := ParseAddress(r.Address)
	if err != nil {
		return cloud.FixedIP{}, Refuse(cloud.KindInvalid, "InvalidInput", "Invalid input for operation: %v.", err)
	}
	for i := range subnets {
		s := &subnets[i]
		block, err := ParseCIDR(s.CIDR)
		if err != nil || r.Subnet != "" && s.ID != r.Subnet || !block.Contains(wanted) {
			continue
		}
		if !Usable(block, wanted) {
			break
		}
		got := cloud.FixedIP{Subnet: s.ID, Address: wanted.String()}
		if slices.Contains(held, got) {
			return got, nil
		}
		claim, err := store.Peek(tx, tables.AddressClaims, tables.AddressKey(s.ID, got.Address))
		if err != nil {
			return got, err
		}
		if claim != nil {
			return got, Refuse(cloud.KindConflict, "IpAddressAlreadyAllocated", "IP address %s already allocated in subnet %s", got.Address, s.ID)
		}
		return got, claimAddress(tx, port, got)
	}
	if r.Subnet != "" {
		if !slices.Contains(network.Subnets, r.Subnet) {
			return cloud.FixedIP{}, notOnNetwork(network, r.Subnet)
		}
		return cloud.FixedIP{}, Refuse(cloud.KindInvalid, "InvalidIpForSubnet", "IP address %s is not a valid IP for the specified subnet.", r.Address)
	}
	return cloud.FixedIP{}, Refuse(cloud.KindInvalid, "InvalidIpForNetwork", "IP address %s is not a valid IP for any of the subnets on the specified network.", r.Address)
}

// takeAny claims a free address of the wanted subnet, or of the first that has one. An address the port holds there already is kept.
func takeAny(tx *store.Tx, network *cloud.Network, subnets []cloud.Subnet, port cloud.PortID, wanted cloud.SubnetID, held, taken []cloud.FixedIP) (cloud.FixedIP, error) {
	if wanted != "" && !slices.Contains(network.Subnets, wanted) {
		return cloud.FixedIP{}, notOnNetwork(network, wanted)
	}
	for i := range subnets {
		s := &subnets[i]
		if wanted != "" && s.ID != wanted {
			continue
		}
		for _, h := range held {
			if h.Subnet == s.ID && !slices.Contains(taken, h) {
				return h, nil
			}
		}
		free, err := choose(tx, s)
		if err != nil {
			return cloud.FixedIP{}, err
		}
		if free.IsValid() {
			got := cloud.FixedIP{Subnet: s.ID, Address: free.String()}
			return got, claimAddress(tx, port, got)
		}
	}
	return cloud.FixedIP{}, Refuse(cloud.KindExhausted, "IpAddressGenerationFailure", "No more IP addresses available on network %s.", network.ID)
}

func notOnNetwork(network *cloud.Network, subnet cloud.SubnetID) error {
	return Refuse(cloud.KindInvalid, "InvalidInput", "Invalid input for operation: Failed to create port on network %s, because fixed_ips included invalid subnet %s.", network.ID, subnet)
}

// choose returns a free address of the subnet's pools; the zero address when there is none.
func choose(tx *store.Tx, s *cloud.Subnet) (netip.Addr, error) {
	spans, err := spansOf(s.Pools)
	if err != nil {
		return netip.Addr{}, err
	}
	size := total(spans)
	if size == 0 {
		return netip.Addr{}, nil
	}
	for range probesMax {
		a := nth(spans, rand.Uint64N(size))
		claim, err := store.Peek(tx, tables.AddressClaims, tables.AddressKey(s.ID, a.String()))
		if err != nil {
			return netip.Addr{}, err
		}
		if claim == nil {
			return a, nil
		}
	}
	taken, err := takenPositions(tx, s.ID, spans)
	if err != nil || uint64(len(taken)) >= size {
		return netip.Addr{}, err
	}
	return nth(spans, kthFree(taken, rand.Uint64N(size-uint64(len(taken))))), nil
}

// first returns the lowest free address of the subnet's pools; the zero address when there is none.
func first(tx *store.Tx, s *cloud.Subnet) (netip.Addr, error) {
	spans, err := spansOf(s.Pools)
	if err != nil {
		return netip.Addr{}, err
	}
	taken, err := takenPositions(tx, s.ID, spans)
	if err != nil || uint64(len(taken)) >= total(spans) {
		return netip.Addr{}, err
	}
	return nth(spans, kthFree(taken, 0)), nil
}

func takenPositions(tx *store.Tx, id cloud.SubnetID, spans []span) ([]uint64, error) {
	claims, err := store.PeekList(tx, tables.AddressClaims, tables.AddressKey(id, ""))
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, c := range claims {
		a, err := ParseAddress(c.Address)
		if err != nil {
			continue // not an address of this subnet
		}
		if i, ok := position(spans, a); ok {
			out = append(out, i)
		}
	}
	return out, nil
}

func claimAddress(tx *store.Tx, port cloud.PortID, ip cloud.FixedIP) error {
	return store.Create(tx, tables.AddressClaims, tables.AddressKey(ip.Subnet, ip.Address), cloud.AddressClaim{Subnet: ip.Subnet, Address: ip.Address, Port: port})
}

// bareClaim is the claim of a port without addresses: on the network itself, so that whoever removes the network meets it.
func bareClaim(p *cloud.Port) cloud.FixedIP {
	return cloud.FixedIP{Subnet: cloud.SubnetID(p.Network), Address: string(p.ID)}
}

// heldBy returns everything the port has a claim on.
func heldBy(p *cloud.Port) []cloud.FixedIP {
	if len(p.FixedIPs) == 0 {
		return []cloud.FixedIP{bareClaim(p)}
	}
	return p.FixedIPs
}

// Readdress gives the port the addresses that are asked for, keeping those it has where they suit, and writes nothing but claims: the
// caller writes the port. An empty request leaves it without addresses.
func Readdress(tx *store.Tx, p *cloud.Port, requests []AddressRequest) error {
	network, err := store.Get(tx, tables.Networks, p.Network)
	if err != nil {
		return err
	}
	before := slices.Clone(heldBy(p))
	p.FixedIPs, err = resolve(tx, &network, p.ID, requests, p.FixedIPs)
	if err != nil {
		return err
	}
	after := heldBy(p)
	for _, ip := range before {
		if !slices.Contains(after, ip) {
			if err := store.Delete(tx, tables.AddressClaims, tables.AddressKey(ip.Subnet, ip.Address)); err != nil {
				return err
			}
		}
	}
	if len(p.FixedIPs) == 0 && !slices.Contains(before, bareClaim(p)) {
		return claimAddress(tx, p.ID, bareClaim(p))
	}
	return nil
}
