// Package vnet is a host's part of the virtual networks: bridges, tunnels, DHCP, the metadata service, security groups and the
// announcement after a live migration. It works in one network namespace, usually the host's own.
//
//	     guest            guest                        foreign device
//	       | gwt<port>      | gwt<port>                     |
//	+------+----------------+-------------------------------+-----+   gwb<vni>: one bridge for each network with a port here
//	|                        gwb<vni>                             |
//	+------+-------------------------------------------+----------+
//	       | gws<vni>  (isolated)                      | gwv<vni>  (isolated)
//	+------+-----------------------------+     VXLAN id <vni>, UDP 4789, to every other host
//	| private namespace, "svc0"          |     (head-end replication: one all-zero FDB entry for each peer)
//	|   <dhcp_address>   DHCP            |
//	|   169.254.169.254  metadata (HTTP) |
//	+------------------------------------+
//
// # The service is an anycast
//
// Every host answers DHCP and metadata from the same addresses and the same MAC, but only to its own guests: so a guest's leases, routes
// and ARP cache stay right when it moves. That needs that the service port and the tunnel never exchange a frame: both are "isolated"
// bridge ports, which the kernel does not connect. Besides, ARP for the service's addresses and DHCP are dropped at the tunnel, which saves
// every other host the flooding.
//
// The service's addresses live in a network namespace without a name, held by this process alone. So tenants may use any subnet, the
// host's own included, without touching the host's routes; guests cannot reach the host (it has no address on the bridge, and an
// inet rule drops what comes from one); and nothing is left when the process dies. DHCP and metadata then pause until the agent is back;
// guests' traffic does not.
//
// # Security groups
//
// Filtering happens on the bridge (table "bridge godwit"): for each secured tap one chain for what the guest sends (anti-spoofing, then
// egress rules) and one for what it is sent. Changing a port is one nft transaction, so there is never a moment without rules, and
// other ports are not touched. Established connections are recognised by conntrack, in the best way the kernel has (probed once):
//
//   - conntrack in the bridge family (nf_conntrack_bridge): "ct state" in the chains themselves;
//   - br_netfilter: an inet chain, which sees bridged packets as well, marks packets of established connections with one mark bit, the
//     bridge chains look at the bit, and it is cleared before the packet leaves. The host's own inet forward rules see guests' packets then:
//     a default of drop there (as container engines set) must make an exception for gwb*;
//   - neither: TCP segments that do not open a connection pass, and UDP replies of DNS and NTP, and ICMP errors. This is weaker, and New says so in the log.
//
// Each network has its own conntrack zone (its VNI modulo 2^16), for tenants' addresses overlap.
//
// # Moving
//
// The target knows nothing of connections that were opened on the source. Were "established" decided by its conntrack table alone, a peer's
// mid-stream segment would look new and be dropped; a guest that only receives would stay silent, and its connection would die. So a port that arrives
// is in the set "arrived" for arrivedFor: TCP segments with ACK and without SYN pass in both directions and enter conntrack (tcp_loose, the kernel's
// default). No connection can be opened that way; what it gives away is that a stranger can see, by a reset, that the address is alive.
// UDP needs no such thing: the guest's next datagram opens the way for replies. Release forgets the guest's conntrack entries, or a guest
// that comes back would meet its old sequence window.
//
// Announce tells the other hosts where the guest is now: gratuitous ARP and RARP frames with the guest's MAC leave through the tunnel to every
// peer, whose VXLAN and bridge learn from them, at once and a few times more; and the local bridge is told that the MAC
// is at the tap. The frames do not pass the local bridge, for it would see the MAC come from two sides. Only the target announces.
//
// # Ownership
//
// Networks serialises all changes under one lock (announcements have another, so as not to wait); each is idempotent and begins from what the kernel has. Guests' taps are libvirt's;
// everything named gwb, gwv and gws is ours. After a restart of the agent Ensure is called again for every server, which changes nothing that is right,
// and then Sweep removes what nobody claimed.
package vnet
