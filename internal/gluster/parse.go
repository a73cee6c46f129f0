package gluster

import (
	"fmt"
	"strings"
)

// parseVolfile reads a client's graph: volumes, innermost first, each with a type, options and the volumes it stands on.
func parseVolfile(text string) (Health, error) {
	type node struct {
		name, kind, host, path string
		below                  []string
	}
	var nodes []node
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if f[0] == "volume" {
			nodes = append(nodes, node{name: f[1]})
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
		case f[0] == "option" && f[1] == "remote-host" && len(f) > 2:
			n.host = f[2]
		case f[0] == "option" && f[1] == "remote-subvolume" && len(f) > 2:
			n.path = f[2]
		}
	}
	var h Health
	brickOf := map[string]int{}
	for _, n := range nodes {
		switch n.kind {
		case "protocol/client":
			brickOf[n.name] = len(h.Bricks)
			h.Bricks = append(h.Bricks, Brick{Name: n.host + ":" + n.path})
		case "cluster/replicate":
			for _, b := range n.below {
				if i, ok := brickOf[b]; ok {
					h.Bricks[i].Set = len(h.Sets)
				}
			}
			h.Sets = append(h.Sets, Set{Name: n.name})
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
