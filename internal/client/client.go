package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	osconfig "github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// microversion is what the compute calls are written for.
const microversion = "2.80"

// Client speaks to one cloud. Safe for concurrent use.
type Client struct {
	compute  *gophercloud.ServiceClient
	operator string // base URL, with trailing slash
}

// Connect logs in with OS_CLOUD and clouds.yaml, or with OS_AUTH_URL and its companions.
func Connect(ctx context.Context) (*Client, error) {
	provider, endpoint, err := login(ctx)
	if err != nil {
		return nil, err
	}
	compute, err := openstack.NewComputeV2(provider, endpoint)
	if err != nil {
		return nil, explain(err)
	}
	compute.Microversion = microversion
	base, _, found := strings.Cut(compute.Endpoint, "/compute/")
	if !found {
		return nil, cloud.Errorf(cloud.KindUnsupported, "the compute endpoint %s is not a godwit server's", compute.Endpoint)
	}
	return &Client{compute: compute, operator: base + operator.Root + "/"}, nil
}

func login(ctx context.Context) (*gophercloud.ProviderClient, gophercloud.EndpointOpts, error) {
	if os.Getenv("OS_CLOUD") != "" {
		auth, endpoint, tls, err := clouds.Parse()
		if err != nil {
			return nil, endpoint, cloud.Errorf(cloud.KindInvalid, "clouds.yaml: %w", err)
		}
		auth.AllowReauth = true
		provider, err := osconfig.NewProviderClient(ctx, auth, osconfig.WithTLSConfig(tls))
		return provider, endpoint, explain(err)
	}
	if os.Getenv("OS_AUTH_URL") == "" {
		return nil, gophercloud.EndpointOpts{}, cloud.Errorf(cloud.KindUnauthenticated,
			"no credentials: `source` the server's openrc, or set OS_CLOUD to a cloud of clouds.yaml")
	}
	auth, err := authFromEnviron(os.Getenv)
	if err != nil {
		return nil, gophercloud.EndpointOpts{}, err
	}
	provider, err := openstack.AuthenticatedClient(ctx, auth)
	return provider, gophercloud.EndpointOpts{Region: os.Getenv("OS_REGION_NAME")}, explain(err)
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

// Servers lists the servers of the project, or of all projects.
func (c *Client) Servers(ctx context.Context, all bool) ([]Server, error) {
	query := url.Values{}
	if all {
		query.Set("all_tenants", "true")
	}
	var out []Server
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

// FindServer returns the server with this id, or the only one with this name.
func (c *Client) FindServer(ctx context.Context, idOrName string) (Server, error) {
	var one struct {
		Server Server `json:"server"`
	}
	err := c.get(ctx, c.compute.ServiceURL("servers", url.PathEscape(idOrName)), &one)
	if err == nil || !cloud.Is(err, cloud.KindNotFound) {
		return one.Server, err
	}
	servers, err := c.Servers(ctx, true)
	if err != nil {
		return Server{}, err
	}
	var found []Server
	for _, s := range servers {
		if s.Name == idOrName {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return Server{}, cloud.Errorf(cloud.KindNotFound, "no server %s: `godwit servers` lists them", idOrName)
	case 1:
		return found[0], nil
	}
	return Server{}, cloud.Errorf(cloud.KindConflict, "%d servers are named %s: use an id", len(found), idOrName)
}

// Migration is a migration as the compute API lists it.
type Migration struct {
	ID      int    `json:"id"`
	UUID    string `json:"uuid"`
	Server  string `json:"instance_uuid"`
	Type    string `json:"migration_type"`
	Source  string `json:"source_compute"`
	Target  string `json:"dest_compute"`
	Status  string `json:"status"`
	Created string `json:"created_at"`
	Updated string `json:"updated_at"`
}

// Migrations lists migrations, newest first; of one server when server is not empty.
func (c *Client) Migrations(ctx context.Context, server string) ([]Migration, error) {
	var page struct {
		Migrations []Migration `json:"migrations"`
	}
	query := url.Values{}
	if server != "" {
		query.Set("instance_uuid", server)
	}
	err := c.get(ctx, c.compute.ServiceURL("os-migrations")+"?"+query.Encode(), &page)
	return page.Migrations, err
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
	resp, err := c.compute.Post(ctx, c.compute.ServiceURL("servers", server, "action"), body, nil, &gophercloud.RequestOpts{OkCodes: []int{http.StatusAccepted}})
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

// Migration returns a migration with its phases, by its UUID or number.
func (c *Client) Migration(ctx context.Context, id string) (operator.Migration, error) {
	var out struct {
		Migration operator.Migration `json:"migration"`
	}
	return out.Migration, c.get(ctx, c.operator+"migrations/"+url.PathEscape(id), &out)
}

func (c *Client) get(ctx context.Context, address string, into any) error {
	resp, err := c.compute.Get(ctx, address, into, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
	if err != nil {
		return explain(err)
	}
	return resp.Body.Close()
}

// kinds are what statuses stand for.
var kinds = map[int]cloud.Kind{
	http.StatusBadRequest: cloud.KindInvalid, http.StatusUnauthorized: cloud.KindUnauthenticated, http.StatusForbidden: cloud.KindForbidden,
	http.StatusNotFound: cloud.KindNotFound, http.StatusConflict: cloud.KindConflict, http.StatusRequestEntityTooLarge: cloud.KindTooLarge,
	http.StatusServiceUnavailable: cloud.KindUnavailable, http.StatusNotAcceptable: cloud.KindUnsupported, http.StatusNotImplemented: cloud.KindUnsupported,
}

// explain turns a refusal into an error with its kind and the server's own words.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var refused gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &refused) {
		kind, ok := kinds[refused.Actual]
		if !ok {
			kind = cloud.KindInternal
		}
		return cloud.Errorf(kind, "%s (HTTP %d)", words(refused.Body), refused.Actual)
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		return cloud.Errorf(cloud.KindUnavailable, "the API does not answer: %w", failed)
	}
	return err
}

// wordsMax bounds how much of an answer that is no fault is shown.
const wordsMax = 300

// words finds the message in a fault of any dialect.
func words(body []byte) string {
	var fault map[string]struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &fault) == nil {
		for _, f := range fault {
			if f.Message != "" {
				return f.Message
			}
		}
	}
	text := strings.TrimSpace(string(body))
	if len(text) > wordsMax {
		text = text[:wordsMax] + "..."
	}
	if text == "" {
		text = "the request was refused"
	}
	return text
}
