package vnet

import (
	"fmt"
	"net"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/metadata"
)

// Prefixes of the interfaces; a network's VNI follows, at most 8 digits, so that names fit into 15 bytes.
const (
	prefixBridge  = "gwb"
	prefixTunnel  = "gwv"
	prefixService = "gws"
	prefixTap     = "gwt"

	serviceInside = "svc0" // the service's end of the veth pair, inside its own namespace

	vniMax = 1<<24 - 1
)

// BridgeName returns the name of a network's bridge: "gwb" and the VNI.
func BridgeName(vni int) string { return fmt.Sprintf("%s%d", prefixBridge, vni) }

func tunnelName(vni int) string  { return fmt.Sprintf("%s%d", prefixTunnel, vni) }
func serviceName(vni int) string { return fmt.Sprintf("%s%d", prefixService, vni) }

// TapName returns the name that a port's tap must have: "gwt" and the first 11 characters of the port's id.
func TapName(port cloud.PortID) string { return metadata.LinkName(string(port)) }

// vniOf reads the VNI from one of our interfaces' names.
func vniOf(name string) (vni int, ok bool) {
	for _, prefix := range []string{prefixBridge, prefixTunnel, prefixService} {
		if rest, found := strings.CutPrefix(name, prefix); found {
			n, err := fmt.Sscanf(rest, "%d", &vni)
			return vni, err == nil && n == 1 && fmt.Sprint(vni) == rest
		}
	}
	return 0, false
}

// serviceMAC is the same on every host, so that a guest's ARP cache stays right when it moves.
func serviceMAC(vni int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'g', 'w', byte(vni >> 16), byte(vni >> 8), byte(vni)}
}

// zone is the network's conntrack zone.
func zone(vni int) uint16 { return uint16(vni) }
