package nodeinit

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/godwit-cloud/godwit/internal/lab/pingtrace"
)

// Spec says what a node is. It is written by the lab and read once, by process 1.
type Spec struct {
	// Lab and Node name the node in messages.
	Lab, Node string
	// Hostname is the node's UTS name; libvirt refuses a migration between equal names.
	Hostname string
	// Control is the path of the unix socket that Run listens on, in the mount namespace of the lab's maker.
	Control string
	// Mounts are bind mounts private to the node. Both ends must exist.
	Mounts []Bind
	// Disks are mounted after Mounts, private to the node too.
	Disks []Disk
	// Units are started, in this order, once the lab has said "boot".
	Units []Unit
	// Tethered powers the node off when the maker of the lab exits. File descriptor 3 is then the read end of a pipe the maker holds.
	Tethered bool
	// Listeners names the sockets inherited after the tether (or from descriptor 3), for units with Sockets set.
	Listeners []string
	// Ping, when set, makes Run a network trace inside an existing node instead of a new node; all other fields are then unused.
	Ping *pingtrace.Spec `json:",omitempty"`
}

// Bind is one bind mount.
type Bind struct {
	Source, Target string
}

// Disk is a file that holds a file system. The kernel gives its loop device up when the node, and with it the mount, is gone.
type Disk struct {
	// File is seen from within the node. Target is a directory; it is made.
	File, Target string
	// Type of the file system, as mount(8) calls it.
	Type string
}

// Unit is a supervised process.
type Unit struct {
	// Name identifies the unit within its node: libvirtd, agent, server.
	Name string
	// Argv is the command; Argv[0] is an absolute path.
	Argv []string
	// Env is added to the node's plain environment.
	Env []string
	// Log is the file that receives stdout and stderr, opened before the private mounts hide it.
	Log string
	// WaitFor, when set, is a file without which the unit is not started. Its directory must exist.
	WaitFor string
	// Sockets passes the node's listeners to the unit by socket activation.
	Sockets bool
}

// ReadSpec loads a Spec from a JSON file.
func ReadSpec(path string) (Spec, error) {
	var spec Spec
	raw, err := os.ReadFile(path)
	if err != nil {
		return spec, fmt.Errorf("node spec: %w", err)
	}
	if err := json.Unmarshal(raw, &spec); err != nil {
		return spec, fmt.Errorf("node spec %s: %w", path, err)
	}
	return spec, nil
}
