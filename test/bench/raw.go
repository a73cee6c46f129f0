package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// rawGuest is the peer to compare with: a copy of a godwit guest's domain under another name, moved by virsh alone between the same hosts,
// with the same flags, TLS included. godwit's agents leave it alone because they know nothing of it.
type rawGuest struct {
	lab  *lab.Lab
	uuid string
	dir  string // of its files, the same path inside every node
	disk string // its disk, if that is a file
	host string // where it runs

	server string // node of its NBD server, if it has one
	gone   bool   // removed
}

const rawUUID = "0f0e0d0c-0b0a-4908-8706-050403020100"

// rawDir is below a directory that every node has for itself, so source and target have a file each under one path.
const rawDir = "/var/lib/godwit/raw-bench"

var (
	uuidElement = regexp.MustCompile(`<uuid>[^<]*</uuid>`)
	nameElement = regexp.MustCompile(`<name>[^<]*</name>`)
	macElement  = regexp.MustCompile(`<mac address='[^']*'/>`)
	tapElement  = regexp.MustCompile(`(?m)^\s*<target dev='gwt[^']*'/>\n`)
	metadata    = regexp.MustCompile(`(?s)<metadata>.*?</metadata>`)
	sysInfo     = regexp.MustCompile(`(?s)<sysinfo .*?</sysinfo>|<smbios mode='sysinfo'/>`) // names the server by its UUID
	sources     = regexp.MustCompile(`(<source (?:file|path)=')([^']*)(')`)
)

// newRawVolumeGuest clones a guest that boots from a volume: the same image on an NBD export of qemu-nbd on the volumes' node, which is reached in
// the clear.
func newRawVolumeGuest(ctx context.Context, l *lab.Lab, host, uuid, image string) (*rawGuest, error) {
	described, err := l.Output(ctx, host, "virsh", "-q", "dumpxml", "--inactive", uuid)
	if err != nil {
		return nil, err
	}
	g := &rawGuest{lab: l, uuid: rawUUID, dir: rawDir, host: host, server: l.StorageNodes()[0]}
	for _, node := range append(l.ComputeNodes(), g.server) {
		if err := os.MkdirAll(l.Path(node, g.dir), 0o755); err != nil {
			return nil, err
		}
	}
	disk := filepath.Join(g.dir, "disk")
	if _, err := run(ctx, "qemu-img", "convert", "-O", "raw", image, l.Path(g.server, disk)); err != nil {
		return nil, err
	}
	address := l.DataAddr(g.server)
	if _, err := l.Output(ctx, g.server, "qemu-nbd", "--fork", "--pid-file", g.pidFile(), "--persistent", "--shared=8", "--format=raw", "--cache=none",
		"--aio=io_uring", "--discard=unmap", "--bind", address.String(), "--port", rawNBDPort, disk); err != nil {
		return nil, err
	}
	source := fmt.Sprintf("<source protocol='nbd' tls='no'><host name='%s' port='%s'/></source>", address, rawNBDPort)
	return g, g.define(ctx, nbdSource.ReplaceAllString(described, source), "")
}

// rawNBDPort is free on storage nodes: volumes are served on the port before it.
const rawNBDPort = "10810"

var nbdSource = regexp.MustCompile(`(?s)<source protocol='nbd'.*?</source>`)

func (g *rawGuest) pidFile() string { return filepath.Join(g.dir, "nbd.pid") }

// newRawGuest clones the guest `uuid` that runs on host: its XML with another identity, its disk as it was at boot (a new overlay on the
// same base image), no config drive.
func newRawGuest(ctx context.Context, l *lab.Lab, host, uuid string) (*rawGuest, error) {
	described, err := l.Output(ctx, host, "virsh", "-q", "dumpxml", "--inactive", uuid)
	if err != nil {
		return nil, err
	}
	g := &rawGuest{lab: l, uuid: rawUUID, dir: rawDir, disk: filepath.Join(rawDir, "disk"), host: host}
	disk, base, err := g.like(ctx, described)
	if err != nil {
		return nil, err
	}
	for _, node := range l.ComputeNodes() {
		if _, err := os.Stat(l.Path(node, base.file)); err != nil {
			continue // a host that has not cached the base is not used
		}
		if err := g.overlay(ctx, node, base); err != nil {
			return nil, err
		}
	}
	return g, g.define(ctx, described, disk)
}

