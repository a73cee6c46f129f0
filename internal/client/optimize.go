package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// AskPlan asks for a plan and returns the audit that will name it. Empty goal and strategy mean the cloud's.
func (c *Client) AskPlan(ctx context.Context, goal, strategy string) (cloud.Audit, error) {
	var out struct {
		Audit cloud.Audit `json:"audit"`
	}
	body := map[string]any{}
	for name, value := range map[string]string{"goal": goal, "strategy": strategy} {
		if value != "" {
			body[name] = value
		}
	}
	return out.Audit, c.accept(ctx, c.operator+"audits", body, &out)
}

// Audit returns an audit.
func (c *Client) Audit(ctx context.Context, id cloud.AuditID) (cloud.Audit, error) {
	var out struct {
		Audit cloud.Audit `json:"audit"`
	}
	return out.Audit, c.get(ctx, c.operator+"audits/"+url.PathEscape(string(id)), &out)
}

// Plans returns action plans, newest first.
func (c *Client) Plans(ctx context.Context) ([]cloud.ActionPlan, error) {
	var out struct {
		Plans []cloud.ActionPlan `json:"plans"`
	}
	return out.Plans, c.get(ctx, c.operator+"plans", &out)
}

// ActionPlan returns a plan.
func (c *Client) ActionPlan(ctx context.Context, id cloud.PlanID) (cloud.ActionPlan, error) {
	var out struct {
		Plan cloud.ActionPlan `json:"plan"`
	}
	return out.Plan, c.get(ctx, c.operator+"plans/"+url.PathEscape(string(id)), &out)
}

// StartPlan has a plan carried out; with cancel it is ended.
func (c *Client) StartPlan(ctx context.Context, id cloud.PlanID, cancel bool) (cloud.ActionPlan, error) {
	var out struct {
		Plan cloud.ActionPlan `json:"plan"`
	}
	verb := "/start"
	if cancel {
		verb = "/cancel"
	}
	return out.Plan, c.accept(ctx, c.operator+"plans/"+url.PathEscape(string(id))+verb, map[string]any{}, &out)
}

// AskPower asks a host to sleep, to wake or to prove that it wakes. An empty mode means the cloud's.
func (c *Client) AskPower(ctx context.Context, host string, ask cloud.HostPowerAsk, mode cloud.SleepMode) (operator.Host, error) {
	var out struct {
		Host operator.Host `json:"host"`
	}
	body := map[string]any{"ask": ask}
	if mode != "" {
		body["mode"] = mode
	}
	return out.Host, c.accept(ctx, c.hostURL(host, "power"), body, &out)
}

// Accounts returns what was used, a row for each host, server or project. Days are such as 2026-01-31; empty: today.
func (c *Client) Accounts(ctx context.Context, by cloud.AccountKind, since, until string) ([]cloud.Account, error) {
	query := url.Values{"by": {string(by)}}
	for name, value := range map[string]string{"since": since, "until": until} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var out struct {
		Accounts []cloud.Account `json:"accounts"`
	}
	return out.Accounts, c.get(ctx, c.operator+"accounting?"+query.Encode(), &out)
}

// accept posts what is answered with 202 and a document.
func (c *Client) accept(ctx context.Context, at string, body, into any) error {
	resp, err := c.compute.Post(ctx, at, body, into, &gophercloud.RequestOpts{OkCodes: []int{http.StatusAccepted}})
	if err != nil {
		return explain(err)
	}
	return resp.Body.Close()
}
