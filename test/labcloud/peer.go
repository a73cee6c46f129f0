package labcloud

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/lab"
)

// Peer plugs a machine that is no guest into a network, at the given compute host, with an address of the network's own: the other end of
// a guest's conversations. The port is made and bound through the network API, as an operator would attach a foreign device.
func (c *Cloud) Peer(ctx context.Context, name, network, node string) (*lab.Peer, error) {
	port, bridge, err := c.ForeignPort(ctx, name, network, node)
	if err != nil {
		return nil, err
	}
	if len(port.FixedIPs) == 0 {
		return nil, fmt.Errorf("peer %s: the port has no address", name)
	}
	prefix, err := c.prefixOf(ctx, port.FixedIPs[0].Subnet, port.FixedIPs[0].IP)
	if err != nil {
		return nil, err
	}
	mac, err := net.ParseMAC(port.MAC)
	if err != nil {
		return nil, err
	}
	return c.Lab.StartPeer(ctx, lab.PeerSpec{Name: name, Node: node, Bridge: bridge, MAC: mac, Addr: prefix})
}

// Port is a port of the network API, as far as a peer needs it.
type Port struct {
	ID       string `json:"id"`
	MAC      string `json:"mac_address"`
	FixedIPs []struct {
		Subnet string `json:"subnet_id"`
		IP     string `json:"ip_address"`
	} `json:"fixed_ips"`
}

// ForeignPort makes a port for a device that is no server, bound to a host, and waits until the host has the network's bridge.
func (c *Cloud) ForeignPort(ctx context.Context, name, network, node string) (Port, string, error) {
	var made struct {
		Port Port `json:"port"`
	}
	err := c.network(ctx, http.MethodPost, "ports", map[string]any{"port": map[string]any{
		"network_id": network, "name": name, "device_owner": "lab:peer", "binding:host_id": node,
	}}, &made)
	if err != nil {
		return Port{}, "", fmt.Errorf("port %s: %w", name, err)
	}
	bridge, err := c.bridge(ctx, network)
	if err != nil {
		return Port{}, "", err
	}
	err = Until(ctx, "bridge "+bridge+" on "+node, func() (bool, error) {
		_, err := c.Lab.Output(ctx, node, "ip", "link", "show", "dev", bridge)
		return err == nil, nil
	})
	return made.Port, bridge, err
}

func (c *Cloud) prefixOf(ctx context.Context, subnet, ip string) (netip.Prefix, error) {
	var shown struct {
		Subnet struct {
			CIDR string `json:"cidr"`
		} `json:"subnet"`
	}
	if err := c.network(ctx, http.MethodGet, "subnets/"+subnet, nil, &shown); err != nil {
		return netip.Prefix{}, err
	}
	cidr, err := netip.ParsePrefix(shown.Subnet.CIDR)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr, err := netip.ParseAddr(ip)
	return netip.PrefixFrom(addr, cidr.Bits()), err
}

// bridge is the name of a network's bridge, the same on every host: it follows from the VXLAN identifier.
func (c *Cloud) bridge(ctx context.Context, network string) (string, error) {
	var shown struct {
		Network struct {
			VNI int `json:"provider:segmentation_id"`
		} `json:"network"`
	}
	if err := c.network(ctx, http.MethodGet, "networks/"+network, nil, &shown); err != nil {
		return "", err
	}
	if shown.Network.VNI == 0 {
		return "", fmt.Errorf("network %s shows no provider:segmentation_id", network)
	}
	return fmt.Sprintf("gwb%d", shown.Network.VNI), nil
}

// network sends one request to the network API.
func (c *Cloud) network(ctx context.Context, method, path string, body, out any) error {
	opts := &gophercloud.RequestOpts{OkCodes: []int{200, 201, 204}}
	if body != nil {
		opts.JSONBody = body
	}
	if out != nil {
		opts.JSONResponse = out
	}
	resp, err := c.Network.Request(ctx, method, c.Network.ServiceURL(path), opts)
	if err != nil {
		return err
	}
	if out == nil {
		return resp.Body.Close()
	}
	return nil
}
