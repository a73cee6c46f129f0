package vnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/metadata"
)

// Options are what New needs. TunnelAddress is required.
type Options struct {
	TunnelAddress netip.Addr // this host's end of every tunnel, IPv4
	// Namespace is an open network namespace to work in; nil is the process's own. The caller keeps it open until Close.
	Namespace *netns.NsHandle
	Logger    *slog.Logger // nil: slog.Default
}

// Plug is where a server's NIC is to be connected.
type Plug struct {
	Port   cloud.PortID
	Bridge string // to put the tap on
	Tap    string // the name the tap must have
	MAC    string
	MTU    int
}

// Bridge is a network's bridge on this host.
type Bridge struct {
	Network cloud.NetworkID
	VNI     int
	Name    string
}

// Networks is a host's virtual networking. All changes happen under one lock. Make it with New.
type Networks struct {
	opts   Options
	log    *slog.Logger
	ns     namespace
	links  *netlink.Handle
	filter nft
	mode   tracking
	raw    rawSender

	life  context.Context // ends with Close
	end   context.CancelFunc
	owned sync.WaitGroup

	voices voices

	mu        sync.Mutex
	residents map[cloud.ServerID]*resident
	foreign   []cloud.NIC
	revision  int64
	peers     []netip.Addr
	services  map[int]*service // by VNI: the networks that are up
}

// resident is a server with NICs here.
type resident struct {
	meta metadata.Server
	nics []cloud.NIC
}

