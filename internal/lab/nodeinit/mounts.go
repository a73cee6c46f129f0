package nodeinit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// enter makes the node's view of the machine: nothing it mounts is seen outside, and it sees only its own processes and links.
func enter(spec Spec) error {
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const hardened = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", hardened, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// A new sysfs shows the links of this network namespace and hides the cgroup hierarchies below the old one.
	if err := unix.Mount("sysfs", "/sys", "sysfs", hardened, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	for _, b := range spec.Mounts {
		if err := unix.Mount(b.Source, b.Target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s on %s: %w", b.Source, b.Target, err)
		}
	}
	for _, d := range spec.Disks {
		if err := mountDisk(d); err != nil {
			return err
		}
	}
	return nil
}

// mountDisk leaves the loop device to mount(8), which asks the kernel to release it together with the mount.
func mountDisk(d Disk) error {
	if err := os.MkdirAll(d.Target, 0o755); err != nil {
		return err
	}
	out, err := exec.Command("mount", "-t", d.Type, "-o", "loop", d.File, d.Target).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w: %s", d.File, d.Target, err, bytes.TrimSpace(out))
	}
	return nil
}
