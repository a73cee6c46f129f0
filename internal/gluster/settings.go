package gluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A volume's settings reach a client when it mounts, and whenever they change: glusterd sends it the new graph, and if only options differ from those of the
// graph it has, each translator takes them over as it runs (AFR's quorum, eager locks and the delay of its post-op among them). But .meta goes on showing the
// options of the mount: seen with 10.3, where the delay of a client that was mounted with 0 became a second with `volume set`, and nothing below .meta told. So
// what is in force is asked of glusterd, by its own command on this host. A client that glusterd cannot reach at that moment takes the change when it can.

const (
	// serversMax bounds how many nodes are asked for the volume's settings.
	serversMax = 2
	// serverPatience is how long each may take; a node that is up takes a fifth of a second.
	serverPatience = 3 * time.Second
)

// Dangers returns sentences: settings of the volume mounted at mount under which writes that were acknowledged can be lost. If glusterd cannot be asked, they
// are those that the client was mounted with, and the error says why.
func Dangers(ctx context.Context, mount string) ([]string, error) {
	h, err := Look(ctx, mount, false)
	if err != nil {
		return nil, err
	}
	now, err := h.served(ctx)
	if err != nil {
		return h.dangers, fmt.Errorf("settings of volume %s are those of the mount, later changes are not seen: %w", h.Volume, err)
	}
	return now.dangers, nil
}

// served is the volume as glusterd describes it now; of its health nothing is known.
func (h *Health) served(ctx context.Context) (Health, error) {
	program, err := glusterProgram()
	if err != nil {
		return Health{}, err
	}
	err = cloud.Errorf(cloud.KindUnavailable, "no brick is reached")
	for _, server := range h.servers() {
		var out []byte
		if out, err = askServer(ctx, program, server, h.Volume); err != nil {
			continue
		}
		var now Health
		if now, err = parseVolfile(string(out)); err == nil {
			return now, nil
		}
	}
	return Health{}, err
}

// servers are nodes that have a brick which this client reaches, each once.
func (h *Health) servers() (names []string) {
	for _, b := range h.Bricks {
		name, _, _ := strings.Cut(b.Name, ":")
		if b.Online && !slices.Contains(names, name) && len(names) < serversMax {
			names = append(names, name)
		}
	}
	return names
}

func askServer(ctx context.Context, program, server, volume string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--mode=script", "--remote-host="+server, "system::", "getspec", volume)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("glusterd on %s: %w: %s", server, err, strings.TrimSpace(string(out)))
	}
	return out, nil
}

// glusterPrograms are where distributions keep glusterd's command, besides the search path.
var glusterPrograms = []string{"/usr/sbin/gluster", "/usr/local/sbin/gluster"}

func glusterProgram() (string, error) {
	if path, err := exec.LookPath("gluster"); err == nil {
		return filepath.Clean(path), nil
	}
	for _, path := range glusterPrograms {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", cloud.Errorf(cloud.KindUnsupported, "there is no gluster command: install glusterfs-cli")
}
