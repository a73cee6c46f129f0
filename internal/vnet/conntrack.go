package vnet

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// ofGuests matches the connections of some guests.
type ofGuests map[guestKey]bool

type guestKey struct {
	zone uint16
	ip   netip.Addr
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (g ofGuests) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, raw := range [][]byte{flow.Forward.SrcIP, flow.Forward.DstIP} {
		if ip, ok := netip.AddrFromSlice(raw); ok && g[guestKey{flow.Zone, ip.Unmap()}] {
			return true
		}
	}
	return false
}

// forgetConnections removes the NICs' connections from conntrack: a guest that leaves goes on with them elsewhere, and must not meet their
// stale windows when it comes back. Best effort: without conntrack's netlink there is nothing to be done.
func (n *Networks) forgetConnections(nics []cloud.NIC) {
	if n.mode == trackNone {
		return
	}
	gone := ofGuests{}
	for _, nic := range nics {
		for _, a := range nic.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				gone[guestKey{zone(nic.VNI), ip}] = true
			}
		}
	}
	if len(gone) == 0 {
		return
	}
	if _, err := n.links.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, gone); err != nil {
		n.log.Warn("cannot forget a leaving guest's connections", "error", err)
	}
}
