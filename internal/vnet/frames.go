package vnet

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035

	arpRequest  = 1
	arpReply    = 2
	rarpReverse = 3

	frameMin = 60 // without the checksum; shorter frames are padded
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ethernet(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	frame := make([]byte, 0, max(frameMin, 14+len(payload)))
	frame = append(frame, dst...)
	frame = append(frame, src...)
	frame = binary.BigEndian.AppendUint16(frame, kind)
	frame = append(frame, payload...)
	return frame[:max(frameMin, len(frame))]
}

// arp builds the body that ARP and RARP share.
func arp(op uint16, sha net.HardwareAddr, spa netip.Addr, tha net.HardwareAddr, tpa netip.Addr) []byte {
	body := []byte{0, 1, etherIPv4 >> 8, etherIPv4 & 0xff, 6, 4}
	body = binary.BigEndian.AppendUint16(body, op)
	body = append(append(body, sha...), spa.AsSlice()...)
	return append(append(body, tha...), tpa.AsSlice()...)
}

// announcement returns the frames that tell a segment where a NIC is: RARP, understood by bridges alone, and gratuitous ARP in both
// forms for each address, for some systems heed only requests and some only replies.
func announcement(mac net.HardwareAddr, addresses []netip.Addr) [][]byte {
	zeroIP := netip.IPv4Unspecified()
	frames := [][]byte{ethernet(broadcast, mac, etherRARP, arp(rarpReverse, mac, zeroIP, mac, zeroIP))}
	for _, ip := range addresses {
		frames = append(frames,
			ethernet(broadcast, mac, etherARP, arp(arpRequest, mac, ip, make(net.HardwareAddr, 6), ip)),
			ethernet(broadcast, mac, etherARP, arp(arpReply, mac, ip, broadcast, ip)))
	}
	return frames
}

// datagram is an IPv4 UDP packet to be sent as a raw frame: DHCP answers a client that has no address yet, so ARP cannot help.
type datagram struct {
	srcMAC, dstMAC   net.HardwareAddr
	src, dst         netip.Addr
	srcPort, dstPort uint16
	payload          []byte
}

func (d datagram) frame() []byte {
	length := 8 + len(d.payload)
	udp := make([]byte, 8, length)
	binary.BigEndian.PutUint16(udp[0:], d.srcPort)
	binary.BigEndian.PutUint16(udp[2:], d.dstPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(length))
	udp = append(udp, d.payload...)
	pseudo := append(d.src.AsSlice(), d.dst.AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_UDP, byte(length>>8), byte(length))
	sum := checksum(append(pseudo, udp...))
	if sum == 0 {
		sum = 0xffff // zero means "no checksum"
	}
	binary.BigEndian.PutUint16(udp[6:], sum)

	ip := make([]byte, 20, 20+length)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(20+length))
	copy(ip[12:], d.src.AsSlice())
	copy(ip[16:], d.dst.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return ethernet(d.dstMAC, d.srcMAC, etherIPv4, append(ip, udp...))
}

// checksum is the Internet checksum.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// rawSender sends whole frames on one interface. It receives nothing.
type rawSender struct{ fd int }

// newRawSender must be called in the interface's namespace.
func newRawSender() (rawSender, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	return rawSender{fd}, err
}

func (s rawSender) send(link int, frame []byte) error {
	to := &unix.SockaddrLinklayer{Ifindex: link, Halen: 6}
	copy(to.Addr[:], frame[:6])
	return unix.Sendto(s.fd, frame, 0, to)
}

func (s rawSender) close() error { return unix.Close(s.fd) }
