package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	netMax   = 255 // N is one byte of the address
	hostsMax = 200 // addresses .11 to .210
	// glusterBase: addresses .231 to .234.
	glusterBase = 230
	// storageMax: addresses .221 to .228.
	storageMax = 8

	bridgeMgmt = "mgmt"
	bridgeData = "data"
	// LinkMgmt and LinkData are a node's own names for its links.
	LinkMgmt = "mgmt"
	LinkData = "data"

	mgmtMTU = 1500
	// dataMTU leaves room for a VXLAN header around a guest's 1500 bytes.
	dataMTU = 1600

	controllerOctet = 1
	hostOctetBase   = 10
	storageBase     = 220
	prefixLen       = 24
)

// octet is the last byte of a node's addresses.
func (l *Lab) octet(node string) byte {
	for i := 1; i <= l.Hosts; i++ {
		if node == HostName(i) {
			return byte(hostOctetBase + i)
		}
	}
	for i := 1; i <= l.Storage; i++ {
		if node == StorageName(i) {
			return byte(storageBase + i)
		}
	}
	for i := 1; i <= l.Gluster; i++ {
		if node == GlusterName(i) {
			return byte(glusterBase + i)
		}
	}
	return controllerOctet
}

// MgmtAddr is a node's address on the management network, where agents reach the server.
func (l *Lab) MgmtAddr(node string) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(l.Net), l.octet(node)})
}

// DataAddr is a compute or storage node's address on the data network: migration, tunnels and volumes.
func (l *Lab) DataAddr(node string) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 19, byte(l.Net), l.octet(node)})
}

// inNetwork calls f with a netlink handle in the network namespace of a running node.
func inNetwork(name, node string, f func(*netlink.Handle) error) error {
	ns, err := openNetwork(name, node)
	if err != nil {
		return err
	}
	defer ns.Close()
	return withHandle(ns, f)
}

func withHandle(ns *os.File, f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	return f(h)
}

// openNetwork opens the network namespace of a running node.
func openNetwork(name, node string) (*os.File, error) {
	p, ok := readPID(name, node)
	if !ok {
		return nil, fmt.Errorf("node %s: %w", node, ErrPoweredOff)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	return f, nil
}

// makeSwitch adds the bridges to the switch node.
func (l *Lab) makeSwitch() error {
	return inNetwork(l.Name, Switch, func(h *netlink.Handle) error {
		for name, mtu := range map[string]int{bridgeMgmt: mgmtMTU, bridgeData: dataMTU} {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, l.switchHardwareAddr(name)
			br := &netlink.Bridge{LinkAttrs: attrs}
			if err := h.LinkAdd(br); err != nil {
				return fmt.Errorf("switch: bridge %s: %w", name, err)
			}
			if err := h.LinkSetUp(br); err != nil {
				return fmt.Errorf("switch: bridge %s: %w", name, err)
			}
		}
		return nil
	})
}

// cable is one veth pair between a bridge in some node and a link in another.
type cable struct {
	bridgeNode, bridge string // where it is plugged in
	port               string // name of the bridge's end
	node, link         string // the other end
	mtu                int
	mac                net.HardwareAddr // of link; nil for one chosen by the kernel
	addr               netip.Prefix
}

// plug makes the cable, puts its near end into the bridge and addresses its far end.
func (l *Lab) plug(c cable) error {
	far, err := openNetwork(l.Name, c.node)
	if err != nil {
		return err
	}
	defer far.Close()
	err = inNetwork(l.Name, c.bridgeNode, func(h *netlink.Handle) error {
		br, err := h.LinkByName(c.bridge)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", c.bridge, err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.MasterIndex = c.port, c.mtu, br.Attrs().Index
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = c.link, c.mac, uint32(c.mtu)
		veth.PeerNamespace = netlink.NsFd(far.Fd())
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth %s: %w", c.port, err)
		}
		return h.LinkSetUp(veth)
	})
	if err != nil {
		return fmt.Errorf("node %s: plug %s into %s: %w", c.node, c.link, c.bridgeNode, err)
	}
	return withHandle(far, func(h *netlink.Handle) error { return addressLink(h, c) })
}

