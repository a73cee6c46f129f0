package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// yamlBlock is a configuration in a document.
var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// certificatePath is a file that a configuration names.
var certificatePath = regexp.MustCompile(`/\S+\.pem`)

// TestTheConfigurationsOfTheGuidesAreAccepted: what operators copy from a page has no mistakes.
func TestTheConfigurationsOfTheGuidesAreAccepted(t *testing.T) {
	pages, err := filepath.Glob("../../docs/operating/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range yamlBlock.FindAllStringSubmatch(string(raw), -1) {
			dir := t.TempDir()
			text := strings.ReplaceAll(block[1], "/etc/godwit/", dir+"/")
			for _, certificate := range certificatePath.FindAllString(text, -1) { // what the reader has and this machine has not
				if err := os.WriteFile(certificate, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "godwit.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, _, err := godwit(t, "config", "check", file); err != nil {
				t.Errorf("%s: %v\n%s\n%s", page, err, block[1], out)
			}
			seen++
		}
	}
	if seen < 5 {
		t.Errorf("%d configurations on %d pages: the pages are written differently now", seen, len(pages))
	}
}

// TestTheUnitsStartWhatIsThere: every service of deploy/systemd runs a command of this binary that says when it is ready, and the guide says to enable it.
func TestTheUnitsStartWhatIsThere(t *testing.T) {
	guide, err := os.ReadFile("../../docs/operating/install.md")
	if err != nil {
		t.Fatal(err)
	}
	started := map[string]bool{}
	units, err := filepath.Glob("../../deploy/systemd/godwit-*.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range units {
		raw, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		_, line, found := strings.Cut(string(raw), "\nExecStart=")
		line, _, _ = strings.Cut(line, "\n")
		arguments, ours := strings.CutPrefix(line, "/usr/local/bin/godwit ")
		if !found || !ours {
			continue // the one that tells libvirtd
		}
		if !strings.Contains(string(raw), "\nType=notify\n") {
			t.Errorf("%s: the command says when it is ready, and nobody listens", unit)
		}
		if out, _, err := godwit(t, append(strings.Fields(arguments), "--help")...); err != nil || !strings.Contains(out, "godwit "+arguments) {
			t.Errorf("%s: godwit %s: %v\n%s", unit, arguments, err, out)
		}
		if name := strings.TrimSuffix(filepath.Base(unit), ".service"); !strings.Contains(string(guide), name) {
			t.Errorf("the guide does not name %s", name)
		}
		started[arguments] = true
	}
	for _, daemon := range []string{"server", "agent", "volumes"} {
		if !started[daemon] {
			t.Errorf("no unit starts godwit %s", daemon)
		}
	}
}
