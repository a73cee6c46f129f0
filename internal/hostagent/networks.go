package hostagent

import (
	"context"
	"net/netip"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/metadata"
	"github.com/godwit-cloud/godwit/internal/vnet"
)

// Networks is what the agent needs of the host's networking; *vnet.Networks is it. All calls are idempotent and may come at once for
// different servers. Names of bridges and taps must be a function of networks and ports alone: after a migration the target's libvirt
// uses the source's.
type Networks interface {
	// Ensure makes everything the server's NICs need and returns where each is plugged in, in their order. Incoming says that the server is to arrive
	// by migration with connections that are open already.
	Ensure(ctx context.Context, guest metadata.Server, nics []cloud.NIC, incoming bool) ([]vnet.Plug, error)
	// Update hands over changed names, metadata, addresses or rules of a server that Ensure has seen.
	Update(ctx context.Context, guest metadata.Server, nics []cloud.NIC) error
	// Announce tells the network that the server's addresses are here now. It returns when the first announcement is out.
	Announce(ctx context.Context, id cloud.ServerID) error
	// Release undoes Ensure. A server never seen is success.
	Release(ctx context.Context, id cloud.ServerID) error
	// Sync replaces what the host knows of the others: an older revision than the last one is ignored.
	Sync(ctx context.Context, revision int64, peers []netip.Addr, foreign []cloud.NIC) ([]vnet.Bridge, error)
	// Sweep removes what an earlier process left and no Ensure of this one claimed.
	Sweep(ctx context.Context) error
}

// restoreNetworks claims, after a start of the agent, the networking of every server that may run here, and has the rest removed.
func (a *Agent) restoreNetworks(records []record) {
	for _, r := range records {
		if r.Role == RoleDeparted {
			continue // runs elsewhere: what is left of its network here is to be swept
		}
		spec, err := r.spec()
		if err == nil && spec != nil {
			_, err = a.o.Networks.Ensure(a.life, guestOf(spec), nicsOf(spec.GetNics()), r.Role == RoleIncoming)
		}
		if err != nil {
			a.log.Error("network not restored", "server", r.Server, "error", err)
		}
	}
	if err := a.o.Networks.Sweep(a.life); err != nil {
		a.log.Error("networks not swept", "error", err)
	}
}

// guestOf is what a guest may know of itself. The password is for the first boot's config drive alone.
func guestOf(spec *hostpb.ServerSpec) metadata.Server {
	guest := metadata.Server{
		UUID: spec.GetServerId(), Name: spec.GetName(), Hostname: spec.GetHostname(), ProjectID: spec.GetProjectId(),
		ReservationID: spec.GetReservationId(), AvailabilityZone: spec.GetAvailabilityZone(), FlavorName: spec.GetFlavorName(),
		ImageID: spec.GetImageId(), KeyName: spec.GetKeyName(), PublicKey: spec.GetPublicKey(),
		LaunchIndex: spec.GetLaunchIndex(), Meta: spec.GetMetadata(),
	}
	if data := spec.GetUserData(); len(data) > 0 {
		guest.UserData = data
	}
	for _, n := range spec.GetNics() {
		nic := metadata.NIC{PortID: n.GetPortId(), MAC: n.GetMac(), NetworkID: n.GetNetworkId(), MTU: n.GetMtu()}
		for _, a := range n.GetAddresses() {
			address := metadata.Address{SubnetID: a.GetSubnetId(), Address: a.GetAddress(), Prefix: a.GetPrefix(), Gateway: a.GetGateway(),
				DNS: a.GetDns(), DHCP: a.GetDhcp()}
			for _, r := range a.GetRoutes() {
				address.Routes = append(address.Routes, metadata.Route{Destination: r.GetDestination(), NextHop: r.GetNextHop()})
			}
			nic.Addresses = append(nic.Addresses, address)
		}
		guest.NICs = append(guest.NICs, nic)
	}
	return guest
}

// nicsOf translates the wire's NICs.
func nicsOf(wire []*hostpb.NIC) []cloud.NIC {
	out := make([]cloud.NIC, 0, len(wire))
	for _, n := range wire {
		nic := cloud.NIC{
			Port: cloud.PortID(n.GetPortId()), MAC: n.GetMac(), MTU: int(n.GetMtu()), Network: cloud.NetworkID(n.GetNetworkId()),
			VNI: int(n.GetVni()), PortSecurity: n.GetPortSecurity(), AllowedPairs: n.GetAllowedPairs(),
		}
		for _, a := range n.GetAddresses() {
			nic.Addresses = append(nic.Addresses, addressOf(a))
		}
		for _, r := range n.GetRules() {
			nic.Rules = append(nic.Rules, cloud.NICRule{Direction: r.GetDirection(), EtherType: r.GetEthertype(), Protocol: r.GetProtocol(),
				PortMin: int(r.GetPortMin()), PortMax: int(r.GetPortMax()), RemoteCIDRs: r.GetRemoteCidrs()})
		}
		out = append(out, nic)
	}
	return out
}

func addressOf(a *hostpb.NICAddress) cloud.NICAddress {
	out := cloud.NICAddress{
		Subnet: cloud.SubnetID(a.GetSubnetId()), Address: a.GetAddress(), Prefix: int(a.GetPrefix()), Gateway: a.GetGateway(), DNS: a.GetDns(),
		DHCP: a.GetDhcp(), DHCPAddress: a.GetDhcpAddress(),
	}
	for _, r := range a.GetRoutes() {
		out.Routes = append(out.Routes, cloud.Route{Destination: r.GetDestination(), NextHop: r.GetNextHop()})
	}
	return out
}
