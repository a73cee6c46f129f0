package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	gopher "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/applicationcredentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"
	"go.yaml.in/yaml/v3"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// testCloud is a bootstrapped identity service on a real embedded store, behind a real listener.
type testCloud struct {
	*testing.T
	store    *store.Store
	service  *Service
	server   *httptest.Server
	made     Bootstrapped
	password string
}

func newCloud(t *testing.T) *testCloud {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &testCloud{T: t, store: s, service: New(s, Options{Logger: quiet})}
	api := openstack.New(openstack.Options{Auth: c.service, Logger: quiet})
	api.Mount(c.service)
	c.server = httptest.NewServer(api)
	t.Cleanup(c.server.Close)
	c.made, err = Bootstrap(t.Context(), s, BootstrapOptions{PublicURL: c.server.URL, Dir: filepath.Join(t.TempDir(), "credentials")})
	if err != nil {
		t.Fatal(err)
	}
	c.password = c.passwordInFile()
	return c
}

func (c *testCloud) passwordInFile() string {
	c.Helper()
	data, err := os.ReadFile(c.made.Clouds)
	if err != nil {
		c.Fatal(err)
	}
	var y cloudsYAML
	if err := yaml.Unmarshal(data, &y); err != nil {
		c.Fatal(err)
	}
	return y.Clouds[cloudName].Auth.Password
}

// call makes a request and returns the status, the headers and the decoded body.
func (c *testCloud) call(method, path, token string, body any, header ...string) (int, http.Header, map[string]any) {
	c.Helper()
	var data []byte
	switch b := body.(type) {
	case nil:
	case string:
		data = []byte(b)
	default:
		var err error
		if data, err = json.Marshal(b); err != nil {
			c.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, c.server.URL+"/identity"+path, bytes.NewReader(data))
	if err != nil {
		c.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.server.Client().Do(req)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatal(err)
	}
	var out map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			c.Fatalf("%s %s: %d %q: %v", method, path, resp.StatusCode, text, err)
		}
	}
	return resp.StatusCode, resp.Header, out
}

// want is call that insists on the status.
func (c *testCloud) want(code int, method, path, token string, body any, header ...string) map[string]any {
	c.Helper()
	got, _, out := c.call(method, path, token, body, header...)
	if got != code {
		c.Fatalf("%s %s: got %d %v, want %d", method, path, got, out, code)
	}
	return out
}

type obj = map[string]any

func passwordAuth(user, password string, scope any) obj {
	auth := obj{"identity": obj{"methods": []string{"password"}, "password": obj{"user": obj{"name": user, "domain": obj{"id": "default"}, "password": password}}}}
	if scope != nil {
		auth["scope"] = scope
	}
	return obj{"auth": auth}
}

func projectScope(name string) obj {
	return obj{"project": obj{"name": name, "domain": obj{"name": "Default"}}}
}

func (c *testCloud) login(body obj) (string, map[string]any) {
	c.Helper()
	code, header, out := c.call("POST", "/v3/auth/tokens", "", body)
	if code != 201 {
		c.Fatalf("log-in: %d %v", code, out)
	}
	return header.Get("X-Subject-Token"), out["token"].(map[string]any)
}

func (c *testCloud) admin() string {
	c.Helper()
	token, _ := c.login(passwordAuth("admin", c.password, projectScope("admin")))
	return token
}

// addUser makes a user with password "pw" and a role on a project of its own name, and returns both ids.
func (c *testCloud) addUser(name, role string) (user, project string) {
	c.Helper()
	admin := c.admin()
	project = c.want(201, "POST", "/v3/projects", admin, obj{"project": obj{"name": name}})["project"].(obj)["id"].(string)
	user = c.want(201, "POST", "/v3/users", admin, obj{"user": obj{"name": name, "password": "pw"}})["user"].(obj)["id"].(string)
	r, ok := store.One(c.store, tables.Roles, tables.ByName, role)
	if !ok {
		c.Fatalf("no role %s", role)
	}
	c.want(204, "PUT", "/v3/projects/"+project+"/users/"+user+"/roles/"+string(r.ID), admin, nil)
	return user, project
}