// newRawSharedGuest is newRawGuest for a disk in the directory that all hosts share.
func newRawSharedGuest(ctx context.Context, l *lab.Lab, host, uuid string) (*rawGuest, error) {
	described, err := l.Output(ctx, host, "virsh", "-q", "dumpxml", "--inactive", uuid)
	if err != nil {
		return nil, err
	}
	g := &rawGuest{lab: l, uuid: rawUUID, dir: rawDir, disk: filepath.Join(lab.ShareInside, "raw-bench"), host: host}
	disk, base, err := g.like(ctx, described)
	if err != nil {
		return nil, err
	}
	if err := g.overlay(ctx, host, base); err != nil {
		return nil, err
	}
	return g, g.define(ctx, described, disk)
}

// backing is what an overlay stands on.
type backing struct{ file, size string }

// like makes the guest's directories and tells the disk of the guest that it is to be like, and what that disk stands on.
func (g *rawGuest) like(ctx context.Context, described string) (disk string, base backing, err error) {
	for _, node := range g.lab.ComputeNodes() {
		if err := os.MkdirAll(g.lab.Path(node, g.dir), 0o755); err != nil {
			return "", backing{}, err
		}
	}
	if disk, err = rootDisk(described); err != nil {
		return "", backing{}, err
	}
	base, err = g.backingOf(ctx, g.host, disk)
	return disk, base, err
}

func (g *rawGuest) backingOf(ctx context.Context, node, disk string) (backing, error) {
	out, err := g.lab.Output(ctx, node, "sh", "-c", fmt.Sprintf("qemu-img info -U --output=json %s | jq -r '.\"full-backing-filename\", .\"virtual-size\"'", disk))
	if err != nil {
		return backing{}, err
	}
	parts := strings.Fields(out)
	if len(parts) != 2 {
		return backing{}, fmt.Errorf("raw guest: no backing file in %q", out)
	}
	return backing{parts[0], parts[1]}, nil
}

// overlay makes the guest's disk on a node, empty.
func (g *rawGuest) overlay(ctx context.Context, node string, base backing) error {
	_, err := g.lab.Output(ctx, node, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base.file, "-F", "qcow2", g.disk, base.size)
	return err
}

