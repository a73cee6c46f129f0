package identity

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// cli runs the stock openstack client with the credentials Bootstrap wrote and returns what it printed.
func (c *testCloud) cli(args ...string) string {
	c.Helper()
	out, err := c.tryCLI(args...)
	if err != nil {
		c.Fatalf("openstack %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (c *testCloud) tryCLI(args ...string) (string, error) {
	c.Helper()
	// The file is what a person would source: so it is tested as well.
	cmd := exec.CommandContext(c.Context(), "/bin/sh", append([]string{"-c", `. "$0" && exec openstack "$@"`, c.made.Openrc}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.TempDir(), "LC_ALL=C.UTF-8"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

func (c *testCloud) cliJSON(args ...string) any {
	c.Helper()
	var v any
	text := c.cli(append(args, "-f", "json")...)
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		c.Fatalf("%s: %v", text, err)
	}
	return v
}

// names returns one column of a list.
func names(list any, column string) string {
	var out []string
	for _, row := range list.([]any) {
		s, _ := row.(obj)[column].(string)
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestStockClientManagesTheCloud(t *testing.T) {
	if _, err := exec.LookPath("openstack"); err != nil {
		t.Fatalf("the stock client is part of this test: scripts/install-lab-deps.sh installs it (package python3-openstackclient): %v", err)
	}
	c := newCloud(t)
	if id := c.cli("token", "issue", "-f", "value", "-c", "user_id"); strings.TrimSpace(id) != string(c.made.AdminUser) {
		t.Errorf("token issue: %q", id)
	}
	if got := names(c.cliJSON("catalog", "list"), "Name"); got != "keystone nova glance neutron cinderv3 cinder watcher masakari" {
		t.Errorf("catalog list: %s", got)
	}
	c.cli("project", "create", "--description", "web shop", "web")
	c.cli("user", "create", "--project", "web", "--password", "pw", "kim")
	c.cli("role", "add", "--user", "kim", "--project", "web", "member")
	if p := c.cliJSON("project", "show", "web").(obj); p["description"] != "web shop" || p["enabled"] != true {
		t.Errorf("project show: %v", p)
	}
	c.cli("project", "set", "--description", "shop", "web")
	if got := names(c.cliJSON("project", "list"), "Name"); !strings.Contains(got, "web") || !strings.Contains(got, "admin") {
		t.Errorf("project list: %s", got)
	}
	if got := names(c.cliJSON("user", "list", "--project", "web"), "Name"); got != "kim" {
		t.Errorf("user list: %s", got)
	}
	rows := c.cliJSON("role", "assignment", "list", "--names", "--user", "kim")
	if names(rows, "Role") != "member" || names(rows, "Project") != "web@Default" {
		t.Errorf("role assignment list: %v", rows)
	}
	if got := names(c.cliJSON("role", "assignment", "list", "--names", "--effective", "--user", "kim", "--project", "web"), "Role"); got != "member reader" && got != "reader member" {
		t.Errorf("effective: %s", got)
	}
	if got := names(c.cliJSON("application", "credential", "list"), "Name"); got != "" {
		t.Errorf("credentials before any: %s", got)
	}
	if made := c.cliJSON("application", "credential", "create", "--role", "reader", "--expiration", "2100-01-01T00:00:00", "ci").(obj); made["secret"] == "" || made["roles"] != "reader" {
		t.Errorf("application credential create: %v", made)
	}
	if shown := c.cliJSON("application", "credential", "show", "ci").(obj); !strings.HasPrefix(shown["expires_at"].(string), "2100-01-01T00:00:00") {
		t.Errorf("application credential show: %v", shown)
	}
	c.cli("application", "credential", "delete", "ci")
	testStockClientRest(c)
}

func testStockClientRest(c *testCloud) {
	c.Helper()
	for _, list := range [][]string{{"domain"}, {"region"}, {"service"}, {"endpoint"}, {"role"}, {"group"}, {"implied", "role"}} {
		c.cliJSON(append(list, "list")...)
	}
	if s := c.cliJSON("service", "show", "nova").(obj); s["type"] != "compute" {
		c.Errorf("service show: %v", s)
	}
	c.cli("role", "remove", "--user", "kim", "--project", "web", "member")
	c.cli("user", "set", "--disable", "kim")
	if u := c.cliJSON("user", "show", "kim").(obj); u["enabled"] != false {
		c.Errorf("user show: %v", u)
	}
	c.cli("user", "password", "set", "--original-password", c.password, "--password", "fresh")
	if out, err := c.tryCLI("token", "issue"); err == nil || !strings.Contains(out, "HTTP 401") {
		c.Errorf("old password: %v %s", err, out)
	}
	c.cli("--os-password", "fresh", "user", "delete", "kim")
	c.cli("--os-password", "fresh", "project", "delete", "web")
	if out, err := c.tryCLI("--os-password", "fresh", "project", "show", "web"); err == nil || !strings.Contains(out, "No project with a name or ID of 'web' exists") {
		c.Errorf("show of what is gone: %v %s", err, out)
	}
}
