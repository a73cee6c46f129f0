package volume

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Without its mount a back end on GlusterFS would be an empty directory of the machine's own disk.
func TestADirectoryWhereNoGlusterFSIsMountedIsNoBackEnd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "far", "volumes")
	s, err := Open(t.Context(), Options{Dir: dir, Name: "far", Kind: KindGluster})
	if err == nil {
		_ = s.Close(t.Context())
	}
	if !cloud.Is(err, cloud.KindUnavailable) || !strings.Contains(err.Error(), "no GlusterFS is mounted there") {
		t.Errorf("opened: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
}
