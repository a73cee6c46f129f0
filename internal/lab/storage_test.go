package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/lab/labtest"
	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

// disksOf lists the loop devices that hold a file of the lab.
func disksOf(t *testing.T, name string) []string {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var held []string
	for _, f := range files {
		if raw, err := os.ReadFile(f); err == nil && strings.Contains(string(raw), "/"+name+"/") {
			held = append(held, strings.TrimSpace(string(raw)))
		}
	}
	return held
}

func TestAStorageNodeKeepsItsDiskOverAPowerCycleAndLeavesNoDevice(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1, Storage: 1})
	node := lab.StorageName(1)
	awaitUnit(t, l, node, lab.UnitVolumes, nodeinit.UnitRunning)
	if fs := mustOutput(t, l, node, "stat", "--file-system", "--format=%T", "/var/lib/godwit/disk/main"); fs != "xfs" {
		t.Errorf("volumes are kept on %q", fs)
	}
	mustOutput(t, l, node, "sh", "-c", "echo kept >/var/lib/godwit/disk/proof && sync /var/lib/godwit/disk/proof")
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), l.Name) {
		t.Errorf("the node's disk is mounted outside it too: %v\n%s", err, mounts)
	}
	if err := l.PowerOff(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if held := disksOf(t, l.Name); len(held) > 0 {
		t.Errorf("after the power was cut loop devices hold %v", held)
	}
	if err := l.PowerOn(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitVolumes(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if got := mustOutput(t, l, node, "cat", "/var/lib/godwit/disk/proof"); got != "kept" {
		t.Errorf("the disk has %q", got)
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if held := disksOf(t, l.Name); len(held) > 0 {
		t.Errorf("the lab is down and loop devices hold %v", held)
	}
}
