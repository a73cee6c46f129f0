package vnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/metadata"
)

const (
	metadataPort = 80
	// A guest's request is a line and a few headers; a slow or greedy guest must not hold the agent.
	metadataHeaderBytes = 16 << 10
	metadataReadMax     = 5 * time.Second
	metadataWriteMax    = 10 * time.Second
	metadataIdleMax     = 15 * time.Second
	// metadataConnsMax bounds the connections of one network; cloud-init uses one at a time.
	metadataConnsMax = 128

	dhcpMessageMax = 1500
)

// guestTable is what the service of one network knows. Immutable; replaced as a whole.
type guestTable struct {
	leases map[string]lease                // by MAC
	guests map[netip.Addr]*metadata.Server // by source address
	serve  map[netip.Prefix]bool           // the service's addresses
	direct map[netip.Addr]bool             // guests on subnets where the service has no address
}

// service answers DHCP and metadata on one network, in a namespace of its own. It owns the namespace, two sockets and two goroutines.
type service struct {
	vni      int
	log      *slog.Logger
	ns       netns.NsHandle
	links    *netlink.Handle // inside
	index    int             // of svc0
	table    atomic.Pointer[guestTable]
	dhcp     net.PacketConn
	raw      rawSender
	web      *http.Server
	listener net.Listener
	owned    sync.WaitGroup
	served   map[netip.Prefix]bool // addresses configured
	direct   map[netip.Addr]bool   // routes configured
}

// startService makes the namespace, its veth pair into the bridge, and the servers.
func (n *Networks) startService(vni, mtu int, bridge netlink.Link) (*service, error) {
	s := &service{vni: vni, log: n.log.With("network", vni), served: map[netip.Prefix]bool{}, direct: map[netip.Addr]bool{}, raw: rawSender{-1}}
	s.table.Store(&guestTable{})
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	s.ns = ns
	if err := n.plugService(s, mtu, bridge); err != nil {
		s.stop()
		return nil, fmt.Errorf("network %d: service port: %w", vni, err)
	}
	if err := s.listen(); err != nil {
		s.stop()
		return nil, fmt.Errorf("network %d: service: %w", vni, err)
	}
	s.owned.Go(s.serveDHCP)
	s.web = s.newWeb()
	s.owned.Go(func() { _ = s.web.Serve(s.listener) })
	return s, nil
}

// plugService makes the veth pair anew: an old one belongs to a process that is no more.
func (n *Networks) plugService(s *service, mtu int, bridge netlink.Link) error {
	outside := serviceName(s.vni)
	if err := n.remove(outside); err != nil {
		return err
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: outside, MTU: mtu}, PeerName: serviceInside, PeerHardwareAddr: serviceMAC(s.vni),
		PeerNamespace: netlink.NsFd(int(s.ns)),
	}
	if err := n.links.LinkAdd(pair); err != nil {
		return err
	}
	link, err := n.links.LinkByName(outside)
	if err != nil {
		return err
	}
	if err := n.enslave(link, bridge); err != nil {
		return err
	}
	if err := n.raise(link, mtu); err != nil {
		return err
	}
	if s.links, err = netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	return s.configure()
}

// configure brings up the inside with the metadata address.
func (s *service) configure() error {
	inside := namespace{fd: s.ns, given: true}
	err := inside.do(func() error {
		err := setSysctl("ipv6/conf/all/disable_ipv6", "1")
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range []string{"lo", serviceInside} {
		link, err := s.links.LinkByName(name)
		if err != nil {
			return err
		}
		if err := s.links.LinkSetUp(link); err != nil {
			return err
		}
		s.index = link.Attrs().Index
	}
	return s.address(s.links.AddrReplace, netip.PrefixFrom(metadataAddress, 32))
}

func (s *service) address(change func(netlink.Link, *netlink.Addr) error, p netip.Prefix) error {
	link, err := s.links.LinkByIndex(s.index)
	if err != nil {
		return err
	}
	return change(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}})
}

// listen opens the sockets inside the namespace; they stay there whatever thread uses them.
func (s *service) listen() error {
	inside := namespace{fd: s.ns, given: true}
	return inside.do(func() error {
		var err error
		if s.raw, err = newRawSender(); err != nil {
			return err
		}
		if s.dhcp, err = net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", dhcpServerPort)); err != nil {
			return err
		}
		ln, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", metadataAddress, metadataPort))
		if err != nil {
			return err
		}
		s.listener = netutil.LimitListener(ln, metadataConnsMax)
		return nil
	})
}

