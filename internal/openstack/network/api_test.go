package network_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/network"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// tokens lets each test user in by name: the token is the caller.
type tokens map[string]*openstack.Caller

func (t tokens) Authenticate(_ context.Context, token string) (*openstack.Caller, error) {
	c, ok := t[token]
	if !ok {
		return nil, cloud.Errorf(cloud.KindUnauthenticated, "unknown token")
	}
	return c, nil
}

var callers = tokens{
	"admin": {User: "admin", Project: "admin", Roles: openstack.ExpandRoles([]string{openstack.RoleAdmin})},
	"ann":   {User: "ann", Project: "p1", Roles: openstack.ExpandRoles([]string{openstack.RoleMember})},
	"bob":   {User: "bob", Project: "p2", Roles: openstack.ExpandRoles([]string{openstack.RoleMember})},
	"ray":   {User: "ray", Project: "p1", Roles: []string{openstack.RoleReader}},
	"none":  {User: "none", Project: "p1"},
}

// site is a network API with a real store behind it.
type site struct {
	*testing.T
	store *store.Store
	url   string
}

func newSite(t *testing.T) *site {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(context.Background(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	api := openstack.New(openstack.Options{Auth: callers, Logger: quiet})
	api.Mount(network.New(network.Options{Store: s}))
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &site{t, s, server.URL}
}

// reply is an answer, decoded.
type reply struct {
	status int
	body   map[string]any
	header http.Header
}

// send makes one request and fails the test unless the answer has the status.
func (s *site) send(as, method, path string, body any, want int, header ...string) reply {
	s.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			s.Fatal(err)
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, s.url+"/network/v2.0"+path, in)
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", as)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	out := reply{status: resp.StatusCode, header: resp.Header}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out.body); err != nil {
			s.Fatalf("%s %s: %q is not JSON: %v", method, path, text, err)
		}
	}
	if out.status != want {
		s.Fatalf("%s %s as %s: %d %s, want %d", method, path, as, out.status, text, want)
	}
	return out
}

// at walks into the body: at("network", "id").
func (r reply) at(path ...string) any {
	var v any = r.body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func (r reply) text(path ...string) string { return fmt.Sprint(r.at(path...)) }

// refused fails the test unless the answer is the status with that Neutron exception.
func (s *site) refused(as, method, path string, body any, status int, class string) {
	s.Helper()
	r := s.send(as, method, path, body, status)
	if got := r.text("NeutronError", "type"); got != class {
		s.Errorf("%s %s: type %s (%v), want %s", method, path, got, r.body, class)
	}
	if r.text("NeutronError", "message") == "" {
		s.Errorf("%s %s: no message", method, path)
	}
}

type m = map[string]any

// network makes a network with a subnet and returns their ids.
func (s *site) network(as, name, cidr string) (net, sub string) {
	s.Helper()
	net = s.send(as, "POST", "/networks", m{"network": m{"name": name}}, 201).text("network", "id")
	sub = s.send(as, "POST", "/subnets", m{"subnet": m{"network_id": net, "ip_version": 4, "cidr": cidr}}, 201).text("subnet", "id")
	return net, sub
}

func (s *site) port(as string, attributes m) string {
	s.Helper()
	return s.send(as, "POST", "/ports", m{"port": attributes}, 201).text("port", "id")
}

// ids returns the ids of a list.
func (s *site) ids(as, path, plural string) []string {
	s.Helper()
	var out []string
	list, _ := s.send(as, "GET", path, nil, 200).body[plural].([]any)
	for _, v := range list {
		out = append(out, fmt.Sprint(v.(map[string]any)["id"]))
	}
	return out
}

// client returns a gophercloud client for the site, as a catalog would give it.
func (s *site) client(as string) *gophercloud.ServiceClient {
	return &gophercloud.ServiceClient{
		ProviderClient: &gophercloud.ProviderClient{TokenID: as},
		Endpoint:       s.url + "/network/", ResourceBase: s.url + "/network/v2.0/", Type: "network",
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
