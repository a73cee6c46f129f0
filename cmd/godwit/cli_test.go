package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// godwit runs a command line in this process.
func godwit(t *testing.T, args ...string) (stdout string, began bool, err error) {
	t.Helper()
	root := newRoot(&began)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err = root.ExecuteContext(context.Background())
	return out.String(), began, err
}

func TestMistakesOnTheCommandLineAreToldFromFailures(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"why"}, {"migrate"}, {"server", "--no-such-flag"}, {"version", "-o", "xml"}} {
		if _, began, err := godwit(t, args...); err == nil || began {
			t.Errorf("%v: began %v, error %v", args, began, err)
		}
	}
	t.Setenv("OS_AUTH_URL", "")
	t.Setenv("OS_CLOUD", "")
	t.Setenv(labNameVariable, "no-such-lab")
	_, began, err := godwit(t, "servers")
	if !began || !cloud.Is(err, cloud.KindUnauthenticated) || !strings.Contains(err.Error(), "openrc") {
		t.Errorf("without credentials: began %v, %v", began, err)
	}
}

func TestEveryErrorHasItsExitCode(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{usageError{errors.New("x")}, 2}, {cloud.Errorf(cloud.KindInvalid, "x"), 2}, {cloud.Errorf(cloud.KindForbidden, "x"), 3},
		{cloud.Errorf(cloud.KindNotFound, "x"), 4}, {cloud.Errorf(cloud.KindConflict, "x"), 5}, {cloud.Errorf(cloud.KindNoValidHost, "x"), 6},
		{cloud.Errorf(cloud.KindUnavailable, "x"), 7}, {errors.New("x"), 1}, {&exitStatus{9}, 9},
	}
	for _, tt := range tests {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestTheStatusOfACommandInANodeIsPassedOnInSilence(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "kill -TERM $$": 143} {
		var quiet *exitStatus
		if err := passed(exec.Command("sh", "-c", script).Run()); !errors.As(err, &quiet) || exitCode(err) != want {
			t.Errorf("%s: %v, exit code %d, want %d", script, err, exitCode(err), want)
		}
	}
	if err := passed(cloud.Errorf(cloud.KindNotFound, "no such node")); exitCode(err) != 4 {
		t.Errorf("an error of ours became %v", err)
	}
}

func TestConfigCheckFindsMistakesAndShowKeepsSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "godwit.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("server:\n  api_lisen: x\n")
	if _, _, err := godwit(t, "config", "check", path); err == nil || !strings.Contains(err.Error(), `did you mean "api_listen"?`) {
		t.Errorf("got %v", err)
	}
	write("server:\n  api_listen: x\n  region: \"\"\n  etcd_ca: /nonexistent/ca.pem\n")
	mistaken, _, err := godwit(t, "config", "check", path, "-o", "json")
	var report struct {
		OK     bool
		Errors []string
	}
	var status *exitStatus
	if !errors.As(err, &status) || status.code != exitUsage || json.Unmarshal([]byte(mistaken), &report) != nil || report.OK || len(report.Errors) != 3 {
		t.Errorf("as JSON: %v\n%s", err, mistaken)
	}
	write("server:\n  etcd_password: hush\n  etcd_endpoints: [http://etcd:2379]\n")
	if out, _, err := godwit(t, "config", "check", path); err != nil || !strings.Contains(out, "ok") {
		t.Errorf("got %q, %v", out, err)
	}
	out, _, err := godwit(t, "config", "show", "--config", path)
	if err != nil || strings.Contains(out, "hush") || !strings.Contains(out, "# "+path+":2") {
		t.Errorf("got %v\n%s", err, out)
	}
	out, _, err = godwit(t, "config", "show", "--config", path, "-o", "json")
	if err != nil || strings.Contains(out, "hush") || !strings.HasPrefix(out, "{") {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestTablesMarkEmptyCells(t *testing.T) {
	var b bytes.Buffer
	o := &output{format: "table"}
	tab := table{header: []string{"A", "B"}}
	tab.add("x", "")
	if err := o.print(&b, nil, tab); err != nil || b.String() != "A  B\nx  -\n" {
		t.Errorf("got %q, %v", b.String(), err)
	}
}