// newWeb bounds what a guest can hold of the agent.
func (s *service) newWeb() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(s.answerMetadata),
		ReadHeaderTimeout: metadataReadMax, ReadTimeout: metadataReadMax, WriteTimeout: metadataWriteMax, IdleTimeout: metadataIdleMax,
		MaxHeaderBytes: metadataHeaderBytes,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// update replaces what the service knows and adjusts its addresses.
func (s *service) update(t *guestTable) error {
	s.table.Store(t)
	for p := range t.serve {
		if !s.served[p] {
			if err := s.address(s.links.AddrReplace, p); err != nil {
				return fmt.Errorf("network %d: service address %s: %w", s.vni, p, err)
			}
			s.served[p] = true
		}
	}
	for p := range s.served {
		if !t.serve[p] {
			if err := s.address(s.links.AddrDel, p); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("network %d: service address %s: %w", s.vni, p, err)
			}
			delete(s.served, p)
		}
	}
	return s.updateRoutes(t)
}

func (s *service) updateRoutes(t *guestTable) error {
	for ip := range t.direct {
		if !s.direct[ip] {
			if err := s.links.RouteReplace(&netlink.Route{LinkIndex: s.index, Dst: hostNet(ip), Scope: netlink.SCOPE_LINK}); err != nil {
				return fmt.Errorf("network %d: route to %s: %w", s.vni, ip, err)
			}
			s.direct[ip] = true
		}
	}
	for ip := range s.direct {
		if !t.direct[ip] {
			if err := s.links.RouteDel(&netlink.Route{LinkIndex: s.index, Dst: hostNet(ip), Scope: netlink.SCOPE_LINK}); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("network %d: route to %s: %w", s.vni, ip, err)
			}
			delete(s.direct, ip)
		}
	}
	return nil
}

// stop ends the goroutines and gives up the namespace; the kernel then removes the veth pair.
func (s *service) stop() {
	if s.dhcp != nil {
		_ = s.dhcp.Close()
	}
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.web != nil {
		_ = s.web.Close()
	}
	s.owned.Wait()
	if s.raw.fd >= 0 {
		_ = s.raw.close()
	}
	if s.links != nil {
		s.links.Close()
	}
	_ = s.ns.Close()
}

func (s *service) serveDHCP() {
	buf := make([]byte, dhcpMessageMax)
	for {
		size, _, err := s.dhcp.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		if req, err := dhcpv4.FromBytes(slices.Clone(buf[:size])); err == nil {
			s.answerDHCP(req)
		}
	}
}

func (s *service) answerDHCP(req *dhcpv4.DHCPv4) {
	l, ok := s.table.Load().leases[req.ClientHWAddr.String()]
	if !ok {
		return // not ours, or without DHCP
	}
	reply, err := l.answer(req)
	if err == nil && reply != nil {
		err = s.raw.send(s.index, l.envelope(req, reply, serviceMAC(s.vni)).frame())
	}
	if err != nil {
		s.log.Warn("cannot answer a DHCP request", "mac", l.mac, "error", err)
		return
	}
	if reply != nil {
		s.log.Debug("DHCP", "mac", l.mac, "asked", req.MessageType(), "answered", reply.MessageType(), "address", l.address)
	}
}

func (s *service) answerMetadata(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "400 Bad Request", http.StatusBadRequest)
		return
	}
	guest := s.table.Load().guests[from.Addr().Unmap()]
	if guest == nil {
		http.Error(w, "404 Not Found", http.StatusNotFound)
		return
	}
	metadata.Serve(w, r, guest)
}

// tableOf builds the network's table from everything that is plugged in here.
func tableOf(vni int, residents map[cloud.ServerID]*resident, foreign []cloud.NIC) *guestTable {
	t := &guestTable{
		leases: map[string]lease{}, guests: map[netip.Addr]*metadata.Server{}, serve: map[netip.Prefix]bool{}, direct: map[netip.Addr]bool{},
	}
	for _, nic := range foreign {
		if nic.VNI == vni {
			t.add(nic, nil)
		}
	}
	for _, r := range residents {
		for _, nic := range r.nics {
			if nic.VNI == vni {
				t.add(nic, &r.meta)
			}
		}
	}
	return t
}

func (t *guestTable) add(nic cloud.NIC, meta *metadata.Server) {
	hostname := ""
	if meta != nil {
		hostname = meta.Hostname
	}
	if l, ok := leaseOf(nic, hostname); ok {
		t.leases[l.mac.String()] = l
	}
	for _, a := range nic.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil || !ip.Is4() {
			continue
		}
		if meta != nil {
			t.guests[ip] = meta
		}
		if server, err := netip.ParseAddr(a.DHCPAddress); err == nil && server.Is4() {
			t.serve[netip.PrefixFrom(server, a.Prefix)] = true
		} else {
			t.direct[ip] = true
		}
	}
}
