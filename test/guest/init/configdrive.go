package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// metadata is what a config drive or the metadata service tells.
type metadata struct {
	UUID     string            `json:"uuid"`
	Name     string            `json:"name"`
	Hostname string            `json:"hostname"`
	Meta     map[string]string `json:"meta"`

	userData string
}

// orders are the parameters in the metadata; user_data overrides meta.
func (m metadata) orders() map[string]string {
	var words []string
	for k, v := range m.Meta {
		words = append(words, k+"="+v)
	}
	orders := parseWords(words)
	maps.Copy(orders, parseWords(strings.Split(m.userData, "\n")))
	return orders
}

const configLabel = "config-2"

// readConfigDrive finds the disk labelled config-2 and reads it; nil when there is none.
func readConfigDrive() (*metadata, error) {
	for _, dev := range blockDevices() {
		kind := configDriveKind(dev)
		if kind == "" {
			continue
		}
		const dir = "/config"
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount(dev, dir, kind, unix.MS_RDONLY, ""); err != nil {
			return nil, fmt.Errorf("mount %s as %s: %w", dev, kind, err)
		}
		defer unix.Unmount(dir, 0)
		return readMetadata(filepath.Join(dir, "openstack", "latest"))
	}
	return nil, nil
}

func readMetadata(dir string) (*metadata, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "meta_data.json"))
	if err != nil {
		return nil, err
	}
	var m metadata
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("meta_data.json: %w", err)
	}
	userData, err := os.ReadFile(filepath.Join(dir, "user_data"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	m.userData = string(userData)
	return &m, nil
}

// blockDevices lists whole disks and CD drives.
func blockDevices() []string {
	var devs []string
	for _, pattern := range []string{"vd*", "sd*", "sr*"} {
		names, _ := filepath.Glob("/sys/block/" + pattern)
		for _, n := range names {
			devs = append(devs, "/dev/"+filepath.Base(n))
		}
	}
	return devs
}

// configDriveKind reads a disk's label and returns the file system it holds if it is a config drive, "" otherwise.
func configDriveKind(dev string) string {
	f, err := os.Open(dev)
	if err != nil {
		return ""
	}
	defer f.Close()
	labelAt := func(off int64, n int) string {
		b := make([]byte, n)
		f.ReadAt(b, off) // a disk too short for it reads as no label
		return string(bytes.TrimRight(bytes.ToLower(b), " \x00"))
	}
	const isoDescriptor = 16 * 2048
	if labelAt(isoDescriptor+1, 5) == "cd001" && labelAt(isoDescriptor+40, 32) == configLabel {
		return "iso9660"
	}
	if labelAt(43, 11) == configLabel || labelAt(71, 11) == configLabel { // FAT12 and FAT16; FAT32
		return "vfat"
	}
	return ""
}
