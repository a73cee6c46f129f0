package flows

import (
	"encoding/base64"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/netspec"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Spec returns all that a host must know to run the server, as v shows it.
func Spec(v store.View, s *cloud.Server) (*hostpb.ServerSpec, error) {
	nics, err := netspec.ForServer(tables.NetworkRecords{Reader: v}, s)
	if err != nil {
		return nil, err
	}
	userData, err := base64.StdEncoding.DecodeString(s.UserData)
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "decode user data", "server "+string(s.ID), err)
	}
	spec := &hostpb.ServerSpec{
		ServerId: string(s.ID), Name: s.Name, Hostname: s.Hostname, ProjectId: string(s.Project), UserId: string(s.User),
		Vcpus: int64(s.Flavor.VCPUs), RamMib: int64(s.Flavor.RAMMiB), CpuModel: s.CPUModel,
		ConfigDrive: s.ConfigDrive, UserData: userData, Metadata: s.Metadata, KeyName: s.KeyName, PublicKey: s.PublicKey,
		AvailabilityZone: zoneOf(v, s), FlavorName: s.Flavor.Name, ImageId: string(s.Image), Created: timestamppb.New(s.Created),
		ReservationId: s.Reservation, LaunchIndex: int64(s.BootIndex),
	}
	spec.WatchdogAction, spec.GuestAgent = s.WatchdogAction(), s.HasGuestAgent()
	for _, n := range nics {
		spec.Nics = append(spec.Nics, NIC(n))
	}
	if s.RootDevice() == nil {
		spec.Root = &hostpb.RootDisk{ImageId: string(s.Image), ImageFormat: s.ImageFormat, ImageBytes: s.ImageBytes, ImageSha512: s.ImageHash, Bytes: s.RootBytes()}
	}
	spec.Volumes, err = volumesOn(v, s, s.Host)
	return spec, err
}

// zoneOf returns the availability zone of the server's host, or the one asked for while it has none.
func zoneOf(v store.View, s *cloud.Server) string {
	if s.Host != "" {
		return tables.Zone(v, s.Host)
	}
	if s.Zone != "" {
		return s.Zone
	}
	return cloud.DefaultZone
}

// NIC puts a NIC into the form of the wire.
func NIC(n cloud.NIC) *hostpb.NIC {
	out := &hostpb.NIC{
		PortId: string(n.Port), Mac: n.MAC, Mtu: int64(n.MTU), NetworkId: string(n.Network), Vni: int64(n.VNI),
		PortSecurity: n.PortSecurity, AllowedPairs: n.AllowedPairs,
	}
	for _, a := range n.Addresses {
		out.Addresses = append(out.Addresses, nicAddress(a))
	}
	for _, r := range n.Rules {
		out.Rules = append(out.Rules, &hostpb.SecurityRule{
			Direction: r.Direction, Ethertype: r.EtherType, Protocol: r.Protocol, PortMin: int32(r.PortMin), PortMax: int32(r.PortMax), RemoteCidrs: r.RemoteCIDRs,
		})
	}
	return out
}

func nicAddress(a cloud.NICAddress) *hostpb.NICAddress {
	out := &hostpb.NICAddress{
		SubnetId: string(a.Subnet), Address: a.Address, Prefix: int64(a.Prefix), Gateway: a.Gateway, Dns: a.DNS, Dhcp: a.DHCP, DhcpAddress: a.DHCPAddress,
	}
	for _, r := range a.Routes {
		out.Routes = append(out.Routes, &hostpb.StaticRoute{Destination: r.Destination, NextHop: r.NextHop})
	}
	return out
}

// bindPorts writes, in the server's transaction, on which host its ports are and whether they carry traffic. An empty host unbinds them.
func bindPorts(tx *store.Tx, s *cloud.Server, host cloud.HostName, status string) error {
	for _, id := range s.Ports {
		p, err := store.Get(tx, tables.Ports, id)
		if cloud.Is(err, cloud.KindNotFound) {
			continue // deleted under the server; its NIC cannot be built, which Spec reports
		}
		if err != nil {
			return fmt.Errorf("bind port %s: %w", id, err)
		}
		if p.BindingHost == host && p.Status == status {
			continue
		}
		p.BindingHost, p.Status, p.Updated = host, status, now()
		p.Revision++
		if err := store.Put(tx, tables.Ports, id, p); err != nil {
			return err
		}
	}
	return nil
}

// The states of a port that flows write.
const (
	portActive = "ACTIVE"
	portDown   = "DOWN"
)
