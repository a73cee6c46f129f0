package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The lab's GlusterFS is the smallest that is worth the name: four nodes, a brick each, two pairs of replicas that share the files between them
// (Distributed-Replicate 2 x 2). Every compute node mounts it where its agent keeps servers' disks.

const (
	glusterdPath  = "/usr/sbin/glusterd"
	glusterCLI    = "/usr/sbin/gluster"
	glusterClient = "/usr/sbin/glusterfs"

	glusterNodes = 4
	replicas     = 2
	// GlusterVolume is the name of the lab's GlusterFS volume.
	GlusterVolume = "vms"
	// brickInside is where a node keeps its part: in a directory of the mounted disk, so that without the disk there is no brick to fill by mistake.
	brickInside = diskInside + "/brick"
	// ShareInside is where a compute node's agent keeps servers' disks, and mounts the volume.
	ShareInside = agentDataInside + "/instances"
	// agentDataInside is the agent's default data directory.
	agentDataInside = dataDirInside + "/agent"
	glusterGroups   = "/var/lib/glusterd/groups"

	// storageVolume is a GlusterFS volume of its own for storage nodes, which keep the volumes of their back end FarBackend there.
	storageVolume      = "volumes"
	storageBrickInside = diskInside + "/volumes"
	// FarInside is where a storage node mounts it.
	FarInside = dataDirInside + "/far"
	// FarBackend is the name of the storage nodes' back end on GlusterFS.
	FarBackend = "far"
)

// volumeSettings come on top of GlusterFS's own group of settings for virtual machines. Decision 17 has the reasons.
var volumeSettings = [][2]string{
	{"features.shard", "off"},
	{"cluster.server-quorum-type", "none"},
	{"cluster.quorum-type", "auto"},
	{"cluster.post-op-delay-secs", "0"},
	{"cluster.heal-timeout", "5"},
	{"network.ping-timeout", "5"}, // a lab's patience; production keeps the group's 20 s
}

// GlusterNodes lists gluster-1 to gluster-4, if the lab has them. Those with odd numbers hold the first brick of a pair.
func (l *Lab) GlusterNodes() []string {
	nodes := make([]string, l.Gluster)
	for i := range nodes {
		nodes[i] = GlusterName(i + 1)
	}
	return nodes
}

func (l *Lab) isGluster(node string) bool { return slices.Contains(l.GlusterNodes(), node) }

// copyGlusterGroups gives a node the groups of settings that the package installs, since the node's directory hides the machine's.
func (l *Lab) copyGlusterGroups(node string) error {
	err := os.CopyFS(filepath.Join(l.Path(node, "/var/lib/glusterd"), "groups"), os.DirFS(glusterGroups))
	return errors.Join(err, os.MkdirAll(l.Path(node, "/var/log/glusterfs/bricks"), 0o755))
}

// shareCommand mounts a GlusterFS volume and stays. What a client that died left mounted answers nothing and is cleared away first, as mount.glusterfs's
// callers have to do too.
func (l *Lab) shareCommand(volume, inside string) []string {
	var servers []string
	for _, node := range l.GlusterNodes() {
		servers = append(servers, "--volfile-server="+node)
	}
	script := fmt.Sprintf("umount --lazy %[1]s 2>/dev/null; mkdir -p %[1]s && exec %[2]s --no-daemon --log-file=/dev/stderr --process-name=fuse %[3]s --volfile-id=%[4]s %[1]s",
		inside, glusterClient, strings.Join(servers, " "), volume)
	return []string{"/bin/sh", "-c", script}
}

// GlusterCommand runs the GlusterFS command line on a node of it and returns what it printed.
func (l *Lab) GlusterCommand(ctx context.Context, node string, args ...string) (string, error) {
	return l.Output(ctx, node, append([]string{glusterCLI, "--mode=script"}, args...)...)
}

func (l *Lab) waitGlusterd(ctx context.Context, node string) error {
	err := eventually(ctx, func() error {
		_, err := l.GlusterCommand(ctx, node, "pool", "list")
		return err
	})
	if err != nil {
		return fmt.Errorf("node %s: glusterd: %w", node, err)
	}
	return nil
}

// makeGlusterVolume joins the nodes and makes the volume.
func (l *Lab) makeGlusterVolume(ctx context.Context, progress func(string)) error {
	nodes := l.GlusterNodes()
	for _, node := range nodes {
		if err := l.waitGlusterd(ctx, node); err != nil {
			return err
		}
	}
	first := nodes[0]
	for _, node := range nodes[1:] {
		if _, err := l.GlusterCommand(ctx, first, "peer", "probe", node); err != nil {
			return err
		}
	}
	if err := l.startGlusterVolume(ctx, GlusterVolume, brickInside); err != nil {
		return err
	}
	progress("GlusterFS volume " + GlusterVolume + " started: two pairs of bricks")
	if l.Storage > 0 {
		if err := l.startGlusterVolume(ctx, storageVolume, storageBrickInside); err != nil {
			return err
		}
		progress("GlusterFS volume " + storageVolume + " started, for the back end " + FarBackend)
	}
	for _, node := range slices.Concat(l.ComputeNodes(), l.StorageNodes()) {
		if err := os.WriteFile(l.Path(node, volumesStarted), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// volumesStarted is the file whose presence lets clients mount. One that mounts earlier takes the volume as it was made, and shows settings that came later in
// none of its files.
const volumesStarted = "/etc/godwit/volumes-started"

// startGlusterVolume makes a volume of a brick on each node, in pairs, and starts it.
func (l *Lab) startGlusterVolume(ctx context.Context, name, brick string) error {
	nodes := l.GlusterNodes()
	first := nodes[0]
	create := []string{"volume", "create", name, "replica", strconv.Itoa(replicas)}
	for _, node := range nodes {
		create = append(create, node+":"+brick)
	}
	// A peer is known at once and of use a moment later.
	if err := eventually(ctx, func() error {
		_, err := l.GlusterCommand(ctx, first, append(create, "force")...)
		return err
	}); err != nil {
		return err
	}
	steps := [][]string{{"volume", "set", name, "group", "virt"}}
	for _, s := range volumeSettings {
		steps = append(steps, []string{"volume", "set", name, s[0], s[1]})
	}
	for _, args := range append(steps, []string{"volume", "start", name}) {
		if _, err := l.GlusterCommand(ctx, first, args...); err != nil {
			return err
		}
	}
	return nil
}

// KillBrick ends the process that serves a node's brick, with SIGKILL. The node itself and its glusterd stay up; StartBricks brings it back.
func (l *Lab) KillBrick(ctx context.Context, node string) error {
	_, err := l.Output(ctx, node, "sh", "-c", "kill -KILL $(cat /run/gluster/vols/"+GlusterVolume+"/*.pid)")
	return err
}

// StartBricks starts every brick whose process is missing. Any running node will do to ask.
func (l *Lab) StartBricks(ctx context.Context, node string) error {
	_, err := l.GlusterCommand(ctx, node, "volume", "start", GlusterVolume, "force")
	return err
}

// WaitShare waits until a compute node has the volume mounted and can list it.
func (l *Lab) WaitShare(ctx context.Context, node string) error {
	err := eventually(ctx, func() error {
		_, err := l.Output(ctx, node, "sh", "-c", "mountpoint -q "+ShareInside+" && timeout 5 ls "+ShareInside)
		return err
	})
	if err != nil {
		return fmt.Errorf("node %s: share: %w", node, err)
	}
	return nil
}
