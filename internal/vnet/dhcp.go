package vnet

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// leaseTime is Neutron's default. Addresses never change under a lease, so its length only sets how often guests renew.
	leaseTime = 24 * time.Hour

	dhcpServerPort = 67
	dhcpClientPort = 68
)

var metadataAddress = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// lease is what DHCP hands to one MAC.
type lease struct {
	mac      net.HardwareAddr
	address  netip.Prefix
	server   netip.Addr // the service's address on the subnet
	gateway  string
	dns      []string
	routes   []cloud.Route
	mtu      int
	hostname string
}

// leaseOf returns the lease of a NIC: its first address whose subnet has DHCP.
func leaseOf(nic cloud.NIC, hostname string) (lease, bool) {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return lease{}, false
	}
	for _, a := range nic.Addresses {
		if !a.DHCP {
			continue
		}
		ip, err1 := netip.ParseAddr(a.Address)
		server, err2 := netip.ParseAddr(a.DHCPAddress)
		if err1 != nil || err2 != nil || !ip.Is4() || !server.Is4() {
			continue
		}
		return lease{
			mac: mac, address: netip.PrefixFrom(ip, a.Prefix), server: server, gateway: a.Gateway, dns: a.DNS, routes: a.Routes,
			mtu: nic.MTU, hostname: hostname,
		}, true
	}
	return lease{}, false
}

// answer is the DHCP protocol: it returns the reply to a request of the lease's owner, or nil when none is due.
func (l lease) answer(req *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if req.OpCode != dhcpv4.OpcodeBootRequest || !req.GatewayIPAddr.IsUnspecified() && req.GatewayIPAddr != nil {
		return nil, nil // relayed requests come from elsewhere
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return l.reply(req, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		if chosen := req.ServerIdentifier(); chosen != nil && !chosen.Equal(l.server.AsSlice()) {
			return nil, nil // the client took another server's offer
		}
		if !l.wanted(req) {
			return dhcpv4.NewReplyFromRequest(req, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server.AsSlice())))
		}
		return l.reply(req, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		reply, err := l.reply(req, dhcpv4.MessageTypeAck)
		if err == nil { // RFC 2131, 4.3.5: neither an address nor a lease
			reply.YourIPAddr = net.IPv4zero
			reply.Options.Del(dhcpv4.OptionIPAddressLeaseTime)
		}
		return reply, err
	default:
		return nil, nil // decline and release: the address is the port's in any case
	}
}

// wanted reports whether the address a client asks for is its own.
func (l lease) wanted(req *dhcpv4.DHCPv4) bool {
	asked := req.RequestedIPAddress()
	if asked == nil || asked.IsUnspecified() {
		asked = req.ClientIPAddr // renewing
	}
	return asked.Equal(l.address.Addr().AsSlice())
}

func (l lease) reply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	mask := net.CIDRMask(l.address.Bits(), 32)
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(l.address.Addr().AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server.AsSlice())),
		dhcpv4.WithLeaseTime(uint32(leaseTime / time.Second)),
		dhcpv4.WithNetmask(mask),
		dhcpv4.WithOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(l.mtu)}),
		dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(l.staticRoutes()...)),
	}
	if gw := net.ParseIP(l.gateway); gw != nil {
		mods = append(mods, dhcpv4.WithRouter(gw))
	}
	if l.hostname != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptHostName(l.hostname)))
	}
	var dns []net.IP
	for _, s := range l.dns {
		if ip := net.ParseIP(s).To4(); ip != nil {
			dns = append(dns, ip)
		}
	}
	if len(dns) > 0 {
		mods = append(mods, dhcpv4.WithDNS(dns...))
	}
	return dhcpv4.NewReplyFromRequest(req, mods...)
}

// staticRoutes includes the default route, for a client that knows option 121 ignores the router option (RFC 3442).
func (l lease) staticRoutes() []*dhcpv4.Route {
	routes := []*dhcpv4.Route{{Dest: hostNet(metadataAddress), Router: l.server.AsSlice()}}
	for _, r := range l.routes {
		_, dst, err := net.ParseCIDR(r.Destination)
		hop := net.ParseIP(r.NextHop)
		if err == nil && hop != nil && dst.IP.To4() != nil {
			routes = append(routes, &dhcpv4.Route{Dest: dst, Router: hop})
		}
	}
	if gw := net.ParseIP(l.gateway); gw != nil {
		routes = append(routes, &dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: gw})
	}
	return routes
}

func hostNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

// envelope addresses a reply (RFC 2131, 4.1): to the client's address when it has one, broadcast when it asks for that or is refused, else
// to its MAC.
func (l lease) envelope(req, reply *dhcpv4.DHCPv4, from net.HardwareAddr) datagram {
	d := datagram{
		srcMAC: from, dstMAC: l.mac, src: l.server, dst: l.address.Addr(), srcPort: dhcpServerPort, dstPort: dhcpClientPort,
		payload: reply.ToBytes(),
	}
	switch {
	case reply.MessageType() == dhcpv4.MessageTypeNak || req.ClientIPAddr.IsUnspecified() && req.IsBroadcast():
		d.dstMAC, d.dst = broadcast, netip.AddrFrom4([4]byte{255, 255, 255, 255})
	case !req.ClientIPAddr.IsUnspecified():
		if ip, ok := netip.AddrFromSlice(req.ClientIPAddr.To4()); ok {
			d.dst = ip
		}
	}
	return d
}
