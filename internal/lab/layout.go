package lab

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	runRoot  = "/run/godwit-lab"
	dataRoot = "/var/lib/godwit-lab"

	// DefaultName is the lab that commands mean when they name none.
	DefaultName = "default"

	// Controller and Switch are the nodes every lab has; compute nodes are named by HostName.
	Controller = "controller"
	Switch     = "switch"
)

// Unit names, as reported by Status and accepted by KillUnit and its siblings.
const (
	UnitLibvirtd = "libvirtd"
	UnitAgent    = "agent"
	UnitServer   = "server"
	UnitVolumes  = "volumes"
	UnitGlusterd = "glusterd"
	UnitShare    = "share" // a compute or storage node's GlusterFS client
)

// labName bounds names so that socket paths below the lab's directories stay well under the 107 bytes a unix socket may have.
var labName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,23}$`)

func checkName(name string) error {
	if !labName.MatchString(name) {
		return fmt.Errorf("lab %q: a name is 1 to 24 lower-case letters, digits and dashes", name)
	}
	return nil
}

// StorageName is the name of the i-th storage node, counted from 1.
func StorageName(i int) string { return fmt.Sprintf("storage-%d", i) }

// GlusterName is the name of the i-th GlusterFS node, counted from 1.
func GlusterName(i int) string { return fmt.Sprintf("gluster-%d", i) }

// HostName is the name of the i-th compute node, counted from 1.
func HostName(i int) string { return fmt.Sprintf("compute-%d", i) }

func runDir(name string) string           { return filepath.Join(runRoot, name) }
func dataDir(name string) string          { return filepath.Join(dataRoot, name) }
func stateFile(name string) string        { return filepath.Join(runDir(name), "lab.json") }
func binaryFile(name string) string       { return filepath.Join(dataDir(name), "godwit") }
func nodeRunDir(name, node string) string { return filepath.Join(runDir(name), node) }
func nodeDir(name, node string) string    { return filepath.Join(dataDir(name), node) }
func pidFile(name, node string) string    { return filepath.Join(nodeRunDir(name, node), "pid") }
func specFile(name, node string) string   { return filepath.Join(nodeRunDir(name, node), "spec.json") }
func controlSocket(name, node string) string {
	return filepath.Join(nodeRunDir(name, node), "control.sock")
}

// view is one directory or file a node has for itself.
type view struct {
	inside  string // absolute path in the node
	file    bool
	compute bool // only compute nodes have it
	gluster bool // only GlusterFS nodes have it
	// volatile content is lost at power off, as a real host's /run is.
	volatile bool
}

// backing is the name of the view's source below the node's directory: /etc/libvirt -> etc-libvirt.
func (v view) backing() string {
	return strings.ReplaceAll(strings.TrimPrefix(v.inside, "/"), "/", "-")
}

// views lists what is private to a node. Everything else is the machine's own.
var views = []view{
	{inside: "/run", volatile: true},
	{inside: "/etc/hosts", file: true},
	{inside: "/etc/passwd", file: true, compute: true},
	{inside: "/etc/group", file: true, compute: true},
	{inside: "/etc/godwit"},
	{inside: "/var/lib/godwit"},
	{inside: "/etc/pki"},
	{inside: "/etc/libvirt", compute: true},
	{inside: "/var/lib/libvirt", compute: true},
	{inside: "/var/log/libvirt", compute: true},
	{inside: "/var/cache/libvirt", compute: true},
	{inside: "/var/lib/glusterd", gluster: true},
	{inside: "/var/log/glusterfs", gluster: true},
}

// mountPoints are the views' directories that a machine without godwit, and without libvirt's service package, may lack.
var mountPoints = []string{
	"/etc/pki", "/etc/godwit", "/var/lib/godwit", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt",
}

// Path translates a path inside a node to the path of the same file in the root mount namespace. A path that the node does not have for
// itself is returned unchanged.
func (l *Lab) Path(node, inside string) string {
	inside = filepath.Clean(inside)
	if rest, ok := strings.CutPrefix(inside, ShareInside+"/"); ok && l.Shared && l.isCompute(node) {
		return filepath.Join(sharedDir(l.Name), rest)
	}
	for _, v := range views {
		if inside == v.inside {
			return filepath.Join(nodeDir(l.Name, node), v.backing())
		}
		if rest, ok := strings.CutPrefix(inside, v.inside+"/"); ok && !v.file {
			return filepath.Join(nodeDir(l.Name, node), v.backing(), rest)
		}
	}
	return inside
}

// LibvirtSocket is where a compute node's libvirtd is dialled from the root namespaces.
func (l *Lab) LibvirtSocket(node string) string { return l.Path(node, "/run/libvirt/libvirt-sock") }
