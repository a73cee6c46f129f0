package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/sim"
)

// simulate runs the command and returns what it prints.
func simulate(t *testing.T, args ...string) (string, error) {
	t.Helper()
	t.Setenv("GODWIT_TRACES", "")
	began := false
	root := newRoot(&began)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append([]string{"simulate"}, args...))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// twoDays writes two days of traces, small ones.
func twoDays(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, day := range []string{"20110303", "20110306"} {
		if err := os.MkdirAll(filepath.Join(folder, day), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			if err := os.WriteFile(filepath.Join(folder, day, name), []byte(strings.Repeat("40\n5\n", 24)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return folder
}

func TestSimulateComparesPoliciesOnTraces(t *testing.T) {
	folder, files := twoDays(t), t.TempDir()
	table := filepath.Join(files, "r.csv")
	out, err := simulate(t, "--traces", folder, "--hosts", "8", "--rules", "paper,ram", "--policy", "lr-mmt-1.2,godwit", "--csv", table, "--plots", filepath.Join(files, "plots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"20110303", "20110306", "median of 2", "lr-mmt-1.2", "godwit", "88.17", "do not reproduce"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if csv, err := os.ReadFile(table); err != nil || strings.Count(string(csv), "\n") != 1+2*2*2 {
		t.Errorf("%v:\n%s", err, csv)
	}
	plots, err := filepath.Glob(filepath.Join(files, "plots", "*.svg"))
	if err != nil || len(plots) != 2+4 {
		t.Errorf("plots %v %v", plots, err)
	}
	again, err := simulate(t, "--traces", folder, "--hosts", "8", "--rules", "paper,ram", "--policy", "lr-mmt-1.2,godwit", "--workers", "1")
	if err != nil || again != out {
		t.Errorf("another run, another table (%v):\n%s\n%s", err, out, again)
	}
}

func TestSimulatePrintsJSONOfOneDay(t *testing.T) {
	out, err := simulate(t, "--traces", twoDays(t), "--days", "20110306", "--hosts", "8", "--rules", "paper", "--policy", "godwit", "-o", "json", "--series")
	var results []sim.Result
	if err != nil || json.Unmarshal([]byte(out), &results) != nil || len(results) != 1 {
		t.Fatalf("%v:\n%s", err, out)
	}
	if r := results[0]; r.Day != "20110306" || r.EnergyKWh <= 0 || len(r.Series) == 0 {
		t.Errorf("%+v", r)
	}
}

func TestSimulateSaysWhatItCannotDo(t *testing.T) {
	folder := twoDays(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--policy", "magic"}, "magic"},
		{[]string{"--rules", "none"}, "cloudsim, paper or ram"},
		{[]string{"--traces", folder, "--days", "20110304"}, "20110303, 20110306"},
		{[]string{"--traces", filepath.Join(folder, "nowhere")}, "nowhere"},
		{[]string{"--synthetic", "0"}, "nothing to simulate"},
		{[]string{"--hosts", "1", "--servers", "40", "--policy", "dvfs"}, "fits on none of 1 hosts"},
	} {
		out, err := simulate(t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v\n%s", c.args, err, out)
		}
	}
}
