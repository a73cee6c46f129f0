package vnet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func testLease(t *testing.T) lease {
	l, ok := leaseOf(nicOf(5, 1), "vm")
	if !ok {
		t.Fatal("no lease")
	}
	return l
}

func request(t *testing.T, l lease, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	req := must[*dhcpv4.DHCPv4](t)(dhcpv4.NewDiscovery(l.mac, mods...))
	req.UpdateOption(dhcpv4.OptMessageType(kind))
	return req
}

func ip4(s string) net.IP { return net.ParseIP(s).To4() }

func TestDHCPAnswersByTheBook(t *testing.T) {
	l := testLease(t)
	asking := func(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip4(s))) }
	from := func(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip4(s))) }
	renewing := func(s string) dhcpv4.Modifier { return func(d *dhcpv4.DHCPv4) { d.ClientIPAddr = ip4(s) } }
	relayed := func(d *dhcpv4.DHCPv4) { d.GatewayIPAddr = ip4("10.0.0.7") }
	for name, c := range map[string]struct {
		req  *dhcpv4.DHCPv4
		want dhcpv4.MessageType // none: silence
	}{
		"discover":                       {request(t, l, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer},
		"request of the offer":           {request(t, l, dhcpv4.MessageTypeRequest, asking("10.0.0.1"), from("10.0.0.200")), dhcpv4.MessageTypeAck},
		"request after a reboot":         {request(t, l, dhcpv4.MessageTypeRequest, asking("10.0.0.1")), dhcpv4.MessageTypeAck},
		"renewal":                        {request(t, l, dhcpv4.MessageTypeRequest, renewing("10.0.0.1")), dhcpv4.MessageTypeAck},
		"request of another address":     {request(t, l, dhcpv4.MessageTypeRequest, asking("10.0.0.2")), dhcpv4.MessageTypeNak},
		"request to another server":      {request(t, l, dhcpv4.MessageTypeRequest, asking("10.0.0.1"), from("10.0.0.3")), dhcpv4.MessageTypeNone},
		"inform":                         {request(t, l, dhcpv4.MessageTypeInform, renewing("10.0.0.1")), dhcpv4.MessageTypeAck},
		"release":                        {request(t, l, dhcpv4.MessageTypeRelease), dhcpv4.MessageTypeNone},
		"decline":                        {request(t, l, dhcpv4.MessageTypeDecline), dhcpv4.MessageTypeNone},
		"a relay's request":              {request(t, l, dhcpv4.MessageTypeDiscover, relayed), dhcpv4.MessageTypeNone},
		"a reply, sent to us by mistake": {request(t, l, dhcpv4.MessageTypeDiscover, func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply }), dhcpv4.MessageTypeNone},
	} {
		reply, err := l.answer(c.req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := dhcpv4.MessageTypeNone
		if reply != nil {
			got = reply.MessageType()
		}
		if got != c.want {
			t.Errorf("%s: answered with %s, want %s", name, got, c.want)
		}
	}
}

func TestInformGetsNoLease(t *testing.T) {
	l := testLease(t)
	reply, err := l.answer(request(t, l, dhcpv4.MessageTypeInform, func(d *dhcpv4.DHCPv4) { d.ClientIPAddr = ip4("10.0.0.1") }))
	check(t, err)
	if !reply.YourIPAddr.IsUnspecified() || reply.IPAddressLeaseTime(0) != 0 || reply.SubnetMask() == nil {
		t.Errorf("got %s", reply.Summary())
	}
}

func TestRepliesGoWhereTheClientCanHear(t *testing.T) {
	l := testLease(t)
	for name, c := range map[string]struct {
		mod  dhcpv4.Modifier
		mac  net.HardwareAddr
		dest string
	}{
		"no address yet":     {func(*dhcpv4.DHCPv4) {}, l.mac, "10.0.0.1"},
		"asks for broadcast": {func(d *dhcpv4.DHCPv4) { d.SetBroadcast() }, broadcast, "255.255.255.255"},
		"renewing":           {func(d *dhcpv4.DHCPv4) { d.ClientIPAddr = ip4("10.0.0.1"); d.SetBroadcast() }, l.mac, "10.0.0.1"},
	} {
		req := request(t, l, dhcpv4.MessageTypeDiscover, c.mod)
		reply, err := l.answer(req)
		check(t, err)
		d := l.envelope(req, reply, serviceMAC(5))
		if !slices.Equal(d.dstMAC, c.mac) || d.dst.String() != c.dest {
			t.Errorf("%s: to %s at %s", name, d.dst, d.dstMAC)
		}
	}
}

func TestNoLeaseWithoutDHCP(t *testing.T) {
	nic := nicOf(5, 1)
	nic.Addresses[0].DHCP = false
	if _, ok := leaseOf(nic, ""); ok {
		t.Error("a subnet without DHCP gives leases")
	}
}

func TestFramesCarryRightChecksums(t *testing.T) {
	f := datagram{
		srcMAC: serviceMAC(5), dstMAC: broadcast, src: netip.MustParseAddr("10.0.0.200"), dst: netip.MustParseAddr("10.0.0.1"),
		srcPort: 67, dstPort: 68, payload: []byte("an odd number of bytes."),
	}.frame()
	ip := f[14:34]
	if checksum(ip) != 0 {
		t.Error("the IP checksum is wrong")
	}
	udp := f[34 : 34+8+23]
	pseudo := append(append([]byte(nil), ip[12:20]...), 0, 17, 0, byte(len(udp)))
	if checksum(append(pseudo, udp...)) != 0 {
		t.Error("the UDP checksum is wrong")
	}
	if int(binary.BigEndian.Uint16(ip[2:])) != 20+len(udp) {
		t.Error("the length is wrong")
	}
}

func TestAnnouncementSaysItInEveryForm(t *testing.T) {
	mac := net.HardwareAddr{0xfa, 0x16, 0x3e, 0, 0, 1}
	frames := announcement(mac, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	var kinds []uint16
	for _, f := range frames {
		if len(f) < frameMin || !slices.Equal(f[:6], broadcast) || !slices.Equal(f[6:12], mac) {
			t.Errorf("frame % x", f)
		}
		kinds = append(kinds, binary.BigEndian.Uint16(f[12:]), binary.BigEndian.Uint16(f[20:]))
	}
	if !slices.Equal(kinds, []uint16{etherRARP, rarpReverse, etherARP, arpRequest, etherARP, arpReply}) {
		t.Errorf("got %x", kinds)
	}
}
