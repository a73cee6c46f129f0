package gluster

import (
	"fmt"
	"slices"
	"strings"
)

// parseVolfile reads a client's graph: volumes, innermost first, each with a type, options and the volumes it stands on.
func parseVolfile(text string) (Health, error) {
	type node struct {
		name, kind string
		below      []string
		options    map[string]string
	}
	var nodes []node
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if f[0] == "volume" {
			nodes = append(nodes, node{name: f[1], options: map[string]string{}})
			continue
		}
		if len(nodes) == 0 {
			continue
		}
		n := &nodes[len(nodes)-1]
		switch {
		case f[0] == "type":
			n.kind = f[1]
		case f[0] == "subvolumes":
			n.below = f[1:]
		case f[0] == "option" && len(f) > 2:
			n.options[f[1]] = f[2]
		}
	}
	var h Health
	brickOf := map[string]int{}
	for _, n := range nodes {
		switch n.kind {
		case "protocol/client":
			brickOf[n.name] = len(h.Bricks)
			h.Bricks = append(h.Bricks, Brick{Name: n.options["remote-host"] + ":" + n.options["remote-subvolume"]})
		case "cluster/replicate":
			for _, b := range n.below {
				if i, ok := brickOf[b]; ok {
					h.Bricks[i].Set = len(h.Sets)
				}
			}
			h.Sets = append(h.Sets, Set{Name: n.name})
			h.dangers = append(h.dangers, replicaDangers(n.name, len(n.below), n.options)...)
		case "features/shard":
			h.dangers = append(h.dangers, n.name+": disks are sharded, and GlusterFS has corrupted sharded disks of virtual machines: use a volume with features.shard off")
		}
		if n.kind == "debug/io-stats" { // on top of the file's graph, under the volume's own name
			h.Volume = n.name
		}
	}
	if len(h.Bricks) == 0 || h.Volume == "" {
		return h, fmt.Errorf("volfile: %d bricks of volume %q", len(h.Bricks), h.Volume)
	}
	return h, nil
}

// replicaDangers are the settings of a replica set that can lose acknowledged writes.
//
// With eager locks, AFR notes which brick missed a write only when it lets go of the lock, post-op-delay-secs (1 unless set) after the last of a run of
// writes; but it acknowledges each at once. If the bricks that took them vanish within that time, all bricks come back alike dirty, nobody accuses anybody,
// and the healer may take the copy that lacks them (seen with GlusterFS 10.3 in six of nine such double outages).
func replicaDangers(name string, bricks int, options map[string]string) (out []string) {
	off := []string{"off", "disable", "no", "false", "0"}
	if !slices.Contains(off, options["eager-lock"]) && options["post-op-delay-secs"] != "0" {
		out = append(out, name+": writes that a lost brick missed are acknowledged up to a second before that is noted; were the other brick lost too by then, healing may undo them. "+
			"`gluster volume set VOLUME cluster.post-op-delay-secs 0`")
	}
	if quorum := options["quorum-type"]; bricks == 2 && quorum != "auto" && (quorum != "fixed" || options["quorum-count"] != "2") {
		out = append(out, name+": either of its two bricks alone may be written to, so that both sides of an outage can be: `gluster volume set VOLUME cluster.quorum-type auto`")
	}
	return out
}

// private is what a replica set says of itself.
type private struct {
	child map[int]bool // which of its bricks are reached
	up    bool         // it has quorum
}

// parsePrivate reads .meta's file of a cluster/replicate.
func parsePrivate(text string) private {
	p := private{child: map[int]bool{}}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok {
			continue
		}
		var child int
		if n, err := fmt.Sscanf(key, "child_up[%d]", &child); n == 1 && err == nil {
			p.child[child] = value == "1"
		}
		if key == "up" {
			p.up = value == "1"
		}
	}
	return p
}

// parseHeal reads glfsheal's report.
func parseHeal(text string) []Entry {
	const split = " - Is in split-brain"
	var out []Entry
	brick := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "Brick "); ok {
			brick = name
			continue
		}
		if !strings.HasPrefix(line, "/") && !strings.HasPrefix(line, "<gfid:") {
			continue
		}
		path, _, _ := strings.Cut(line, " - ")
		out = append(out, Entry{Brick: brick, Path: path, Split: strings.Contains(line, split)})
	}
	return out
}
