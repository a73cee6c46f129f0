package ipam

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// span is an inclusive range of IPv4 addresses as numbers.
type span struct{ first, last uint32 }

func (s span) size() uint64           { return uint64(s.last) - uint64(s.first) + 1 }
func (s span) contains(n uint32) bool { return s.first <= n && n <= s.last }

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// ParseCIDR reads an IPv4 block and returns it with host bits cleared.
func ParseCIDR(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil || !prefix.Addr().Is4() {
		return netip.Prefix{}, cloud.Errorf(cloud.KindInvalid, "'%s' is not a valid IPv4 subnet", s)
	}
	return prefix.Masked(), nil
}

// ParseAddress reads an IPv4 address.
func ParseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, cloud.Errorf(cloud.KindInvalid, "'%s' is not a valid IPv4 address", s)
	}
	return a, nil
}

// hosts returns the addresses of the block that a guest may have: without the network's and the broadcast address, which blocks of 31 and 32 bits
// do not have.
func hosts(block netip.Prefix) span {
	first := number(block.Addr())
	last := first | uint32(uint64(1)<<(32-block.Bits())-1)
	if block.Bits() <= 30 {
		first, last = first+1, last-1
	}
	return span{first, last}
}

// Usable reports whether a is an address of the block that a guest may have.
func Usable(block netip.Prefix, a netip.Addr) bool {
	return a.Is4() && hosts(block).contains(number(a))
}

// FirstHost returns the block's first usable address, Neutron's default for the gateway.
func FirstHost(block netip.Prefix) netip.Addr { return address(hosts(block).first) }

// DefaultPools returns all usable addresses of the block but the gateway's (empty for none).
func DefaultPools(block netip.Prefix, gateway string) []cloud.AddressRange {
	all := hosts(block)
	gw, err := netip.ParseAddr(gateway)
	if err != nil || !gw.Is4() || !all.contains(number(gw)) {
		return []cloud.AddressRange{ranged(all)}
	}
	n := number(gw)
	var out []cloud.AddressRange
	if n > all.first {
		out = append(out, ranged(span{all.first, n - 1}))
	}
	if n < all.last {
		out = append(out, ranged(span{n + 1, all.last}))
	}
	return out
}

func ranged(s span) cloud.AddressRange {
	return cloud.AddressRange{Start: address(s.first).String(), End: address(s.last).String()}
}

// CheckPools returns an error unless every pool is a range of the block's usable addresses, without the gateway (empty for none), and no two overlap.
func CheckPools(block netip.Prefix, gateway string, pools []cloud.AddressRange) error {
	spans, err := spansOf(pools)
	if err != nil {
		return err
	}
	all := hosts(block)
	for i, s := range spans {
		if s.first > s.last {
			return Refuse(cloud.KindInvalid, "InvalidAllocationPool", "The allocation pool %s-%s is not valid.", pools[i].Start, pools[i].End)
		}
		if !all.contains(s.first) || !all.contains(s.last) {
			return Refuse(cloud.KindInvalid, "OutOfBoundsAllocationPool", "The allocation pool %s-%s spans beyond the subnet cidr %s.", pools[i].Start, pools[i].End, block)
		}
		if gw, err := netip.ParseAddr(gateway); err == nil && gw.Is4() && s.contains(number(gw)) {
			return Refuse(cloud.KindConflict, "GatewayConflictWithAllocationPools", "Gateway ip %s conflicts with allocation pool %s-%s.", gateway, pools[i].Start, pools[i].End)
		}
		for j, other := range spans[:i] {
			if s.first <= other.last && other.first <= s.last {
				return Refuse(cloud.KindConflict, "OverlappingAllocationPools", "Found overlapping allocation pools: %s-%s %s-%s for subnet %s.",
					pools[j].Start, pools[j].End, pools[i].Start, pools[i].End, block)
			}
		}
	}
	return nil
}

func spansOf(pools []cloud.AddressRange) ([]span, error) {
	out := make([]span, 0, len(pools))
	for _, p := range pools {
		start, err := ParseAddress(p.Start)
		if err != nil {
			return nil, err
		}
		end, err := ParseAddress(p.End)
		if err != nil {
			return nil, err
		}
		out = append(out, span{number(start), number(end)})
	}
	return out, nil
}

// nth returns the address at position i, counted through all spans.
func nth(spans []span, i uint64) netip.Addr {
	for _, s := range spans {
		if i < s.size() {
			return address(s.first + uint32(i))
		}
		i -= s.size()
	}
	panic("ipam: position beyond the pools")
}

// position is the inverse of nth; ok is false for an address outside the spans.
func position(spans []span, a netip.Addr) (i uint64, ok bool) {
	n := number(a)
	for _, s := range spans {
		if s.contains(n) {
			return i + uint64(n-s.first), true
		}
		i += s.size()
	}
	return 0, false
}

func total(spans []span) uint64 {
	var sum uint64
	for _, s := range spans {
		sum += s.size()
	}
	return sum
}

// kthFree returns the position of the k-th free address (from 0), given the taken positions, which it sorts.
func kthFree(taken []uint64, k uint64) uint64 {
	slices.Sort(taken)
	for _, t := range taken {
		if t > k {
			break
		}
		k++
	}
	return k
}

// Between returns how many addresses are from first to last, both included; 0 when last is before first.
func Between(first, last netip.Addr) uint64 {
	if last.Less(first) {
		return 0
	}
	return span{number(first), number(last)}.size()
}
