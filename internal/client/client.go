package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// microversion is what the compute calls are written for.
const microversion = "2.80"

// microversionMigrate is what a live migration is asked for with: the last one with which a move that cannot be is refused at once, with the
// reason. Later ones accept it and let it fail.
const microversionMigrate = "2.33"

// Client speaks to one cloud. Safe for concurrent use.
type Client struct {
	compute  *gophercloud.ServiceClient
	migrate  *gophercloud.ServiceClient // compute at microversionMigrate
	operator string                     // base URL, with trailing slash
}

// Connect logs in. Missing credentials are ErrNoCredentials.
func Connect(ctx context.Context, who Credentials) (*Client, error) {
	provider, endpoint, err := who.login(ctx)
	if err != nil {
		return nil, err
	}
	compute, err := openstack.NewComputeV2(provider, endpoint)
	if err != nil {
		return nil, explain(err)
	}
	base, _, found := strings.Cut(compute.Endpoint, "/compute/")
	if !found {
		return nil, cloud.Errorf(cloud.KindUnsupported, "the compute endpoint %s is not a godwit server's", compute.Endpoint)
	}
	compute.Microversion = microversion
	migrate := *compute
	migrate.Microversion = microversionMigrate
	return &Client{compute: compute, migrate: &migrate, operator: base + operator.Root + "/"}, nil
}

// Server is a server as the compute API shows it.
type Server struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Status    string `json:"status"`
	Task      string `json:"OS-EXT-STS:task_state"`
	Host      string `json:"OS-EXT-SRV-ATTR:host"`
	Flavor    Flavor `json:"flavor"`
	Addresses map[string][]struct {
		Address string `json:"addr"`
	} `json:"addresses"`
	Fault *struct {
		Message string `json:"message"`
	} `json:"fault,omitempty"`
}

// Flavor is a server's size, as shown from 2.47 on.
type Flavor struct {
	Name  string `json:"original_name"`
	VCPUs int    `json:"vcpus"`
	RAM   int    `json:"ram"`
	Disk  int    `json:"disk"`
}

// pagesMax bounds how many pages of a list are read: 100,000 servers at Nova's page size.
const pagesMax = 100

// ServerQuery says which servers to list.
type ServerQuery struct {
	All  bool   // of all projects, which takes an administrator
	Name string // with exactly this name; empty: any
}

