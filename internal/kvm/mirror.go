package kvm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// To copy a disk, libvirt gives the source's QEMU a block device that leads to the target, and takes it away when the copy has ended. A libvirtd that dies
// meanwhile ends the copy when it is back and forgets the device (9.0): from then on every migration of the guest fails on the name that is taken, until
// the guest is started anew. So a migration that fails on it takes the device away and is tried once more.

// mirrorPrefix begins the node names of those devices: migration-vda-storage, and migration-vda-format on top of it.
const mirrorPrefix = "migration-"

// forgottenMirror reports whether a migration failed because the devices of an earlier one are still there.
func forgottenMirror(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Duplicate nodes with node-name='"+mirrorPrefix)
}

// removeMirrors takes away the block devices of a migration that is over.
func removeMirrors(l *libvirt.Libvirt, d libvirt.Domain) error {
	raw, err := l.QEMUDomainMonitorCommand(d, `{"execute": "query-named-block-nodes", "arguments": {"flat": true}}`, 0)
	if err != nil {
		return fmt.Errorf("list block devices: %w", err)
	}
	nodes, err := mirrorNodes(raw)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		command, err := json.Marshal(map[string]any{"execute": "blockdev-del", "arguments": map[string]string{"node-name": node}})
		if err != nil {
			return err
		}
		reply, err := l.QEMUDomainMonitorCommand(d, string(command), 0)
		if err == nil {
			err = monitorError(reply)
		}
		if err != nil {
			return fmt.Errorf("remove block device %s: %w", node, err)
		}
	}
	return nil
}

// mirrorNodes picks the names of the devices from QEMU's answer, each before the one it stands on.
func mirrorNodes(reply string) ([]string, error) {
	if err := monitorError(reply); err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var answer struct {
		Nodes []struct {
			Name string `json:"node-name"`
		} `json:"return"`
	}
	if err := json.Unmarshal([]byte(reply), &answer); err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var names []string
	for _, n := range answer.Nodes {
		if strings.HasPrefix(n.Name, mirrorPrefix) {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names) // "format" before "storage"
	return names, nil
}

// monitorError is what QEMU's answer says went wrong.
func monitorError(reply string) error {
	var answer struct {
		Error *struct {
			Class       string `json:"class"`
			Description string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(reply), &answer); err != nil {
		return fmt.Errorf("QEMU's answer: %w", err)
	}
	if answer.Error == nil {
		return nil
	}
	return cloud.Errorf(cloud.KindInternal, "QEMU: %s: %s", answer.Error.Class, answer.Error.Description)
}
