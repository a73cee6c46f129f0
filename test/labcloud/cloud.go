package labcloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
)

// WaitHosts returns when n compute services are up.
func (c *Cloud) WaitHosts(ctx context.Context, n int) error {
	return Until(ctx, fmt.Sprintf("%d compute hosts up", n), func() (bool, error) {
		page, err := services.List(c.Compute, services.ListOpts{Binary: "nova-compute"}).AllPages(ctx)
		if err != nil {
			return false, err
		}
		list, err := services.ExtractServices(page)
		if err != nil {
			return false, err
		}
		up := 0
		for _, s := range list {
			if s.State == "up" {
				up++
			}
		}
		return up >= n, nil
	})
}

// UploadImage creates an image from a qcow2 file and returns its id.
func (c *Cloud) UploadImage(ctx context.Context, name, path string) (string, error) {
	img, err := images.Create(ctx, c.Image, images.CreateOpts{Name: name, DiskFormat: "qcow2", ContainerFormat: "bare"}).Extract()
	if err != nil {
		return "", fmt.Errorf("image %s: %w", name, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := imagedata.Upload(ctx, c.Image, img.ID, f).ExtractErr(); err != nil {
		return "", fmt.Errorf("image %s: upload: %w", name, err)
	}
	return img.ID, nil
}

// Flavor creates a flavor and returns its id.
func (c *Cloud) Flavor(ctx context.Context, name string, vcpus, ramMiB, diskGiB int) (string, error) {
	f, err := flavors.Create(ctx, c.Compute, flavors.CreateOpts{Name: name, VCPUs: vcpus, RAM: ramMiB, Disk: &diskGiB}).Extract()
	if err != nil {
		return "", fmt.Errorf("flavor %s: %w", name, err)
	}
	return f.ID, nil
}

// NetworkWithSubnet creates a network with one subnet and returns the network's id.
func (c *Cloud) NetworkWithSubnet(ctx context.Context, name, cidr string) (string, error) {
	n, err := networks.Create(ctx, c.Network, networks.CreateOpts{Name: name}).Extract()
	if err != nil {
		return "", fmt.Errorf("network %s: %w", name, err)
	}
	_, err = subnets.Create(ctx, c.Network, subnets.CreateOpts{NetworkID: n.ID, Name: name, CIDR: cidr, IPVersion: gophercloud.IPv4}).Extract()
	if err != nil {
		return "", fmt.Errorf("subnet %s: %w", name, err)
	}
	return n.ID, nil
}

// Guest says what server to boot.
type Guest struct {
	Name, Image, Flavor, Network string
	Host                         string            // "" lets placement choose
	Metadata                     map[string]string // godwit.* keys steer the test guest
	Group                        string            // server group, if any
	NoDrive                      bool              // without config drive: the guest asks the metadata service
	Volume                       string            // to boot from; Image is then not used
}

// Boot creates a server and waits until it is ACTIVE.
func (c *Cloud) Boot(ctx context.Context, g Guest) (*servers.Server, error) {
	s, err := c.Create(ctx, g)
	if err != nil {
		return nil, err
	}
	return c.WaitStatus(ctx, s.ID, "ACTIVE")
}

// Create asks for a server and does not wait for it.
func (c *Cloud) Create(ctx context.Context, g Guest) (*servers.Server, error) {
	drive := !g.NoDrive
	opts := servers.CreateOpts{
		Name: g.Name, ImageRef: g.Image, FlavorRef: g.Flavor, ConfigDrive: &drive, Metadata: g.Metadata,
		Networks: []servers.Network{{UUID: g.Network}},
	}
	if g.Volume != "" {
		opts.ImageRef = ""
		opts.BlockDevice = []servers.BlockDevice{{SourceType: servers.SourceVolume, DestinationType: servers.DestinationVolume, UUID: g.Volume, BootIndex: 0}}
	}
	if g.Host != "" {
		opts.AvailabilityZone = "nova:" + g.Host
	}
	var hints servers.SchedulerHintOptsBuilder
	if g.Group != "" {
		hints = servers.SchedulerHintOpts{Group: g.Group}
	}
	s, err := servers.Create(ctx, c.Compute, opts, hints).Extract()
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", g.Name, err)
	}
	return s, nil
}

// Server shows a server.
func (c *Cloud) Server(ctx context.Context, id string) (*servers.Server, error) {
	return servers.Get(ctx, c.Compute, id).Extract()
}

// WaitStatus waits until the server has the status, and fails early when it is ERROR instead.
func (c *Cloud) WaitStatus(ctx context.Context, id, status string) (*servers.Server, error) {
	var s *servers.Server
	err := Until(ctx, "server "+id+" "+status, func() (bool, error) {
		var err error
		if s, err = c.Server(ctx, id); err != nil {
			return false, err
		}
		if s.Status == "ERROR" && status != "ERROR" {
			return false, fmt.Errorf("server %s: %s", id, s.Fault.Message)
		}
		return s.Status == status, nil
	})
	return s, err
}

// WaitGone waits until the server is no more.
func (c *Cloud) WaitGone(ctx context.Context, id string) error {
	return Until(ctx, "server "+id+" gone", func() (bool, error) {
		_, err := c.Server(ctx, id)
		if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return true, nil
		}
		return false, err
	})
}

// Remove deletes a server and waits until it is no more.
func (c *Cloud) Remove(ctx context.Context, id string) error {
	if err := servers.Delete(ctx, c.Compute, id).ExtractErr(); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	return c.WaitGone(ctx, id)
}

// Address returns the server's first fixed IPv4 address.
func Address(s *servers.Server) string {
	for _, list := range s.Addresses {
		addresses, _ := list.([]any)
		for _, a := range addresses {
			if m, ok := a.(map[string]any); ok {
				if ip, ok := m["addr"].(string); ok {
					return ip
				}
			}
		}
	}
	return ""
}

// LiftQuota removes the limits of the administrator's project.
func (c *Cloud) LiftQuota(ctx context.Context) error {
	session, ok := c.Compute.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return errors.New("quota: not logged in by password")
	}
	project, err := session.ExtractProject()
	if err != nil {
		return fmt.Errorf("quota: %w", err)
	}
	return c.compute(ctx, http.MethodPut, "os-quota-sets/"+project.ID, map[string]any{
		"quota_set": map[string]any{"instances": -1, "cores": -1, "ram": -1},
	}, nil)
}

// BootMany asks for n servers in one call and does not wait for them.
func (c *Cloud) BootMany(ctx context.Context, g Guest, n int) error {
	return c.compute(ctx, http.MethodPost, "servers", map[string]any{"server": map[string]any{
		"name": g.Name, "imageRef": g.Image, "flavorRef": g.Flavor, "networks": []any{map[string]any{"uuid": g.Network}},
		"min_count": n, "max_count": n,
	}}, nil)
}

// WaitCount waits until n servers have the status.
func (c *Cloud) WaitCount(ctx context.Context, status string, n int) error {
	return Until(ctx, fmt.Sprintf("%d servers %s", n, status), func() (bool, error) {
		var out struct {
			Servers []struct {
				ID string `json:"id"`
			} `json:"servers"`
		}
		err := c.compute(ctx, http.MethodGet, "servers?limit=1000&status="+status, nil, &out)
		return len(out.Servers) >= n, err
	})
}