func TestLogInGivesTokenWithRolesAndCatalog(t *testing.T) {
	c := newCloud(t)
	token, view := c.login(passwordAuth("admin", c.password, projectScope("admin")))
	if strings.Count(token, ".") != 2 {
		t.Errorf("token %q is no JWS", token)
	}
	var roleNames []string
	for _, r := range view["roles"].([]any) {
		roleNames = append(roleNames, r.(obj)["name"].(string))
	}
	if fmt.Sprint(roleNames) != "[admin member reader]" {
		t.Errorf("roles %v", roleNames)
	}
	urls := map[string]string{}
	for _, s := range view["catalog"].([]any) {
		for _, e := range s.(obj)["endpoints"].([]any) {
			if e.(obj)["interface"] == "public" {
				urls[s.(obj)["type"].(string)] = strings.TrimPrefix(e.(obj)["url"].(string), c.server.URL)
			}
		}
	}
	volume := "/volume/v3/" + view["project"].(obj)["id"].(string)
	want := map[string]string{"identity": "/identity", "compute": "/compute/v2.1", "image": "/image", "network": "/network", "volumev3": volume,
		"block-storage": volume, "infra-optim": "/infra-optim", "instance-ha": "/instance-ha/v1"}
	if fmt.Sprint(urls) != fmt.Sprint(want) {
		t.Errorf("catalog %v, want %v", urls, want)
	}
	shown := c.want(200, "GET", "/v3/auth/tokens?nocatalog", token, nil, "X-Subject-Token", token)["token"].(obj)
	if shown["catalog"] != nil || shown["expires_at"] != view["expires_at"] || shown["project"].(obj)["name"] != "admin" {
		t.Errorf("shown %v", shown)
	}
	if code, _, _ := c.call("HEAD", "/v3/auth/tokens", token, nil, "X-Subject-Token", token); code != 200 {
		t.Errorf("HEAD: %d", code)
	}
}

func TestScopes(t *testing.T) {
	c := newCloud(t)
	user, _ := c.addUser("ann", "member")
	for name, k := range map[string]struct {
		body obj
		code int
		has  string
	}{
		"unscoped":                  {passwordAuth("ann", "pw", "unscoped"), 201, ""},
		"no scope":                  {passwordAuth("ann", "pw", nil), 201, ""},
		"own project":               {passwordAuth("ann", "pw", projectScope("ann")), 201, "project"},
		"foreign project":           {passwordAuth("ann", "pw", projectScope("admin")), 401, ""},
		"unknown project":           {passwordAuth("ann", "pw", projectScope("nope")), 401, ""},
		"domain without role":       {passwordAuth("ann", "pw", obj{"domain": obj{"id": "default"}}), 401, ""},
		"system":                    {passwordAuth("admin", c.password, obj{"system": obj{"all": true}}), 201, "system"},
		"system without role":       {passwordAuth("ann", "pw", obj{"system": obj{"all": true}}), 401, ""},
		"two scopes":                {passwordAuth("ann", "pw", obj{"system": obj{"all": true}, "domain": obj{"id": "default"}}), 400, ""},
		"wrong password":            {passwordAuth("ann", "no", nil), 401, ""},
		"unknown user":              {passwordAuth("bob", "pw", nil), 401, ""},
		"unknown method":            {obj{"auth": obj{"identity": obj{"methods": []string{"totp"}}}}, 401, ""},
		"method without its object": {obj{"auth": obj{"identity": obj{"methods": []string{"password"}}}}, 400, ""},
		"no auth":                   {obj{}, 400, ""},
		"user by id":                {obj{"auth": obj{"identity": obj{"methods": []string{"password"}, "password": obj{"user": obj{"id": user, "password": "pw"}}}}}, 201, ""},
	} {
		code, _, out := c.call("POST", "/v3/auth/tokens", "", k.body)
		if code != k.code {
			t.Errorf("%s: got %d %v, want %d", name, code, out, k.code)
			continue
		}
		if code != 201 {
			continue
		}
		view := out["token"].(obj)
		if scoped := view["roles"] != nil; scoped != (k.has != "") || k.has != "" && view[k.has] == nil || scoped != (view["catalog"] != nil) {
			t.Errorf("%s: %v", name, view)
		}
	}
	c.want(200, "PATCH", "/v3/users/"+user, c.admin(), obj{"user": obj{"default_project_id": string(c.made.AdminProject)}})
	if _, view := c.login(passwordAuth("ann", "pw", nil)); view["project"] != nil {
		t.Error("a default project without a role was entered")
	}
}