// New prepares the packet filter and finds out what this kernel can do. It touches nothing that an earlier process left; Ensure and Sweep do.
func New(ctx context.Context, opts Options) (*Networks, error) {
	if !opts.TunnelAddress.Is4() {
		return nil, cloud.Errorf(cloud.KindInvalid, "tunnel address %q is not an IPv4 address", opts.TunnelAddress)
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	n := &Networks{opts: opts, log: opts.Logger, residents: map[cloud.ServerID]*resident{}, services: map[int]*service{}}
	n.voices.of = map[cloud.ServerID]*voice{}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if opts.Namespace != nil {
		n.ns = namespace{fd: *opts.Namespace, given: true}
		handle, err = netlink.NewHandleAt(*opts.Namespace, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	}
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	n.links = handle
	if err := n.open(ctx); err != nil {
		n.links.Close()
		return nil, err
	}
	n.life, n.end = context.WithCancel(context.Background())
	return n, nil
}

func (n *Networks) open(ctx context.Context) error {
	var err error
	if n.filter, err = findNft(n.ns); err != nil {
		return err
	}
	if n.mode, err = n.filter.probe(ctx); err != nil {
		return err
	}
	var s script
	s.base(n.mode)
	if err := n.filter.apply(ctx, &s); err != nil {
		return fmt.Errorf("set up the packet filter: %w", err)
	}
	if n.mode == trackNone {
		n.log.Warn("this kernel cannot track connections on bridges: security groups tell replies by their flags and ports only")
	} else {
		n.log.Info("security groups are stateful", "by", n.mode.String())
	}
	return n.ns.do(func() error {
		n.raw, err = newRawSender()
		return err
	})
}

// Close ends DHCP, metadata and announcements. Bridges, tunnels and rules stay: guests' traffic goes on.
func (n *Networks) Close() {
	n.end()
	n.owned.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.services {
		s.stop()
	}
	n.services = map[int]*service{}
	n.voices.mu.Lock()
	n.voices.of = map[cloud.ServerID]*voice{} // nobody speaks through closed sockets
	n.voices.mu.Unlock()
	_ = n.raw.close()
	n.links.Close()
}

// Ensure makes everything a server's NICs need here, and replaces what it was told of the server before. It returns a plug for each NIC, in
// order. With incoming set the server is about to arrive by live migration with connections that this host has not seen begin.
// Idempotent. Errors: KindInvalid for NICs that cannot be built.
func (n *Networks) Ensure(ctx context.Context, meta metadata.Server, nics []cloud.NIC, incoming bool) ([]Plug, error) {
	id := cloud.ServerID(meta.UUID)
	if id == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "a server without id has no network")
	}
	for _, nic := range nics {
		if err := checkNIC(nic); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.residents[id]
	if r == nil {
		r = &resident{}
		n.residents[id] = r
	}
	gone := missing(r.nics, nics)
	meta.AdminPass = "" // Nova gives it on the config drive only
	r.meta, r.nics = meta, slices.Clone(nics)
	if err := n.build(ctx, r.nics, incoming); err != nil {
		return nil, fmt.Errorf("server %s: network: %w", id, err)
	}
	if err := n.unplug(ctx, gone); err != nil {
		return nil, fmt.Errorf("server %s: network: %w", id, err)
	}
	if err := n.voices.learn(id, nics); err != nil {
		return nil, err
	}
	plugs := make([]Plug, len(nics))
	for i, nic := range nics {
		plugs[i] = Plug{Port: nic.Port, Bridge: BridgeName(nic.VNI), Tap: TapName(nic.Port), MAC: nic.MAC, MTU: nic.MTU}
	}
	return plugs, nil
}

// Update hands over a server's changed name, metadata, addresses or rules. A server that has not been ensured is KindNotFound.
func (n *Networks) Update(ctx context.Context, meta metadata.Server, nics []cloud.NIC) error {
	n.mu.Lock()
	_, known := n.residents[cloud.ServerID(meta.UUID)]
	n.mu.Unlock()
	if !known {
		return cloud.Errorf(cloud.KindNotFound, "server %s has no network here", meta.UUID)
	}
	_, err := n.Ensure(ctx, meta, nics, false)
	return err
}

// Release undoes Ensure: the server's rules, leases and metadata go, and each network that has nobody left. An unknown server is no error.
func (n *Networks) Release(ctx context.Context, id cloud.ServerID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.residents[id]
	if r == nil {
		return nil
	}
	n.voices.forget(id)
	nics := r.nics
	r.nics = nil
	if err := n.unplug(ctx, nics); err != nil {
		r.nics = nics // to be tried again
		return fmt.Errorf("server %s: release network: %w", id, err)
	}
	delete(n.residents, id)
	n.forgetConnections(nics)
	return nil
}

const (
	mtuMin = 576
	mtuMax = 65535
)

func checkNIC(nic cloud.NIC) error {
	mac, err := net.ParseMAC(nic.MAC)
	switch {
	case nic.Port == "":
		return cloud.Errorf(cloud.KindInvalid, "a NIC without port")
	case strings.ContainsFunc(TapName(nic.Port), unfitForName):
		return cloud.Errorf(cloud.KindInvalid, "port %s: its id does not fit into an interface name", nic.Port)
	case err != nil || len(mac) != 6 || mac[0]&1 != 0:
		return cloud.Errorf(cloud.KindInvalid, "port %s: %q is not a unicast MAC address", nic.Port, nic.MAC)
	case nic.VNI < 1 || nic.VNI > vniMax:
		return cloud.Errorf(cloud.KindInvalid, "port %s: VNI %d is not between 1 and %d", nic.Port, nic.VNI, vniMax)
	case nic.MTU < mtuMin || nic.MTU > mtuMax-vxlanOverhead:
		return cloud.Errorf(cloud.KindInvalid, "port %s: MTU %d is not usable", nic.Port, nic.MTU)
	}
	return nil
}

// unfitForName keeps names safe in nft's language as well.
func unfitForName(r rune) bool {
	fits := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	return !fits
}

// missing returns the NICs of before whose port is not in now, or is on another network now.
func missing(before, now []cloud.NIC) []cloud.NIC {
	return slices.DeleteFunc(slices.Clone(before), func(old cloud.NIC) bool {
		return slices.ContainsFunc(now, func(nic cloud.NIC) bool { return nic.Port == old.Port && nic.VNI == old.VNI })
	})
}

// build makes the networks, then in one transaction the rules of all the NICs, then lets the services know.
func (n *Networks) build(ctx context.Context, nics []cloud.NIC, incoming bool) error {
	for _, nic := range nics {
		if err := n.ensureNetwork(nic.VNI, nic.MTU); err != nil {
			return err
		}
	}
	var s script
	for _, vni := range networksOf(nics) {
		n.networkRules(&s, vni)
	}
	for _, nic := range nics {
		if err := s.port(n.mode, nic); err != nil {
			return err
		}
		if incoming && nic.PortSecurity {
			s.arrived(TapName(nic.Port))
		}
	}
	if err := n.filter.apply(ctx, &s); err != nil {
		return err
	}
	return n.updateServices(nics)
}

// ensureNetwork brings a network up on this host, or what is missing of it.
func (n *Networks) ensureNetwork(vni, mtu int) error {
	bridge, err := n.ensureBridge(vni, mtu)
	if err != nil {
		return err
	}
	if err := n.ensureTunnel(vni, mtu, bridge); err != nil {
		return err
	}
	if s := n.services[vni]; s != nil {
		if link, err := n.find(serviceName(vni)); err == nil && link != nil && link.Attrs().MasterIndex == bridge.Attrs().Index {
			return n.raise(link, mtu)
		}
		s.stop() // somebody removed its port
		delete(n.services, vni)
	}
	s, err := n.startService(vni, mtu, bridge)
	if err != nil {
		return err
	}
	n.services[vni] = s
	return nil
}

// networkRules writes a network's rules from what all its NICs here say of its subnets.
func (n *Networks) networkRules(s *script, vni int) {
	var anycast []netip.Addr
	dhcp := false
	for p := range tableOf(vni, n.residents, n.foreign).serve {
		anycast = append(anycast, p.Addr())
		dhcp = true
	}
	s.network(n.mode, vni, anycast, dhcp)
}

func (n *Networks) updateServices(nics []cloud.NIC) error {
	for _, vni := range networksOf(nics) {
		if s := n.services[vni]; s != nil {
			if err := s.update(tableOf(vni, n.residents, n.foreign)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unplug removes NICs' rules and the networks that nobody uses any more. The NICs are no longer in n.residents or n.foreign.
func (n *Networks) unplug(ctx context.Context, nics []cloud.NIC) error {
	if len(nics) == 0 {
		return nil
	}
	var s script
	for _, nic := range nics {
		if !n.plugged(nic.Port) {
			s.dropPort(n.mode, nic)
		}
	}
	for _, vni := range networksOf(nics) {
		if n.used(vni) {
			n.networkRules(&s, vni)
		}
	}
	if err := n.filter.apply(ctx, &s); err != nil {
		return err
	}
	for _, vni := range networksOf(nics) {
		if n.used(vni) {
			continue
		}
		if err := n.dropNetwork(ctx, vni); err != nil {
			return err
		}
	}
	return n.updateServices(nics)
}

// dropNetwork removes all that a network has on this host.
func (n *Networks) dropNetwork(ctx context.Context, vni int) error {
	if s := n.services[vni]; s != nil {
		s.stop()
		delete(n.services, vni)
	}
	for _, name := range []string{serviceName(vni), tunnelName(vni), BridgeName(vni)} {
		if err := n.remove(name); err != nil {
			return err
		}
	}
	var s script
	s.dropNetwork(n.mode, vni)
	return n.filter.apply(ctx, &s)
}

// nics returns every NIC that is to be here.
func (n *Networks) nics() []cloud.NIC {
	all := slices.Clone(n.foreign)
	for _, r := range n.residents {
		all = append(all, r.nics...)
	}
	return all
}

func (n *Networks) used(vni int) bool {
	return slices.ContainsFunc(n.nics(), func(nic cloud.NIC) bool { return nic.VNI == vni })
}

func (n *Networks) plugged(port cloud.PortID) bool {
	return slices.ContainsFunc(n.nics(), func(nic cloud.NIC) bool { return nic.Port == port })
}

func networksOf(nics []cloud.NIC) []int {
	var vnis []int
	for _, nic := range nics {
		vnis = append(vnis, nic.VNI)
	}
	slices.Sort(vnis)
	return slices.Compact(vnis)
}

// Sync replaces the other hosts' tunnel addresses (this host's own is ignored) and the foreign ports: those that are bound to this host and that no
// server owns, for which the bridge must exist. A revision older than the last one changes nothing. It returns the foreign
// ports' bridges.
func (n *Networks) Sync(ctx context.Context, revision int64, peers []netip.Addr, foreign []cloud.NIC) ([]Bridge, error) {
	for _, nic := range foreign {
		if err := checkNIC(nic); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if revision >= n.revision {
		if err := n.sync(ctx, peers, foreign); err != nil {
			return nil, err
		}
		n.revision = revision
	}
	bridges := make([]Bridge, 0, len(n.foreign))
	for _, nic := range n.foreign {
		b := Bridge{Network: nic.Network, VNI: nic.VNI, Name: BridgeName(nic.VNI)}
		if !slices.Contains(bridges, b) {
			bridges = append(bridges, b)
		}
	}
	return bridges, nil
}

func (n *Networks) sync(ctx context.Context, peers []netip.Addr, foreign []cloud.NIC) error {
	n.peers = slices.DeleteFunc(slices.Clone(peers), func(ip netip.Addr) bool { return ip == n.opts.TunnelAddress || !ip.Is4() })
	slices.SortFunc(n.peers, netip.Addr.Compare)
	n.peers = slices.Compact(n.peers)
	var errs []error
	for vni := range n.services {
		if tunnel, err := n.find(tunnelName(vni)); err != nil {
			errs = append(errs, err)
		} else if tunnel != nil {
			errs = append(errs, n.syncPeers(tunnel))
		}
	}
	gone := missing(n.foreign, foreign)
	n.foreign = slices.Clone(foreign)
	for _, nic := range n.foreign {
		errs = append(errs, n.ensureNetwork(nic.VNI, nic.MTU))
	}
	var s script
	for _, vni := range networksOf(n.foreign) {
		n.networkRules(&s, vni)
	}
	errs = append(errs, n.filter.apply(ctx, &s), n.updateServices(n.foreign), n.unplug(ctx, gone))
	return errors.Join(errs...)
}

// Sweep removes what an earlier process left and nobody has claimed since: rules of ports whose tap is gone, and bridges without a
// port of a guest or a foreign device. Call it when every server of this host has been ensured.
func (n *Networks) Sweep(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	links, err := n.links.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, vni := range n.strays(links) {
		n.log.Info("sweeping an unused network", "network", vni)
		if err := n.dropNetwork(ctx, vni); err != nil {
			return err
		}
	}
	return n.sweepRules(ctx)
}

// strays returns the networks whose interfaces are here without a reason.
func (n *Networks) strays(links []netlink.Link) []int {
	bridges, lively := map[int]int{}, map[int]bool{} // VNI to link index; bridges with other ports than ours
	var found []int
	for _, l := range links {
		if vni, ok := vniOf(l.Attrs().Name); ok && !n.used(vni) {
			found = append(found, vni)
			if l.Attrs().Name == BridgeName(vni) {
				bridges[vni] = l.Attrs().Index
			}
		}
	}
	for _, l := range links {
		if _, ours := vniOf(l.Attrs().Name); !ours {
			lively[l.Attrs().MasterIndex] = true
		}
	}
	slices.Sort(found)
	return slices.DeleteFunc(slices.Compact(found), func(vni int) bool {
		return bridges[vni] != 0 && lively[bridges[vni]]
	})
}

func (n *Networks) sweepRules(ctx context.Context) error {
	known := map[string]bool{}
	for _, nic := range n.nics() {
		known[TapName(nic.Port)] = true
	}
	taps, err := n.filter.ports(ctx, "bridge", "to_guest")
	if err != nil {
		return err
	}
	var s script
	for _, tap := range taps {
		if link, err := n.find(tap); known[tap] || err != nil || link != nil {
			continue
		}
		n.log.Info("sweeping an unused port", "tap", tap)
		s.dropPortChains(tap)
	}
	return n.filter.apply(ctx, &s)
}
