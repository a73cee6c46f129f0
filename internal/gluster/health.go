package gluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// MountType is the type that a mount of a GlusterFS volume has.
const MountType = "fuse.glusterfs"

// healMax bounds a run of glfsheal. Bricks that do not answer hold it up for as long as the volume's ping-timeout.
const healMax = 20 * time.Second

// Health is how a volume is.
type Health struct {
	Volume string
	Bricks []Brick // in the volume's order
	Sets   []Set   // replica sets, in the volume's order; none in a volume without replicas
	Heal   []Entry // what waits to be healed, brick by brick; a file that two bricks know of is there twice
	// HealError says why Heal is not known. Everything else is.
	HealError string

	dangers []string // of the graph that was read: see Dangers
}

// Brick is one brick.
type Brick struct {
	Name   string // "gluster-1:/bricks/vms"
	Set    int    // index in Health.Sets; 0 where there are none
	Online bool   // this client is connected to it
	Heal   int    // entries that it knows to wait for healing
}

// Set is a group of bricks that hold the same files.
type Set struct {
	Name   string // "vms-replicate-0"
	Quorum bool   // this client may write to it
}

// Entry is a file, or a directory, that is not the same on all bricks of its set.
type Entry struct {
	Brick string
	Path  string // from the volume's root, "/f1"; "<gfid:...>" when the brick could not name it
	Split bool   // the bricks accuse each other
}

// Whole reports whether every brick of the set is reached.
func (h *Health) Whole(set int) bool {
	for _, b := range h.Bricks {
		if b.Set == set && !b.Online {
			return false
		}
	}
	return true
}

// Quorum reports whether every replica set has it.
func (h *Health) Quorum() bool {
	for _, s := range h.Sets {
		if !s.Quorum {
			return false
		}
	}
	return true
}

// Pending counts what waits to be healed, and Split what is split; each file once for each brick that knows.
func (h *Health) Pending() (pending, split int) {
	for _, e := range h.Heal {
		if e.Split {
			split++
		} else {
			pending++
		}
	}
	return pending, split
}

// Look reads the state of the volume mounted at mount; withHeal also asks the bricks what waits to be healed. Reading may take as long as the
// volume's ping-timeout when a brick has just vanished, whatever ctx says.
func Look(ctx context.Context, mount string, withHeal bool) (Health, error) {
	graph := filepath.Join(mount, ".meta", "graphs", "active")
	volfile, err := os.ReadFile(filepath.Join(graph, "volfile"))
	if err != nil {
		return Health{}, cloud.E(cloud.KindUnavailable, "gluster", mount, err)
	}
	h, err := parseVolfile(string(volfile))
	if err != nil {
		return Health{}, fmt.Errorf("gluster: %s: %w", mount, err)
	}
	for i := range h.Sets {
		private, err := os.ReadFile(filepath.Join(graph, h.Sets[i].Name, "private"))
		if err != nil {
			return h, cloud.E(cloud.KindUnavailable, "gluster", mount, err)
		}
		h.seen(i, parsePrivate(string(private)))
	}
	if !withHeal || len(h.Sets) == 0 {
		return h, nil
	}
	out, err := heal(ctx, h.Volume, volfile)
	if err != nil {
		h.HealError = err.Error()
		return h, nil
	}
	h.Heal = parseHeal(out)
	for _, e := range h.Heal {
		for i := range h.Bricks {
			if h.Bricks[i].Name == e.Brick {
				h.Bricks[i].Heal++
			}
		}
	}
	return h, nil
}

// seen takes over what the client says of a replica set.
func (h *Health) seen(set int, p private) {
	h.Sets[set].Quorum = p.up
	child := 0
	for i := range h.Bricks {
		if h.Bricks[i].Set == set {
			h.Bricks[i].Online = p.child[child]
			child++
		}
	}
}

// healPrograms are where distributions keep glfsheal.
var healPrograms = []string{"/usr/libexec/glusterfs/glfsheal", "/usr/lib/*/glusterfs/glfsheal", "/usr/lib/glusterfs/glfsheal", "/usr/lib64/glusterfs/*/glfsheal"}

func healProgram() (string, error) {
	for _, pattern := range healPrograms {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", cloud.Errorf(cloud.KindUnsupported, "glfsheal, which GlusterFS's client brings, is in none of %s", strings.Join(healPrograms, ", "))
}

// heal runs glfsheal on the client's own description of the volume, which needs no glusterd.
func heal(ctx context.Context, volume string, volfile []byte) (string, error) {
	program, err := healProgram()
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp("", "godwit-volfile-")
	if err != nil {
		return "", err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(volfile)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, healMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, volume, "volfile-path", file.Name())
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("glfsheal %s: %w: %s", volume, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