func TestTokensEndWhenTheyMust(t *testing.T) {
	c := newCloud(t)
	user, project := c.addUser("ann", "member")
	admin := c.admin()
	fresh := func() string {
		token, _ := c.login(passwordAuth("ann", "pw", projectScope("ann")))
		return token
	}
	alive := func(token string) bool {
		_, err := c.service.Authenticate(t.Context(), token)
		if err != nil && !cloud.Is(err, cloud.KindUnauthenticated) {
			t.Fatal(err)
		}
		return err == nil
	}
	first, second := fresh(), fresh()
	c.want(204, "DELETE", "/v3/auth/tokens", first, nil, "X-Subject-Token", first)
	if alive(first) || !alive(second) {
		t.Error("revoking one token must end that one only")
	}
	c.want(404, "GET", "/v3/auth/tokens", admin, nil, "X-Subject-Token", first)
	c.want(403, "GET", "/v3/auth/tokens", second, nil, "X-Subject-Token", admin)
	c.want(400, "GET", "/v3/auth/tokens", second, nil)

	c.want(401, "POST", "/v3/users/"+user+"/password", second, obj{"user": obj{"original_password": "wrong", "password": "new"}})
	c.want(204, "POST", "/v3/users/"+user+"/password", second, obj{"user": obj{"original_password": "pw", "password": "pw2"}})
	if alive(second) {
		t.Error("a password change must end the user's tokens")
	}
	c.want(401, "POST", "/v3/auth/tokens", "", passwordAuth("ann", "pw", nil))
	third, _ := c.login(passwordAuth("ann", "pw2", projectScope("ann")))
	if !alive(third) {
		t.Error("a token made right after the password change must live")
	}
	for what, undo := range map[string]func() bool{
		"disabled project": func() bool {
			c.want(200, "PATCH", "/v3/projects/"+project, admin, obj{"project": obj{"enabled": false}})
			dead := !alive(third)
			c.want(200, "PATCH", "/v3/projects/"+project, admin, obj{"project": obj{"enabled": true}})
			return dead && alive(third)
		},
		"lost role": func() bool {
			role, _ := store.One(c.store, tables.Roles, tables.ByName, "member")
			path := "/v3/projects/" + project + "/users/" + user + "/roles/" + string(role.ID)
			c.want(204, "DELETE", path, admin, nil)
			c.want(404, "HEAD", path, admin, nil)
			c.want(404, "DELETE", path, admin, nil)
			dead := !alive(third)
			c.want(204, "PUT", path, admin, nil)
			c.want(204, "HEAD", path, admin, nil)
			return dead && alive(third)
		},
	} {
		if !undo() {
			t.Errorf("%s: the token did not end and come back with it", what)
		}
	}
	c.want(200, "PATCH", "/v3/users/"+user, admin, obj{"user": obj{"enabled": false}})
	c.want(200, "PATCH", "/v3/users/"+user, admin, obj{"user": obj{"enabled": true}})
	if alive(third) {
		t.Error("disabling a user must end its tokens for good")
	}
}

