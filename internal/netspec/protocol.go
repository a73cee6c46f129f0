package netspec

import "strconv"

// protocols are the names Neutron knows besides tcp, udp and icmp, which the wire keeps, with IANA's numbers.
var protocols = map[string]int{
	"ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "icmpv6": 58, "igmp": 2, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58,
	"ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "udplite": 136, "vrrp": 112,
}

// Protocol returns the one spelling under which hosts know a protocol: empty for any, tcp, udp, icmp, else the number in decimal. Text that is no
// protocol is returned as it is; see KnownProtocol.
func Protocol(s string) string {
	switch s {
	case "1":
		return "icmp"
	case "6":
		return "tcp"
	case "17":
		return "udp"
	}
	if n, ok := protocols[s]; ok {
		return strconv.Itoa(n)
	}
	if n, err := strconv.Atoi(s); err == nil {
		return strconv.Itoa(n)
	}
	return s
}

// KnownProtocol reports whether s is empty, a protocol's name, or a number from 0 to 255.
func KnownProtocol(s string) bool {
	switch s {
	case "", "tcp", "udp", "icmp":
		return true
	}
	if _, ok := protocols[s]; ok {
		return true
	}
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= 255
}
