package labcloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/lab"
)

// IntroduceBMCs tells the server how each compute host's BMC is reached.
func (c *Cloud) IntroduceBMCs(ctx context.Context) error {
	for _, node := range c.Lab.ComputeNodes() {
		body := map[string]any{"protocol": "ipmi", "address": c.Lab.BMCAddr(node).String(), "user": lab.BMCUser, "password": lab.BMCPassword}
		if err := c.Operator(ctx, http.MethodPut, "hosts/"+node+"/bmc", body, nil); err != nil {
			return fmt.Errorf("BMC of %s: %w", node, err)
		}
	}
	return nil
}

// ForgetBMCs takes the BMCs back: hosts can then be fenced by their storage or by an operator only.
func (c *Cloud) ForgetBMCs(ctx context.Context) error {
	for _, node := range c.Lab.ComputeNodes() {
		if err := c.Operator(ctx, http.MethodDelete, "hosts/"+node+"/bmc", nil, nil); err != nil {
			return fmt.Errorf("BMC of %s: %w", node, err)
		}
	}
	return nil
}

// Operator calls the operator API; into may be nil.
func (c *Cloud) Operator(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.Compute.Request(ctx, method, c.apiURL+"/godwit/v1/"+path, &gophercloud.RequestOpts{
		JSONBody: body, OkCodes: []int{http.StatusOK, http.StatusAccepted, http.StatusNoContent}, KeepResponseBody: true,
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// Events opens the operator API's stream of events; query is its filter, such as "server=ID".
func (c *Cloud) Events(ctx context.Context, query string) (io.ReadCloser, error) {
	resp, err := c.Compute.Request(ctx, http.MethodGet, c.apiURL+"/godwit/v1/events?"+query, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}, KeepResponseBody: true})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Life is what the operator API says of a host.
type Life struct {
	Verdict struct {
		Verdict  string   `json:"verdict"`
		Isolated bool     `json:"isolated"`
		Evidence []string `json:"evidence"`
	} `json:"verdict"`
	Recoveries []Recovery `json:"recoveries"`
}

// Recovery is what was done about a dead host.
type Recovery struct {
	Host    string    `json:"host"`
	Status  string    `json:"status"`
	Fence   string    `json:"fence"`
	Fenced  bool      `json:"fenced"`
	Reason  string    `json:"reason"`
	Began   time.Time `json:"began"`
	Servers []struct {
		Server  string    `json:"server"`
		Outcome string    `json:"outcome"`
		Reason  string    `json:"reason"`
		Target  string    `json:"target"`
		Ended   time.Time `json:"ended"`
	} `json:"servers"`
}

// Life asks what is believed of a host.
func (c *Cloud) Life(ctx context.Context, host string) (Life, error) {
	var out struct {
		Life Life `json:"life"`
	}
	return out.Life, c.Operator(ctx, http.MethodGet, "hosts/"+host+"/life", nil, &out)
}
