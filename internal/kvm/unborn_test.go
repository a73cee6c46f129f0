package kvm

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestOnlyOurDomainsWithoutAProcessAreForgotten(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"instance-a.xml":     `<domstatus state='paused' reason='starting up' pid='0'><job type='none' async='migration in' phase='prepare'/></domstatus>`,
		"instance-b.xml":     `<domstatus state='running' reason='booted' pid='17'></domstatus>`,
		"instance-a.xml.new": `<domstatus state='paused' reason='starting up' pid='19'>`, // libvirtd died while it wrote this
		"instance-c.pid":     "0",
		"other.xml":          `<domstatus state='paused' reason='starting up' pid='0'></domstatus>`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	buried, err := buryUnborn(dir)
	if err != nil || !slices.Equal(buried, []string{"instance-a.xml"}) {
		t.Errorf("forgotten: %v, %v", buried, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 4 {
		t.Errorf("left: %v, %v", left, err)
	}
	if buried, err := buryUnborn(dir); err != nil || len(buried) != 0 {
		t.Errorf("again: %v, %v", buried, err)
	}
}

func TestADamagedNoteIsReportedAndLeft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "instance-a.xml")
	if err := os.WriteFile(file, []byte("<domstatus pid='0'"), 0o600); err != nil {
		t.Fatal(err)
	}
	if buried, err := buryUnborn(filepath.Dir(file)); err == nil || len(buried) != 0 {
		t.Errorf("forgotten: %v, %v", buried, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