// Servers lists servers, newest first.
func (c *Client) Servers(ctx context.Context, q ServerQuery) ([]Server, error) {
	query := url.Values{}
	if q.All {
		query.Set("all_tenants", "true")
	}
	if q.Name != "" {
		query.Set("name", "^"+regexp.QuoteMeta(q.Name)+"$")
	}
	out := []Server{}
	for range pagesMax {
		var page struct {
			Servers []Server `json:"servers"`
			Links   []struct {
				Rel string `json:"rel"`
			} `json:"servers_links"`
		}
		if err := c.get(ctx, c.compute.ServiceURL("servers", "detail")+"?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		out = append(out, page.Servers...)
		if len(page.Links) == 0 || len(page.Servers) == 0 {
			break
		}
		query.Set("marker", page.Servers[len(page.Servers)-1].ID)
	}
	return out, nil
}

// FindServer returns the server with this id, or the only one with this name: in the credentials' project or, when there is none and an
// administrator asks, in all.
func (c *Client) FindServer(ctx context.Context, idOrName string) (Server, error) {
	var one struct {
		Server Server `json:"server"`
	}
	err := c.get(ctx, c.compute.ServiceURL("servers", url.PathEscape(idOrName)), &one)
	if err == nil || !cloud.Is(err, cloud.KindNotFound) {
		return one.Server, err
	}
	for _, all := range []bool{false, true} {
		found, err := c.Servers(ctx, ServerQuery{All: all, Name: idOrName})
		switch {
		case all && cloud.Is(err, cloud.KindForbidden): // an ordinary user sees one project
		case err != nil:
			return Server{}, err
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return Server{}, cloud.Errorf(cloud.KindConflict, "%d servers are named %s: use an id (%s)", len(found), idOrName, ids(found))
		}
	}
	return Server{}, cloud.Errorf(cloud.KindNotFound, "no server has the id or name %s: `godwit servers --all-projects` lists them", idOrName)
}

// idsShownMax bounds how many ids an ambiguous name is answered with.
const idsShownMax = 5

func ids(servers []Server) string {
	var out []string
	for i, s := range servers {
		if i == idsShownMax {
			out = append(out, "...")
			break
		}
		out = append(out, s.ID)
	}
	return strings.Join(out, ", ")
}

// MigrationQuery says which migrations to list; empty fields let everything through.
type MigrationQuery struct {
	Server string // id
	Status string // one of the statuses, or operator.StatusUnfinished
	Limit  int    // 0: as many as the API gives
}

// Migrations lists migrations, newest first.
func (c *Client) Migrations(ctx context.Context, q MigrationQuery) ([]operator.Migration, error) {
	query := url.Values{}
	for name, value := range map[string]string{"server": q.Server, "status": q.Status} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	var page struct {
		Migrations []operator.Migration `json:"migrations"`
	}
	return page.Migrations, c.get(ctx, c.operator+"migrations?"+query.Encode(), &page)
}

// LiveMigrate asks for a live migration. An empty host lets placement choose; block is "auto", "true" or "false".
func (c *Client) LiveMigrate(ctx context.Context, server, host, block string) error {
	var target, kind any
	if host != "" {
		target = host
	}
	kind = block
	if block != "auto" {
		kind = block == "true"
	}
	body := map[string]any{"os-migrateLive": map[string]any{"host": target, "block_migration": kind}}
	resp, err := c.migrate.Post(ctx, c.migrate.ServiceURL("servers", server, "action"), body, nil, &gophercloud.RequestOpts{OkCodes: []int{http.StatusAccepted}})
	if err != nil {
		return explain(err)
	}
	return resp.Body.Close()
}

// AbortMigration asks for the end of a running migration.
func (c *Client) AbortMigration(ctx context.Context, server string, number int) error {
	resp, err := c.compute.Delete(ctx, c.compute.ServiceURL("servers", server, "migrations", fmt.Sprint(number)), nil)
	if err != nil {
		return explain(err)
	}
	return resp.Body.Close()
}

// Hosts returns the operator's overview.
func (c *Client) Hosts(ctx context.Context) ([]operator.Host, error) {
	var page struct {
		Hosts []operator.Host `json:"hosts"`
	}
	return page.Hosts, c.get(ctx, c.operator+"hosts", &page)
}

// Host returns one host with what is on it.
func (c *Client) Host(ctx context.Context, name string) (operator.HostDetail, error) {
	var out struct {
		Host operator.HostDetail `json:"host"`
	}
	return out.Host, c.get(ctx, c.operator+"hosts/"+url.PathEscape(name), &out)
}

// VolumeServices returns what is known of volume services.
func (c *Client) VolumeServices(ctx context.Context) ([]operator.VolumeService, error) {
	var page struct {
		Services []operator.VolumeService `json:"volume_services"`
	}
	return page.Services, c.get(ctx, c.operator+"volume-services", &page)
}

// Decisions returns what placement decided about a server, newest first.
func (c *Client) Decisions(ctx context.Context, server string) ([]cloud.Decision, error) {
	var page struct {
		Decisions []cloud.Decision `json:"decisions"`
	}
	return page.Decisions, c.get(ctx, c.operator+"servers/"+url.PathEscape(server)+"/decisions", &page)
}

// Plan returns what a live migration would do if it were asked for now. An empty host asks placement; block is "auto", "true" or "false".
func (c *Client) Plan(ctx context.Context, server, host, block string) (operator.Plan, error) {
	kind := map[string]cloud.MigrationKind{"true": cloud.MigrateBlock, "false": cloud.MigrateShared}[block]
	if kind == "" {
		kind = cloud.MigrateAuto
	}
	var out struct {
		Plan operator.Plan `json:"plan"`
	}
	resp, err := c.compute.Post(ctx, c.operator+"servers/"+url.PathEscape(server)+"/migrate-plan", map[string]any{"host": host, "kind": kind}, &out,
		&gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
	if err != nil {
		return out.Plan, explain(err)
	}
	return out.Plan, resp.Body.Close()
}

func (c *Client) get(ctx context.Context, address string, into any) error {
	resp, err := c.compute.Get(ctx, address, into, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
	if err != nil {
		return explain(err)
	}
	return resp.Body.Close()
}
