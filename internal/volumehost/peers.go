package volumehost

import (
	"context"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Peers implements hostpb.VolumeHostServer. The kernel knows when it last heard from each connection's other end, acknowledgements included, so this costs the
// data path nothing.
func (h *Host) Peers(context.Context, *hostpb.PeersRequest) (*hostpb.PeersReply, error) {
	silent := map[netip.Addr]time.Duration{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCPInfo(family)
		if err != nil {
			return nil, cloud.E(cloud.KindUnavailable, "list connections", "", err)
		}
		for _, s := range sockets {
			hear(silent, s, h.o.NBD.Port())
		}
	}
	reply := &hostpb.PeersReply{}
	for address, d := range silent {
		reply.Peers = append(reply.Peers, &hostpb.VolumePeer{Address: address.String(), Silent: durationpb.New(d)})
	}
	return reply, nil
}

// hear notes one socket, if it is a connection to the volumes. Of several of one address the one that heard last counts.
func hear(silent map[netip.Addr]time.Duration, s *netlink.InetDiagTCPInfoResp, port uint16) {
	if s.InetDiagMsg == nil || s.TCPInfo == nil || s.InetDiagMsg.ID.SourcePort != port || s.TCPInfo.State != unix.BPF_TCP_ESTABLISHED {
		return
	}
	address, ok := netip.AddrFromSlice(s.InetDiagMsg.ID.Destination)
	if !ok {
		return
	}
	address = address.Unmap()
	d := time.Duration(min(s.TCPInfo.Last_data_recv, s.TCPInfo.Last_ack_recv)) * time.Millisecond
	if before, heard := silent[address]; !heard || d < before {
		silent[address] = d
	}
}
