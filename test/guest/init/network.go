package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/test/guest/wire"
)

// network gets an address and keeps it.
type network struct {
	mu    sync.Mutex
	state wire.NetworkStatus
}

func newNetwork() *network { return &network{} }

func (n *network) status() wire.NetworkStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

func (n *network) update(f func(*wire.NetworkStatus)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.state)
}

// seen takes over what metadata tells about this server.
func (n *network) seen(m metadata) {
	n.update(func(s *wire.NetworkStatus) { s.UUID, s.Name = m.UUID, m.Name })
}

const (
	// firstLeaseWait is how long "ready" waits for an address; the client goes on trying after it.
	firstLeaseWait = 30 * time.Second
	// exchangeTimeout and exchangeTries bound one DHCP exchange.
	exchangeTimeout = 2 * time.Second
	exchangeTries   = 3
	retryWait       = time.Second
	// renewMin keeps a server with absurdly short leases from making the guest busy.
	renewMin = 2 * time.Second
	// metadataWait bounds the attempts to reach the metadata service.
	metadataWait = 60 * time.Second
	metadataURL  = "http://169.254.169.254/openstack/latest/"
)

// start configures the first network card, by DHCP unless it is given a fixed address, and returns its address, or "none" if there is no
// card or no lease in time. heard is called when the metadata service has answered.
func (n *network) start(fixed netip.Prefix, heard func(metadata)) string {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		netlink.LinkSetUp(lo)
	}
	link, err := firstCard()
	if err != nil {
		say("network: %v", err)
		return "none"
	}
	n.update(func(s *wire.NetworkStatus) { s.MAC = link.Attrs().HardwareAddr.String() })
	if fixed.IsValid() {
		if err := n.useFixed(link, fixed); err != nil {
			say("network: %v", err)
			return "none"
		}
		return fixed.Addr().String()
	}
	leased := make(chan string, 1) // the first address; nobody may be waiting for it any more
	go n.keepAddress(link, leased)
	select {
	case ip := <-leased:
		go n.fetchMetadata(heard)
		return ip
	case <-time.After(firstLeaseWait):
		say("network: no lease yet")
		go func() { <-leased; n.fetchMetadata(heard) }()
		return "none"
	}
}

func (n *network) useFixed(link netlink.Link, fixed netip.Prefix) error {
	mask := net.CIDRMask(fixed.Bits(), fixed.Addr().BitLen())
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: fixed.Addr().AsSlice(), Mask: mask}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("address %s: %w", fixed, err)
	}
	n.update(func(s *wire.NetworkStatus) { s.IP, s.MTU = fixed.Addr().String(), link.Attrs().MTU })
	return nil
}

// firstCard is the card with the lowest index that has hardware behind it.
func firstCard() (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if _, err := os.Stat(filepath.Join("/sys/class/net", l.Attrs().Name, "device")); err == nil {
			return l, netlink.LinkSetUp(l)
		}
	}
	return nil, fmt.Errorf("no card")
}

// keepAddress obtains a lease, renews it, and starts again when it is lost.
func (n *network) keepAddress(link netlink.Link, leased chan<- string) {
	for ; ; time.Sleep(retryWait) {
		client, err := nclient4.New(link.Attrs().Name, nclient4.WithTimeout(exchangeTimeout), nclient4.WithRetry(exchangeTries))
		if err != nil {
			say("dhcp: %v", err)
			continue
		}
		if err := n.useLeases(client, link, leased); err != nil {
			say("dhcp: %v", err)
		}
		client.Close()
	}
}

// useLeases returns when no lease can be had or the one in use ran out.
func (n *network) useLeases(client *nclient4.Client, link netlink.Link, leased chan<- string) error {
	lease, err := client.Request(context.Background(), dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionClasslessStaticRoute,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName))
	if err != nil {
		return err
	}
	if err := n.applyLease(link, lease.ACK); err != nil {
		return err
	}
	select {
	case leased <- lease.ACK.YourIPAddr.String():
	default:
	}
	for {
		life := lease.ACK.IPAddressLeaseTime(time.Hour)
		expires := lease.CreationTime.Add(life)
		time.Sleep(max(time.Until(lease.CreationTime.Add(life/2)), renewMin))
		renewed, err := client.Renew(context.Background(), lease)
		if err != nil {
			if time.Now().After(expires) {
				return err
			}
			continue
		}
		lease = renewed
		n.update(func(s *wire.NetworkStatus) { s.Renewals++ })
	}
}

// applyLease sets address, MTU and routes.
func (n *network) applyLease(link netlink.Link, ack *dhcpv4.DHCPv4) error {
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: mask}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("address %s: %w", addr, err)
	}
	mtu := link.Attrs().MTU
	if raw, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		mtu = int(raw)
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			say("mtu %d: %v", mtu, err)
		}
	}
	routes := leaseRoutes(ack)
	n.update(func(s *wire.NetworkStatus) {
		s.IP, s.MTU, s.Gateway, s.Routes = ack.YourIPAddr.String(), mtu, "", nil
		for _, r := range routes {
			s.Routes = append(s.Routes, r.String())
		}
		if gws := ack.Router(); len(gws) > 0 {
			s.Gateway = gws[0].String()
		}
	})
	for _, r := range routes {
		if err := setRoute(link, r); err != nil {
			say("route %s: %v", r, err)
		}
	}
	return nil
}

// leaseRoutes are the classless static routes or, only without those, a default route by the first router (RFC 3442).
func leaseRoutes(ack *dhcpv4.DHCPv4) dhcpv4.Routes {
	if routes := ack.ClasslessStaticRoute(); len(routes) > 0 {
		return routes
	}
	if gws := ack.Router(); len(gws) > 0 {
		return dhcpv4.Routes{{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: gws[0]}}
	}
	return nil
}

func setRoute(link netlink.Link, r *dhcpv4.Route) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: r.Dest, Gw: r.Router}
	if r.Router.IsUnspecified() {
		route.Gw, route.Scope = nil, unix.RT_SCOPE_LINK
	}
	return netlink.RouteReplace(route)
}

// fetchMetadata asks the metadata service who this server is.
func (n *network) fetchMetadata(heard func(metadata)) {
	client := &http.Client{Timeout: exchangeTimeout}
	for end := time.Now().Add(metadataWait); time.Now().Before(end); time.Sleep(retryWait) {
		raw, err := get(client, "meta_data.json")
		if err != nil {
			continue
		}
		var m metadata
		if err := json.Unmarshal(raw, &m); err != nil {
			say("metadata: %v", err)
			return
		}
		if raw, err := get(client, "user_data"); err == nil { // most servers have none
			m.userData = string(raw)
		}
		n.seen(m)
		n.update(func(s *wire.NetworkStatus) { s.MetadataSeen = true })
		say("metadata uuid=%s name=%s", m.UUID, m.Name)
		heard(m)
		return
	}
}

// metadataBytesMax is more than Nova allows for user data.
const metadataBytesMax = 1 << 20

func get(client *http.Client, name string) ([]byte, error) {
	resp, err := client.Get(metadataURL + name)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", name, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, metadataBytesMax))
}
