package hostagent

import (
	"net"
	"net/netip"
	"testing"
)

func TestAnAnswerOfAnyKindIsASignOfLife(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	for name, c := range map[string]struct {
		ip   netip.Addr
		port int
		want bool
	}{
		"a listener":    {loopback, port, true},
		"a refusal":     {loopback, 1, true},
		"an echo":       {loopback, 0, true},
		"an echo, IPv6": {netip.IPv6Loopback(), 0, true},
		"nobody":        {netip.MustParseAddr("255.255.255.255"), 0, false}, // no host has it, and the kernel refuses to ask
	} {
		if got, err := Reaches(t.Context(), c.ip, c.port); got != c.want {
			t.Errorf("%s: reached %v (%v), want %v", name, got, err, c.want)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
