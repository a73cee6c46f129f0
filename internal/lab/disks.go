package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

const (
	mkfsPath = "/usr/sbin/mkfs.xfs"
	// diskBytes is what a storage node's file system offers; its file is sparse and takes what is written.
	diskBytes = 32 << 30
	// diskInside is where a storage node mounts its disk.
	diskInside = dataDirInside + "/disk"
	// disksFreeWait bounds the kernel's clean-up after a storage node: it writes back what was cached before it lets go of the file.
	disksFreeWait = time.Minute
)

func (l *Lab) diskFile(node string) string { return filepath.Join(nodeDir(l.Name, node), "disk.xfs") }

// makeDisk makes a storage or GlusterFS node's disk: XFS, which shares blocks between a volume and its snapshots.
func (l *Lab) makeDisk(node string) error {
	file := l.diskFile(node)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command(mkfsPath, "-q", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", mkfsPath, file, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// disks are what a node mounts besides its views.
func (l *Lab) disks(node string) []nodeinit.Disk {
	if !l.isStorage(node) && !l.isGluster(node) {
		return nil
	}
	return []nodeinit.Disk{{File: l.diskFile(node), Target: diskInside, Type: "xfs"}}
}

// awaitDisksFree waits until no loop device has a file below dir. The kernel unmounts a dead node's disks by itself, some time after its
// last process; until then the file is in use, and mounting it anew would give one file system two masters.
func awaitDisksFree(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, disksFreeWait)
	defer cancel()
	return eventually(ctx, func() error {
		backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			return err
		}
		for _, b := range backing {
			file, err := os.ReadFile(b)
			if err == nil && strings.HasPrefix(string(file), dir+"/") { // an error: it went away meanwhile
				return fmt.Errorf("%s still holds %s", filepath.Base(filepath.Dir(filepath.Dir(b))), strings.TrimSpace(string(file)))
			}
		}
		return nil
	})
}

// sharedDir is what the compute nodes of a Shared lab have at ShareInside.
func sharedDir(name string) string { return filepath.Join(dataDir(name), "shared") }

// CutShare takes the hosts' leases in a Shared lab's directory away from a node, though not the disks of its servers, which its guests go on using: the worst
// that losing storage can be. RestoreShare brings them back.
func (l *Lab) CutShare(ctx context.Context, node string) error {
	_, err := l.Output(ctx, node, "mount", "-t", "tmpfs", "-o", "ro,size=4k", "cut", leasesInside)
	return err
}

// RestoreShare undoes CutShare.
func (l *Lab) RestoreShare(ctx context.Context, node string) error {
	_, err := l.Output(ctx, node, "umount", leasesInside)
	return err
}

// leasesInside is where package sharedlease keeps its files.
const leasesInside = ShareInside + "/.godwit"
