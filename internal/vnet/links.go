package vnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vxlanPort     = 4789
	vxlanOverhead = 50 // Ethernet, VXLAN, UDP and IPv4 headers around a guest's frame

	// arpIgnoreAll is arp_ignore's "answer for no local address".
	arpIgnoreAll = "8"
)

func isMissing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// find returns a link, or nil when there is none.
func (n *Networks) find(name string) (netlink.Link, error) {
	link, err := n.links.LinkByName(name)
	if isMissing(err) {
		return nil, nil
	}
	return link, err
}

// remove deletes a link if it exists.
func (n *Networks) remove(name string) error {
	link, err := n.find(name)
	if err != nil || link == nil {
		return err
	}
	if err := n.links.LinkDel(link); err != nil && !isMissing(err) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// ensureBridge makes the network's bridge and brings it up, unable to speak for the host.
func (n *Networks) ensureBridge(vni, mtu int) (netlink.Link, error) {
	name := BridgeName(vni)
	link, err := n.find(name)
	if err != nil {
		return nil, err
	}
	if link != nil && link.Type() != "bridge" {
		return nil, fmt.Errorf("interface %s is a %s, not a bridge", name, link.Type())
	}
	if link == nil {
		snooping := false // without a querier it would cut multicast
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &snooping}
		if err := n.links.LinkAdd(bridge); err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", name, err)
		}
		if link, err = n.links.LinkByName(name); err != nil {
			return nil, err
		}
	}
	if err := n.mute(name); err != nil {
		return nil, err
	}
	if err := n.ns.do(func() error { return setSysctl("ipv4/conf/"+name+"/arp_ignore", arpIgnoreAll) }); err != nil {
		return nil, err
	}
	return link, n.raise(link, mtu)
}

// mute keeps the kernel from sending anything of its own (router solicitations, multicast reports) on an interface.
func (n *Networks) mute(name string) error {
	return n.ns.do(func() error {
		err := setSysctl("ipv6/conf/"+name+"/disable_ipv6", "1")
		if errors.Is(err, unix.ENOENT) {
			return nil // a kernel without IPv6
		}
		return err
	})
}

func (n *Networks) raise(link netlink.Link, mtu int) error {
	if link.Attrs().MTU != mtu {
		if err := n.links.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("interface %s: set MTU %d: %w", link.Attrs().Name, mtu, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := n.links.LinkSetUp(link); err != nil {
			return fmt.Errorf("interface %s: up: %w", link.Attrs().Name, err)
		}
	}
	return nil
}

// ensureTunnel makes the network's VXLAN port on its bridge, towards the current peers.
func (n *Networks) ensureTunnel(vni, mtu int, bridge netlink.Link) error {
	name := tunnelName(vni)
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}, VxlanId: vni, SrcAddr: n.opts.TunnelAddress.AsSlice(),
		Port: vxlanPort, Learning: true,
	}
	link, err := n.find(name)
	if err != nil {
		return err
	}
	if link != nil && !sameTunnel(link, want) {
		if err := n.remove(name); err != nil {
			return err
		}
		link = nil
	}
	if link == nil {
		if err := n.links.LinkAdd(want); err != nil {
			return fmt.Errorf("make tunnel %s: %w", name, err)
		}
		if link, err = n.links.LinkByName(name); err != nil {
			return err
		}
	}
	if err := n.enslave(link, bridge); err != nil {
		return err
	}
	if err := n.raise(link, mtu); err != nil {
		return err
	}
	return n.syncPeers(link)
}

// enslave makes link an isolated port of the bridge: it exchanges frames with guests, not with other isolated ports.
func (n *Networks) enslave(link, bridge netlink.Link) error {
	name := link.Attrs().Name
	if err := n.mute(name); err != nil {
		return err
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := n.links.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("interface %s: join bridge: %w", name, err)
		}
	}
	if err := n.links.LinkSetIsolated(link, true); err != nil {
		return fmt.Errorf("interface %s: isolate: %w", name, err)
	}
	return nil
}

func sameTunnel(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.Port == want.Port && have.SrcAddr.Equal(want.SrcAddr) && have.Learning
}

var allZero = make(net.HardwareAddr, 6)

// syncPeers makes the tunnel's flooding list equal to the peers.
func (n *Networks) syncPeers(tunnel netlink.Link) error {
	index := tunnel.Attrs().Index
	entries, err := n.links.NeighList(index, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("tunnel %s: list peers: %w", tunnel.Attrs().Name, err)
	}
	var have []netip.Addr
	for _, e := range entries {
		if ip, ok := netip.AddrFromSlice(e.IP); ok && slices.Equal(e.HardwareAddr, allZero) {
			have = append(have, ip.Unmap())
		}
	}
	for _, ip := range n.peers {
		if !slices.Contains(have, ip) {
			if err := n.links.NeighAppend(floodTo(index, ip)); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("tunnel %s: add peer %s: %w", tunnel.Attrs().Name, ip, err)
			}
		}
	}
	for _, ip := range have {
		if !slices.Contains(n.peers, ip) {
			if err := n.links.NeighDel(floodTo(index, ip)); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("tunnel %s: remove peer %s: %w", tunnel.Attrs().Name, ip, err)
			}
		}
	}
	return nil
}

func floodTo(index int, ip netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		IP: ip.AsSlice(), HardwareAddr: allZero,
	}
}

// pointAtTap tells the local bridge that a MAC is at its tap, and the tunnel that it is nowhere else. A tap that is not there (yet) is
// no error: the guest's first frame will teach the bridge.
func (n *Networks) pointAtTap(vni int, tap string, mac net.HardwareAddr) error {
	bridge, err := n.find(BridgeName(vni))
	if err != nil || bridge == nil {
		return err
	}
	if tunnel, err := n.find(tunnelName(vni)); err == nil && tunnel != nil {
		// ENOENT is the usual answer: nothing had been learned.
		_ = n.links.NeighDel(&netlink.Neigh{LinkIndex: tunnel.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, HardwareAddr: mac})
	}
	port, err := n.find(tap)
	if err != nil || port == nil || port.Attrs().MasterIndex != bridge.Attrs().Index {
		return err
	}
	return n.links.NeighSet(&netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_REACHABLE, HardwareAddr: mac,
	})
}