func TestExpiredForgedAndForeignTokensAreRefused(t *testing.T) {
	c := newCloud(t)
	admin := c.admin()
	good, err := c.service.verify(admin)
	if err != nil {
		t.Fatal(err)
	}
	expired := *good
	expired.ExpiresUS = time.Now().Add(-time.Second).UnixMicro()
	old, err := c.service.sign(t.Context(), &expired)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(admin, ".")
	for name, token := range map[string]string{
		"expired":      old,
		"other claims": parts[0] + "." + strings.Split(old, ".")[1] + "." + parts[2],
		"no signature": parts[0] + "." + parts[1] + ".",
		"alg none":     "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"garbage":      "gAAAAA",
		"empty":        "",
		"giant":        strings.Repeat("a", tokenBytesMax+1),
	} {
		if _, err := c.service.Authenticate(t.Context(), token); !cloud.Is(err, cloud.KindUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A token remembered as good dies with its key.
	if _, err := c.service.Authenticate(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if err := deleteAll(t.Context(), c.store, tables.SigningKeys, []string{good.key}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.service.Authenticate(t.Context(), admin); !cloud.Is(err, cloud.KindUnauthenticated) {
		t.Errorf("key is gone: %v", err)
	}
}

func TestRescopedTokenLivesNoLongerThanItsParent(t *testing.T) {
	c := newCloud(t)
	unscoped, parent := c.login(passwordAuth("admin", c.password, "unscoped"))
	_, view := c.login(obj{"auth": obj{"identity": obj{"methods": []string{"token"}, "token": obj{"id": unscoped}}, "scope": projectScope("admin")}})
	if view["expires_at"] != parent["expires_at"] {
		t.Errorf("parent ends %v, child %v", parent["expires_at"], view["expires_at"])
	}
	if fmt.Sprint(view["methods"]) != "[token password]" || view["audit_ids"].([]any)[1] != parent["audit_ids"].([]any)[0] {
		t.Errorf("child is %v", view)
	}
}

func TestNonAdminIsKeptOut(t *testing.T) {
	c := newCloud(t)
	user, project := c.addUser("ann", "member")
	token, _ := c.login(passwordAuth("ann", "pw", projectScope("ann")))
	for _, k := range []struct {
		code         int
		method, path string
		body         any
	}{
		{403, "GET", "/v3/users", nil},
		{403, "POST", "/v3/users", obj{"user": obj{"name": "x"}}},
		{403, "GET", "/v3/users/" + string(c.made.AdminUser), nil},
		{403, "PATCH", "/v3/users/" + user, obj{"user": obj{"enabled": true}}},
		{403, "DELETE", "/v3/users/" + user, nil},
		{403, "GET", "/v3/projects", nil},
		{403, "GET", "/v3/projects/" + string(c.made.AdminProject), nil},
		{403, "POST", "/v3/projects", obj{"project": obj{"name": "x"}}},
		{403, "GET", "/v3/role_assignments", nil},
		{403, "GET", "/v3/roles", nil},
		{403, "PUT", "/v3/projects/" + project + "/users/" + user + "/roles/x", nil},
		{403, "POST", "/v3/users/" + string(c.made.AdminUser) + "/application_credentials", obj{}},
		{403, "POST", "/v3/users/" + string(c.made.AdminUser) + "/password", obj{"user": obj{"original_password": "a", "password": "b"}}},
		{200, "GET", "/v3/users/" + user, nil},
		{200, "GET", "/v3/projects/" + project, nil},
		{200, "GET", "/v3/users/" + user + "/projects", nil},
		{200, "GET", "/v3/auth/projects", nil},
		{200, "GET", "/v3/auth/catalog", nil},
		{200, "GET", "/v3/role_assignments?user.id=" + user, nil},
	} {
		got, _, out := c.call(k.method, k.path, token, k.body)
		if got != k.code {
			t.Errorf("%s %s: got %d %v, want %d", k.method, k.path, got, out, k.code)
		}
		if e, ok := out["error"].(obj); k.code == 403 && (!ok || !strings.HasPrefix(e["message"].(string), "You are not authorized to perform the requested action: identity:")) {
			t.Errorf("%s %s: %v", k.method, k.path, out)
		}
		if got, _, _ := c.call(k.method, k.path, "", k.body); got != 401 {
			t.Errorf("%s %s without a token: %d", k.method, k.path, got)
		}
	}
}

func TestBadBodiesAreRefused(t *testing.T) {
	c := newCloud(t)
	admin := c.admin()
	c.want(409, "POST", "/v3/projects", admin, obj{"project": obj{"name": "admin"}})
	c.want(409, "POST", "/v3/users", admin, obj{"user": obj{"name": "admin"}})
	c.want(409, "POST", "/v3/roles", admin, obj{"role": obj{"name": "admin"}})
	c.want(404, "POST", "/v3/users", admin, obj{"user": obj{"name": "x", "domain_id": "nope"}})
	c.want(413, "POST", "/v3/users", admin, strings.Repeat("x", 10<<20))
	c.want(413, "POST", "/v3/auth/tokens", "", strings.Repeat("x", 10<<20))
	c.want(400, "POST", "/v3/auth/tokens", "", "{")
	for body, message := range map[string]string{
		`{"user":{}}`:                          "Invalid input for field 'user': 'name' is a required property",
		`{"user":{"name":5}}`:                  "Invalid input for field 'user/name': 5 is not of type 'string'",
		`{"user":{"name":"x","shoe_size":44}}`: "Invalid input for field 'user': Additional properties are not allowed ('shoe_size' was unexpected)",
		`{"user":{"name":"x","enabled":"y"}}`:  "Invalid input for field 'user/enabled': 'y' is not of type 'boolean'",
	} {
		out := c.want(400, "POST", "/v3/users", admin, body)
		if got := out["error"].(obj)["message"]; got != message {
			t.Errorf("%s: %v", body, got)
		}
	}
	role, _ := store.One(c.store, tables.Roles, tables.ByName, "admin")
	c.want(403, "DELETE", "/v3/roles/"+string(role.ID), admin, nil)
	c.want(403, "PATCH", "/v3/roles/"+string(role.ID), admin, obj{"role": obj{"name": "boss"}})
	c.want(403, "DELETE", "/v3/domains/default", admin, nil)
	c.want(405, "POST", "/v3/services", admin, obj{})
}

func TestDeletingOwnersTakesWhatIsTheirs(t *testing.T) {
	c := newCloud(t)
	admin := c.admin()
	user, project := c.addUser("ann", "member")
	token, _ := c.login(passwordAuth("ann", "pw", projectScope("ann")))
	c.want(201, "POST", "/v3/users/"+user+"/application_credentials", token, obj{"application_credential": obj{"name": "one"}})
	c.want(204, "DELETE", "/v3/projects/"+project, admin, nil)
	if _, err := c.service.Authenticate(t.Context(), token); err == nil {
		t.Error("a token outlived its project")
	}
	if n, m := store.Count(c.store, tables.AppCredentials), len(store.By(c.store, tables.Assignments, tables.ByUser, user)); n+m != 0 {
		t.Errorf("%d credentials and %d assignments are left", n, m)
	}
	c.want(204, "DELETE", "/v3/users/"+user, admin, nil)
	c.want(404, "GET", "/v3/users/"+user, admin, nil)
	c.want(404, "DELETE", "/v3/users/"+user, admin, nil)
	c.want(201, "POST", "/v3/users", admin, obj{"user": obj{"name": "ann"}}) // the name is free again
}

func TestDomainsAndTheirUsers(t *testing.T) {
	c := newCloud(t)
	admin := c.admin()
	id := c.want(201, "POST", "/v3/domains", admin, obj{"domain": obj{"name": "acme"}})["domain"].(obj)["id"].(string)
	user := c.want(201, "POST", "/v3/users", admin, obj{"user": obj{"name": "admin", "password": "pw", "domain_id": id}})["user"].(obj)["id"].(string)
	body := obj{"auth": obj{"identity": obj{"methods": []string{"password"}, "password": obj{"user": obj{"name": "admin", "password": "pw", "domain": obj{"name": "acme"}}}}}}
	token, view := c.login(body)
	if view["user"].(obj)["id"] != user || view["user"].(obj)["domain"].(obj)["name"] != "acme" {
		t.Errorf("logged in as %v", view["user"])
	}
	role, _ := store.One(c.store, tables.Roles, tables.ByName, "reader")
	c.want(204, "PUT", "/v3/domains/"+id+"/users/"+user+"/roles/"+string(role.ID), admin, nil)
	body["auth"].(obj)["scope"] = obj{"domain": obj{"id": id}}
	if _, view := c.login(body); view["domain"].(obj)["id"] != id {
		t.Errorf("domain scope is %v", view["domain"])
	}
	c.want(200, "PATCH", "/v3/domains/"+id, admin, obj{"domain": obj{"enabled": false}})
	if _, err := c.service.Authenticate(t.Context(), token); err == nil {
		t.Error("a token outlived its user's domain")
	}
	c.want(409, "DELETE", "/v3/domains/"+id, admin, nil)
	c.want(204, "DELETE", "/v3/users/"+user, admin, nil)
	c.want(204, "DELETE", "/v3/domains/"+id, admin, nil)
	c.want(403, "PATCH", "/v3/domains/default", admin, obj{"domain": obj{"enabled": false}})
}

func TestRestrictedCredentialCannotMakeAnother(t *testing.T) {
	c := newCloud(t)
	user, _ := c.addUser("ann", "member")
	token, _ := c.login(passwordAuth("ann", "pw", projectScope("ann")))
	path := "/v3/users/" + user + "/application_credentials"
	c.want(400, "POST", path, token, obj{"application_credential": obj{"name": "x", "roles": []obj{{"name": "admin"}}}})
	c.want(400, "POST", path, token, obj{"application_credential": obj{"name": "x", "access_rules": []obj{}}})
	c.want(400, "POST", path, token, obj{"application_credential": obj{"name": "x", "expires_at": "2001-01-01T00:00:00"}})
	made := c.want(201, "POST", path, token, obj{"application_credential": obj{"name": "x", "roles": []obj{{"name": "reader"}}}})["application_credential"].(obj)
	c.want(409, "POST", path, token, obj{"application_credential": obj{"name": "x"}})
	auth := func(secret string) obj {
		return obj{"auth": obj{"identity": obj{"methods": []string{"application_credential"}, "application_credential": obj{"id": made["id"], "secret": secret}}}}
	}
	c.want(401, "POST", "/v3/auth/tokens", "", auth("wrong"))
	child, view := c.login(auth(made["secret"].(string)))
	if fmt.Sprint(view["roles"]) == "" || len(view["roles"].([]any)) != 1 || view["roles"].([]any)[0].(obj)["name"] != "reader" {
		t.Errorf("roles %v", view["roles"])
	}
	c.want(403, "POST", path, child, obj{"application_credential": obj{"name": "y"}})
	c.want(403, "DELETE", path+"/"+made["id"].(string), child, nil)
	// Rescoping must not shed the restriction.
	c.want(401, "POST", "/v3/auth/tokens", "", obj{"auth": obj{"identity": obj{"methods": []string{"token"}, "token": obj{"id": child}}, "scope": "unscoped"}})
	_, again := c.login(obj{"auth": obj{"identity": obj{"methods": []string{"token"}, "token": obj{"id": child}}}})
	if again["application_credential"] == nil {
		t.Error("a rescoped token lost its credential")
	}
	shown := c.want(200, "GET", path+"/"+made["id"].(string), token, nil)["application_credential"].(obj)
	if shown["secret"] != nil {
		t.Error("the secret is shown again")
	}
	c.want(204, "DELETE", path+"/"+made["id"].(string), token, nil)
	if _, err := c.service.Authenticate(t.Context(), child); err == nil {
		t.Error("a token outlived its credential")
	}
}

func TestGuessingIsSlowedButBounded(t *testing.T) {
	c := newCloud(t)
	for range failuresFree {
		c.want(401, "POST", "/v3/auth/tokens", "", passwordAuth("admin", "wrong", nil))
	}
	code, _, out := c.call("POST", "/v3/auth/tokens", "", passwordAuth("admin", c.password, nil))
	if code != 401 {
		t.Errorf("the right password after %d wrong ones: %d %v", failuresFree, code, out)
	}
	now := time.Now()
	th := newThrottle()
	for i := range 100 {
		th.failed("k", now)
		if i+1 >= failuresFree && !th.locked("k", now.Add(lockMin/2)) {
			t.Fatalf("not locked after %d failures", i+1)
		}
		if th.locked("k", now.Add(lockMax)) {
			t.Fatalf("locked for longer than %v after %d failures", lockMax, i+1)
		}
	}
	th.succeeded("k")
	if th.locked("k", now) {
		t.Error("success must end the lock")
	}
	for i := range 3 * throttleMax {
		th.failed(fmt.Sprint(i), now)
	}
	if len(th.counts) > throttleMax {
		t.Errorf("%d counts are kept", len(th.counts))
	}
}

func TestRememberedSignaturesAreBounded(t *testing.T) {
	v := newVerified(64)
	for i := range 1000 {
		v.put([32]byte{byte(i), byte(i >> 8)}, &claims{})
		if v.size() > 64 {
			t.Fatalf("%d are kept", v.size())
		}
	}
	if v.get([32]byte{byte(999 & 255), byte(999 >> 8)}) == nil {
		t.Error("the newest was forgotten")
	}
}

func TestKeysRotateWithoutEndingTokens(t *testing.T) {
	c := newCloud(t)
	token := c.admin()
	start := time.Now()
	for _, k := range []struct {
		after time.Duration
		keys  int
		alive bool
	}{
		{0, 1, true},
		{keyLife, 2, true},                  // a new key; the old one still verifies
		{keyLife + time.Minute, 2, true},    // settled
		{keyLife + 2*time.Hour, 1, false},   // the old one's last token is long over
		{2*keyLife + 2*time.Hour, 2, false}, // and so on
	} {
		if err := c.service.maintain(t.Context(), start.Add(k.after)); err != nil {
			t.Fatal(err)
		}
		if n := store.Count(c.store, tables.SigningKeys); n != k.keys {
			t.Errorf("after %v: %d keys, want %d", k.after, n, k.keys)
		}
		if _, err := c.service.Authenticate(t.Context(), token); (err == nil) != k.alive {
			t.Errorf("after %v: %v", k.after, err)
		}
	}
	if k := choose(store.All(c.store, tables.SigningKeys), start.Add(3*keyLife)); k == nil {
		t.Error("no key to sign with")
	}
}

func TestExpiredRevocationsAreForgotten(t *testing.T) {
	c := newCloud(t)
	now := time.Now()
	if _, err := c.store.UpdateVisible(t.Context(), func(tx *store.Tx) error {
		for i := range 60 {
			id := fmt.Sprint(i)
			if err := store.Put(tx, tables.Revocations, id, cloud.Revocation{AuditID: id, Expires: now.Add(time.Duration(i-50) * time.Minute)}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.service.maintain(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if n := store.Count(c.store, tables.Revocations); n != 10 {
		t.Errorf("%d revocations are left, want 10", n)
	}
}

func TestBootstrapIsIdempotentAndKeepsItsSecret(t *testing.T) {
	c := newCloud(t)
	for _, path := range []string{c.made.Openrc, c.made.Clouds} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	dir := filepath.Dir(c.made.Openrc)
	again, err := Bootstrap(t.Context(), c.store, BootstrapOptions{PublicURL: "http://elsewhere:1", Region: "north", Dir: dir})
	if err != nil || again.Created || again.AdminUser != c.made.AdminUser || again.AdminProject != c.made.AdminProject {
		t.Fatalf("second bootstrap: %+v %v", again, err)
	}
	if c.passwordInFile() != c.password {
		t.Error("the password changed")
	}
	openrc, err := os.ReadFile(c.made.Openrc)
	if err != nil || !strings.Contains(string(openrc), "OS_AUTH_URL='http://elsewhere:1/identity/v3'") || !strings.Contains(string(openrc), "'north'") {
		t.Errorf("openrc does not follow the URL: %s %v", openrc, err)
	}
	if n, m := store.Count(c.store, tables.Users), store.Count(c.store, tables.Projects); n != 1 || m != 2 {
		t.Errorf("%d users and %d projects", n, m)
	}
	lost, err := Bootstrap(t.Context(), c.store, BootstrapOptions{PublicURL: c.server.URL, Dir: t.TempDir()})
	if err != nil || lost.Created || lost.Openrc != "" {
		t.Errorf("bootstrap without the files: %+v %v", lost, err)
	}
	reset, err := Bootstrap(t.Context(), c.store, BootstrapOptions{PublicURL: c.server.URL, Dir: t.TempDir(), ResetPassword: true})
	if err != nil || !reset.Created || reset.AdminUser != c.made.AdminUser {
		t.Fatalf("reset: %+v %v", reset, err)
	}
	c.want(401, "POST", "/v3/auth/tokens", "", passwordAuth("admin", c.password, nil))
	c.made = reset
	c.login(passwordAuth("admin", c.passwordInFile(), projectScope("admin")))
}

func TestGophercloudManagesUsersAndCredentials(t *testing.T) {
	c := newCloud(t)
	ctx := t.Context()
	provider, err := gopher.AuthenticatedClient(ctx, gophercloud.AuthOptions{IdentityEndpoint: c.server.URL + "/identity", Username: "admin",
		Password: c.password, DomainName: "Default", TenantName: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := gopher.NewIdentityV3(provider, gophercloud.EndpointOpts{Region: RegionDefault})
	if err != nil {
		t.Fatal(err)
	}
	project, err := projects.Create(ctx, client, projects.CreateOpts{Name: "web", Description: "d", Tags: []string{"t"}, Extra: map[string]any{"cost_centre": "42"}}).Extract()
	if err != nil || project.Name != "web" || project.DomainID != "default" || project.Extra["cost_centre"] != "42" {
		t.Fatalf("%+v %v", project, err)
	}
	user, err := users.Create(ctx, client, users.CreateOpts{Name: "kim", Password: "pw", DefaultProjectID: project.ID}).Extract()
	if err != nil || !user.Enabled {
		t.Fatalf("%+v %v", user, err)
	}
	pages, err := roles.List(client, roles.ListOpts{Name: "member"}).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found, err := roles.ExtractRoles(pages)
	if err != nil || len(found) != 1 {
		t.Fatalf("%v %v", found, err)
	}
	if err := roles.Assign(ctx, client, found[0].ID, roles.AssignOpts{UserID: user.ID, ProjectID: project.ID}).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	yes := true
	pages, err = roles.ListAssignments(client, roles.ListAssignmentsOpts{UserID: user.ID, IncludeNames: &yes, Effective: &yes}).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	assignments, err := roles.ExtractRoleAssignments(pages)
	if err != nil || len(assignments) != 2 || assignments[0].User.Name != "kim" || assignments[0].Scope.Project.Name != "web" {
		t.Fatalf("%+v %v", assignments, err)
	}
	testGophercloudCredential(ctx, c, user.ID)
}

func testGophercloudCredential(ctx context.Context, c *testCloud, userID string) {
	c.Helper()
	provider, err := gopher.AuthenticatedClient(ctx, gophercloud.AuthOptions{IdentityEndpoint: c.server.URL + "/identity/v3/", UserID: userID, Password: "pw"})
	if err != nil {
		c.Fatal(err)
	}
	client, err := gopher.NewIdentityV3(provider, gophercloud.EndpointOpts{})
	if err != nil {
		c.Fatal(err)
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	cred, err := applicationcredentials.Create(ctx, client, userID, applicationcredentials.CreateOpts{Name: "ci", ExpiresAt: &tomorrow}).Extract()
	if err != nil || cred.Secret == "" || cred.ExpiresAt.Unix() != tomorrow.Unix() || len(cred.Roles) != 2 {
		c.Fatalf("%+v %v", cred, err)
	}
	provider, err = gopher.AuthenticatedClient(ctx, gophercloud.AuthOptions{IdentityEndpoint: c.server.URL + "/identity",
		ApplicationCredentialName: "ci", Username: "kim", DomainID: "default", ApplicationCredentialSecret: cred.Secret})
	if err != nil {
		c.Fatal(err)
	}
	client, err = gopher.NewIdentityV3(provider, gophercloud.EndpointOpts{})
	if err != nil {
		c.Fatal(err)
	}
	project, err := tokens.Get(ctx, client, provider.Token()).ExtractProject()
	if err != nil || project.Name != "web" {
		c.Fatalf("%+v %v", project, err)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	s, err := store.Open(b.Context(), store.Options{DataDir: b.TempDir(), Tables: tables.All(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	made, err := Bootstrap(b.Context(), s, BootstrapOptions{PublicURL: "http://x", Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	service := New(s, Options{})
	now := time.Now()
	token, err := service.sign(b.Context(), &claims{User: made.AdminUser, Project: made.AdminProject, Methods: []string{"password"}, AuditIDs: []string{"a"},
		IssuedUS: now.UnixMicro(), ExpiresUS: now.Add(time.Hour).UnixMicro()})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := service.Authenticate(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}
