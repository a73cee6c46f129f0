package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

func (c *Client) hostURL(host, rest string) string {
	return c.operator + "hosts/" + url.PathEscape(host) + "/" + rest
}

// HostLife returns what is believed of a host, why, and what was done about it.
func (c *Client) HostLife(ctx context.Context, host string) (operator.HostLife, error) {
	var out struct {
		Life operator.HostLife `json:"life"`
	}
	return out.Life, c.get(ctx, c.hostURL(host, "life"), &out)
}

// ServerLife returns how a server's guest and hosts failed, and what was done about it.
func (c *Client) ServerLife(ctx context.Context, server string) (operator.ServerLife, error) {
	var out struct {
		Life operator.ServerLife `json:"life"`
	}
	return out.Life, c.get(ctx, c.operator+"servers/"+url.PathEscape(server)+"/life", &out)
}

// Recoveries returns what was done about dead hosts, newest first.
func (c *Client) Recoveries(ctx context.Context) ([]cloud.Recovery, error) {
	var page struct {
		Recoveries []cloud.Recovery `json:"recoveries"`
	}
	return page.Recoveries, c.get(ctx, c.operator+"recoveries", &page)
}

// SpareRoom returns whether the servers of the largest hosts would find room elsewhere.
func (c *Client) SpareRoom(ctx context.Context) (cloud.SpareRoom, error) {
	var out struct {
		Room cloud.SpareRoom `json:"spare_room"`
	}
	return out.Room, c.get(ctx, c.operator+"spare-room", &out)
}

// AllowRecovery lets a host's recovery go on past the brake; with allow false it takes that back.
func (c *Client) AllowRecovery(ctx context.Context, host string, allow bool) error {
	if !allow {
		return c.remove(ctx, c.hostURL(host, "recovery-permit"))
	}
	return c.put(ctx, c.hostURL(host, "recovery-permit"), map[string]any{}, nil)
}

// BMC returns how a host is turned off and on.
func (c *Client) BMC(ctx context.Context, host string) (operator.BMC, error) {
	var out bmcAnswer
	err := c.get(ctx, c.hostURL(host, "bmc"), &out)
	return out.BMC, err
}

type bmcAnswer struct {
	BMC operator.BMC `json:"bmc"`
}

// BMCSettings are what SetBMC takes. A nil password stays as it was.
type BMCSettings struct {
	Protocol string  `json:"protocol"`
	Address  string  `json:"address"`
	User     string  `json:"user"`
	Password *string `json:"password,omitempty"`
	Cipher   int     `json:"cipher"`
	System   string  `json:"system"`
	CA       string  `json:"ca"`
}

// SetBMC says how a host is turned off and on.
func (c *Client) SetBMC(ctx context.Context, host string, s BMCSettings) (operator.BMC, error) {
	var out bmcAnswer
	err := c.put(ctx, c.hostURL(host, "bmc"), s, &out)
	return out.BMC, err
}

// TestBMC reads a host's power state from its BMC.
func (c *Client) TestBMC(ctx context.Context, host string) (operator.BMC, error) {
	var out bmcAnswer
	resp, err := c.compute.Post(ctx, c.hostURL(host, "bmc/test"), map[string]any{}, &out, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
	if err != nil {
		return out.BMC, explain(err)
	}
	return out.BMC, resp.Body.Close()
}

// DeleteBMC forgets a host's BMC.
func (c *Client) DeleteBMC(ctx context.Context, host string) error {
	return c.remove(ctx, c.hostURL(host, "bmc"))
}

func (c *Client) put(ctx context.Context, address string, body, into any) error {
	resp, err := c.compute.Put(ctx, address, body, into, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
	if err != nil {
		return explain(err)
	}
	return resp.Body.Close()
}

func (c *Client) remove(ctx context.Context, address string) error {
	resp, err := c.compute.Delete(ctx, address, nil)
	if err != nil {
		return explain(err)
	}
	return resp.Body.Close()
}
