package disk

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Mount is what a directory lies on.
type Mount struct {
	Point  string // where it is mounted
	Type   string // "fuse.glusterfs", "nfs4", "ext4", ...
	Source string // "gluster-1:/vms", "/dev/vda1", ...
}

// Remote reports whether the file system can be one that several hosts mount at once.
func (m Mount) Remote() bool {
	switch kind, _, _ := strings.Cut(m.Type, "."); kind {
	case "fuse", "nfs", "nfs4", "ceph", "gfs2", "ocfs2", "lustre", "glusterfs", "cifs", "9p":
		return true
	}
	return false
}

// MountOf returns what dir lies on.
func MountOf(dir string) (Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Mount{}, fmt.Errorf("mounts: %w", err)
	}
	defer f.Close()
	var best Mount
	for lines := bufio.NewScanner(f); lines.Scan(); {
		m, ok := parseMount(lines.Text())
		if ok && within(m.Point, dir) && len(m.Point) >= len(best.Point) { // the last one mounted covers those before it
			best = m
		}
	}
	if best.Point == "" {
		return best, fmt.Errorf("mounts: nothing is mounted above %s", dir)
	}
	return best, nil
}

func within(point, dir string) bool {
	return dir == point || strings.HasPrefix(dir, strings.TrimSuffix(point, "/")+"/")
}

// parseMount reads a line of proc(5)'s mountinfo.
func parseMount(line string) (Mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	own, rest := strings.Fields(before), strings.Fields(after)
	const pointField = 4
	if !ok || len(own) <= pointField || len(rest) < 2 {
		return Mount{}, false
	}
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	return Mount{Point: plain.Replace(own[pointField]), Type: rest[0], Source: plain.Replace(rest[1])}, true
}

// Instances is the directory of servers' disks below a store's directory: where a shared file system is mounted.
func Instances(dir string) string { return filepath.Join(dir, instancesDir) }

// RequireMount fails with KindUnavailable unless a file system of the type is mounted at the directory of servers' disks.
func RequireMount(dir, kind string) error {
	at, err := filepath.Abs(Instances(dir))
	if err != nil {
		return err
	}
	m, err := MountOf(at)
	if err != nil {
		return err
	}
	if m.Point != at || m.Type != kind {
		return cloud.Errorf(cloud.KindUnavailable, "%s is to be a mount of type %s; it lies on %s (%s)", at, kind, m.Point, m.Type)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil { // a client that died leaves a mount that answers nothing
		return cloud.Errorf(cloud.KindUnavailable, "%s: %w", at, err)
	}
	return nil
}
