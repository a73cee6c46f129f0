package volume

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// KindGluster is the kind of back end whose directory lies on a GlusterFS mount.
const KindGluster = "gluster"

// fuseMagic is what statfs(2) says of a FUSE file system, such as GlusterFS's client.
const fuseMagic = 0x65735546

// checkMount refuses the directory of a network back end when the network file system is not mounted there: volumes would seem to be gone, and new ones would
// be made below the mount point, where nobody finds them later.
func checkMount(kind, dir string) error {
	if kind != KindGluster {
		return nil
	}
	for at := dir; ; at = filepath.Dir(at) { // the directory itself is made by Open
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if err == unix.ENOENT && at != filepath.Dir(at) { //nolint:errorlint // of a system call
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if st.Type != fuseMagic {
			return cloud.Errorf(cloud.KindUnavailable, "no GlusterFS is mounted there")
		}
		return nil
	}
}
