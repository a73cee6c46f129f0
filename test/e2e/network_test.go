package e2e

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// TestSecurityGroupsReachARunningGuest: closing and opening a port takes effect at once, on the host the guest has moved to as well; connections
// that stand are left alone.
func TestSecurityGroupsReachARunningGuest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), steerMax)
	defer cancel()
	g := boot(t, guestOptions{name: "guarded", host: here})
	group, err := groups.Create(ctx, cloud.Network, groups.CreateOpts{Name: "closed"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the server, which uses it
		if err := groups.Delete(context.Background(), cloud.Network, group.ID).ExtractErr(); err != nil {
			t.Error(err)
		}
	})
	port := sockets(ctx, t, g.id)[0]
	guard := func(list ...string) {
		t.Helper()
		if _, err := ports.Update(ctx, cloud.Network, port.ID, ports.UpdateOpts{SecurityGroups: &list}).Extract(); err != nil {
			t.Fatal(err)
		}
	}
	before, err := ports.Get(ctx, cloud.Network, port.ID).Extract()
	if err != nil {
		t.Fatal(err)
	}
	awaitDoor(ctx, t, g.ip, true)
	guard(group.ID)
	awaitDoor(ctx, t, g.ip, false)
	moveTo(ctx, t, g, there)
	if open := knock(ctx, g.ip); open {
		t.Error("the guest is open on its new host, closed on the old one")
	}
	_, err = rules.Create(ctx, cloud.Network, rules.CreateOpts{
		SecGroupID: group.ID, Direction: rules.DirIngress, EtherType: rules.EtherType4, Protocol: rules.ProtocolTCP,
		PortRangeMin: guest.EchoPort, PortRangeMax: guest.EchoPort, RemoteIPPrefix: cloud.Peer.Addr().String() + "/32",
	}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	awaitDoor(ctx, t, g.ip, true)
	g.whole(t) // over the connection that was open all the time
	guard(before.SecurityGroups...)
}

// knockMax is how long a guest that lets the peer in may take to answer.
const knockMax = time.Second

// knock reports whether the guest's echo port answers the peer.
func knock(ctx context.Context, ip string) bool {
	ctx, cancel := context.WithTimeout(ctx, knockMax)
	defer cancel()
	conn, err := cloud.Peer.Dial(ctx, "tcp4", net.JoinHostPort(ip, strconv.Itoa(guest.EchoPort)))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func awaitDoor(ctx context.Context, t *testing.T, ip string, open bool) {
	t.Helper()
	err := labcloud.Until(ctx, "", func() (bool, error) { return knock(ctx, ip) == open, nil })
	if err != nil {
		t.Fatalf("echo port of %s open: %v, want %v", ip, !open, open)
	}
}
