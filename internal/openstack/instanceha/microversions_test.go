package instanceha

import (
	stdflag "flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

var update = stdflag.Bool("update", false, "write docs/microversions-ha.md anew")

func TestMicroversionDocument(t *testing.T) {
	if got, want := len(Changes), openstack.Masakari.Versions.Max.Minor+1; got != want {
		t.Fatalf("%d changes, %d microversions", got, want)
	}
	path := filepath.Join("..", "..", "..", "docs", "microversions-ha.md")
	want := openstack.ChangeDocument(openstack.Masakari, "Instance-ha microversions", "internal/openstack/instanceha", Changes)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what Changes says (%v); write it anew with -update", path, err)
	}
}
