package labcloud

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
)

// Fixture is what almost everything done with a Cloud needs: the test guest as an image, a flavor that fits it, a network and a peer on it.
type Fixture struct {
	*Cloud
	ImageID, FlavorID, NetworkID string
	Peer                         *lab.Peer
}

// Sizes of the fixture's flavor: enough for the test guest, small enough that three hosts hold a dozen.
const (
	fixtureRAMMiB  = 256
	fixtureDiskGiB = 1
)

// Furnish makes the fixture on a fresh cloud. The peer sits on the last compute host.
func Furnish(ctx context.Context, c *Cloud, progress func(string)) (*Fixture, error) {
	f := &Fixture{Cloud: c}
	say := func(format string, args ...any) {
		if progress != nil {
			progress(fmt.Sprintf(format, args...))
		}
	}
	path, err := guest.Image(ctx)
	if err != nil {
		return nil, fmt.Errorf("guest image: %w", err)
	}
	say("uploading %s", path)
	if f.ImageID, err = c.UploadImage(ctx, "godwit-guest", path); err != nil {
		return nil, err
	}
	if f.FlavorID, err = c.Flavor(ctx, "guest", 1, fixtureRAMMiB, fixtureDiskGiB); err != nil {
		return nil, err
	}
	if f.NetworkID, err = c.NetworkWithSubnet(ctx, "ncep-net", "10.20.20.0/24"); err != nil {
		return nil, err
	}
	nodes := c.Lab.ComputeNodes()
	last := nodes[len(nodes)-1]
	say("plugging a peer into the network on %s", last)
	f.Peer, err = c.Peer(ctx, "tester", f.NetworkID, last)
	return f, err
}

// BootGuest boots a test guest; orders are godwit.* settings without the prefix, such as tick=100ms.
func (f *Fixture) BootGuest(ctx context.Context, name, host string, orders map[string]string) (*servers.Server, error) {
	s, err := f.CreateGuest(ctx, name, host, orders)
	if err != nil {
		return nil, err
	}
	return f.WaitStatus(ctx, s.ID, "ACTIVE")
}

// CreateGuest is BootGuest without the waiting.
func (f *Fixture) CreateGuest(ctx context.Context, name, host string, orders map[string]string) (*servers.Server, error) {
	return f.Create(ctx, f.Guest(name, host, orders))
}

// Guest is the server that BootGuest boots, for callers that change something about it.
func (f *Fixture) Guest(name, host string, orders map[string]string) Guest {
	meta := map[string]string{}
	for k, v := range orders {
		meta["godwit."+k] = v
	}
	return Guest{Name: name, Image: f.ImageID, Flavor: f.FlavorID, Network: f.NetworkID, Host: host, Metadata: meta}
}

// Talk connects the peer to the guest's control port. The connection outlives live migrations of the guest.
func (f *Fixture) Talk(ctx context.Context, s *servers.Server) (*guest.Client, error) {
	ip := Address(s)
	if ip == "" {
		return nil, fmt.Errorf("server %s has no address", s.ID)
	}
	return guest.Connect(ctx, f.Peer.Dial, net.JoinHostPort(ip, strconv.Itoa(guest.ControlPort)))
}