func addressLink(h *netlink.Handle, c cable) error {
	link, err := h.LinkByName(c.link)
	if err != nil {
		return fmt.Errorf("node %s: link %s: %w", c.node, c.link, err)
	}
	bits := net.CIDRMask(c.addr.Bits(), c.addr.Addr().BitLen())
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: c.addr.Addr().AsSlice(), Mask: bits}}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("node %s: link %s: address %s: %w", c.node, c.link, c.addr, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("node %s: link %s: %w", c.node, c.link, err)
	}
	return nil
}

// loopbackUp raises a node's loopback link, which new namespaces have down.
func loopbackUp(name, node string) error {
	return inNetwork(name, node, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("node %s: loopback: %w", node, err)
		}
		return h.LinkSetUp(lo)
	})
}

// cables lists what connects a node to the switch.
func (l *Lab) cables(node string) []cable {
	mgmt := cable{
		bridgeNode: Switch, bridge: bridgeMgmt, port: portName("m", node),
		node: node, link: LinkMgmt, mtu: mgmtMTU, mac: hardwareAddr(l.MgmtAddr(node)), addr: netip.PrefixFrom(l.MgmtAddr(node), prefixLen),
	}
	if node == Controller {
		return []cable{mgmt}
	}
	data := cable{
		bridgeNode: Switch, bridge: bridgeData, port: portName("d", node),
		node: node, link: LinkData, mtu: dataMTU, mac: hardwareAddr(l.DataAddr(node)), addr: netip.PrefixFrom(l.DataAddr(node), prefixLen),
	}
	return []cable{mgmt, data}
}

// hardwareAddr is a locally administered MAC address that follows from the IP address: a node that comes back on is known by its
// neighbours at once, as a real card is.
func hardwareAddr(addr netip.Addr) net.HardwareAddr {
	ip := addr.As4()
	return net.HardwareAddr{0x02, 0x67, ip[0], ip[1], ip[2], ip[3]}
}

// switchHardwareAddr is the switch's own address on one of its bridges. A bridge that is given none takes the lowest of its ports', which changes when the node
// behind that port loses its power: then nobody reaches what lives at the switch, the BMCs, until neighbours have forgotten the old one (up to half a minute).
func (l *Lab) switchHardwareAddr(bridge string) net.HardwareAddr {
	network := l.MgmtAddr(Controller)
	if bridge == bridgeData {
		network = l.DataAddr(Controller)
	}
	ip := network.As4()
	ip[3] = bmcOctet
	return hardwareAddr(netip.AddrFrom4(ip))
}

// portName fits a node's name into the 15 bytes of an interface name: m-compute-12.
func portName(kind, node string) string {
	const interfaceNameMax = 15
	name := kind + "-" + node
	return name[:min(len(name), interfaceNameMax)]
}

// connect plugs a node into the switch.
func (l *Lab) connect(node string) error {
	if err := loopbackUp(l.Name, node); err != nil {
		return err
	}
	for _, c := range l.cables(node) {
		if err := l.plug(c); err != nil {
			return err
		}
	}
	return nil
}

// disconnect removes a dead node's ports from the switch. The kernel drops them too, but later.
func (l *Lab) disconnect(node string) error {
	return inNetwork(l.Name, Switch, func(h *netlink.Handle) error {
		var errs []error
		for _, c := range l.cables(node) {
			port, err := h.LinkByName(c.port)
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				continue
			}
			if err == nil {
				err = h.LinkDel(port)
			}
			if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) { // the kernel was first
				errs = append(errs, fmt.Errorf("switch: port %s: %w", c.port, err))
			}
		}
		return errors.Join(errs...)
	})
}