// rootDisk finds the file of the first writable disk.
func rootDisk(described string) (string, error) {
	var d struct {
		Disks []struct {
			Source struct {
				File string `xml:"file,attr"`
			} `xml:"source"`
			ReadOnly *struct{} `xml:"readonly"`
		} `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte(described), &d); err != nil {
		return "", fmt.Errorf("domain XML: %w", err)
	}
	for _, disk := range d.Disks {
		if disk.ReadOnly == nil && disk.Source.File != "" {
			return disk.Source.File, nil
		}
	}
	return "", fmt.Errorf("domain XML has no writable file disk")
}

func (g *rawGuest) define(ctx context.Context, described, disk string) error {
	x := sysInfo.ReplaceAllString(metadata.ReplaceAllString(described, ""), "")
	x = uuidElement.ReplaceAllString(x, "<uuid>"+g.uuid+"</uuid>")
	x = nameElement.ReplaceAllString(x, "<name>raw-bench</name>")
	x = macElement.ReplaceAllString(x, "<mac address='52:54:00:00:be:ef'/>")
	x = tapElement.ReplaceAllString(x, "")
	x = dropReadOnlyDisks(x)
	x = sources.ReplaceAllStringFunc(x, func(m string) string {
		p := sources.FindStringSubmatch(m)
		if p[2] == disk {
			return p[1] + g.disk + p[3]
		}
		return p[1] + filepath.Join(g.dir, filepath.Base(p[2])) + p[3]
	})
	file := filepath.Join(g.dir, "domain.xml")
	if err := os.WriteFile(g.lab.Path(g.host, file), []byte(x), 0o600); err != nil {
		return err
	}
	if _, err := g.lab.Output(ctx, g.host, "virsh", "-q", "define", file); err != nil {
		return err
	}
	_, err := g.lab.Output(ctx, g.host, "virsh", "-q", "start", g.uuid)
	return err
}

// awaitFilled waits until the guest says on its console that it has filled memory and disk.
func (g *rawGuest) awaitFilled(ctx context.Context) error {
	return labcloud.Until(ctx, "raw guest filled", func() (bool, error) {
		logs, err := filepath.Glob(g.lab.Path(g.host, filepath.Join(g.dir, "*.log")))
		for _, log := range logs {
			if raw, err := os.ReadFile(log); err == nil && strings.Contains(string(raw), filledLine) {
				return true, nil
			}
		}
		return false, err
	})
}

var diskElement = regexp.MustCompile(`(?s)<disk .*?</disk>\s*`)

// dropReadOnlyDisks removes the config drive: the raw guest reads its settings nowhere, and neither side copies it.
func dropReadOnlyDisks(x string) string {
	return diskElement.ReplaceAllStringFunc(x, func(d string) string {
		if strings.Contains(d, "<readonly/>") {
			return ""
		}
		return d
	})
}

// move migrates the guest to another host as an operator would with virsh, and returns how long virsh took and QEMU's own figures.
// storage are virsh's flags about disks.
func (g *rawGuest) move(ctx context.Context, target string, storage ...string) (took time.Duration, job map[string]string, err error) {
	address := g.lab.DataAddr(target)
	began := time.Now()
	command := append([]string{"virsh", "-q", "migrate", "--live", "--p2p", "--tls", "--persistent", "--undefinesource"}, storage...)
	_, err = g.lab.Output(ctx, g.host, append(command, g.uuid, fmt.Sprintf("qemu+tls://%s/system", address), "--migrateuri", fmt.Sprintf("tcp://%s", address))...)
	took = time.Since(began)
	if err != nil {
		return 0, nil, err
	}
	g.host = target
	job, err = completedJob(ctx, g.lab, target, g.uuid)
	return took, job, err
}

// completedJob is what libvirt on a host says of the migration that brought a guest there.
func completedJob(ctx context.Context, l *lab.Lab, node, uuid string) (map[string]string, error) {
	out, err := l.Output(ctx, node, "virsh", "-q", "domjobinfo", "--completed", "--keep-completed", uuid)
	job := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			job[strings.TrimSpace(k)] = strings.Join(strings.Fields(v), " ")
		}
	}
	return job, err
}

// remake gives the host that the guest has left a fresh, empty disk to receive into: the "pre-created disk" of the comparison.
func (g *rawGuest) remake(ctx context.Context, node string) error {
	base, err := g.backingOf(ctx, node, g.disk)
	if err != nil {
		return err
	}
	return g.overlay(ctx, node, base)
}

// remove takes the guest and its files away; a second time it does nothing.
func (g *rawGuest) remove(ctx context.Context) error {
	if g.gone {
		return nil
	}
	g.gone = true
	_, err := g.lab.Output(ctx, g.host, "sh", "-c", "virsh -q destroy "+g.uuid+"; virsh -q undefine "+g.uuid)
	if g.disk != "" {
		_, removed := g.lab.Output(ctx, g.host, "rm", "-f", g.disk)
		err = errors.Join(err, removed)
	}
	nodes := g.lab.ComputeNodes()
	if g.server != "" {
		_, stopped := g.lab.Output(ctx, g.server, "sh", "-c", "kill $(cat "+g.pidFile()+")")
		err, nodes = errors.Join(err, stopped), append(nodes, g.server)
	}
	for _, node := range nodes {
		err = errors.Join(err, os.RemoveAll(g.lab.Path(node, g.dir)))
	}
	return err
}
