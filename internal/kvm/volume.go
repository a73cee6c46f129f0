package kvm

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A volume service may be away: for a restart, a new version, a reboot of its machine. Guests must not learn of it, because a file system that met an I/O
// error is read-only from then on. Two things see to that:
//
//   - libvirt 9.1 and newer has QEMU hold requests for reconnectSeconds (the element is older libvirt's to ignore);
//   - a request that fails all the same stops the guest's CPUs (Paused, ReasonIOError) and is kept. Resume tries it again. So whoever watches the
//     domain resumes it once the service is back; until then the guest stands still and loses nothing.
//
// A volume whose data is damaged stops its guest in the same way, and then it is for a person to decide.
const (
	// nbdProtocol is libvirt's name of the protocol.
	nbdProtocol = "nbd"
	// volumeFailed is what QEMU does when a request to a volume fails.
	volumeFailed = "stop"
	// reconnectSeconds is as long as the restart of a machine may take; beyond it standing still is the same to the guest.
	reconnectSeconds = 300
)

func (n NBD) document() xNBD {
	x := xNBD{Protocol: nbdProtocol, Name: n.Export, TLS: "no", Host: xNBDHost{Name: n.Address, Port: n.Port}, Reconnect: xReconnect{Delay: reconnectSeconds}}
	if n.TLS {
		x.TLS, x.TLSHostname = "yes", n.TLSHostname
	}
	return x
}

// AttachDisk plugs a disk into a domain that has a process. Its Target must be set. It returns when QEMU has connected to a volume and the guest may see the
// disk. KindConflict when that target is taken. The persistent definition stays as it is: Define writes it.
func (c *Conn) AttachDisk(ctx context.Context, id cloud.ServerID, disk Disk) error {
	text, err := disk.xml()
	if err != nil {
		return wrap("attach disk", id, err)
	}
	return c.slow(ctx, "attach disk "+disk.Target, id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		there, err := currentDisk(l, d, disk.Target)
		switch {
		case err != nil:
			return err
		case there != "":
			return cloud.Errorf(cloud.KindConflict, "there is a disk %s", disk.Target)
		}
		return l.DomainAttachDeviceFlags(d, text, uint32(libvirt.DomainDeviceModifyLive))
	})
}

// currentDisk returns a disk of a domain as libvirt describes it, empty when there is none.
func currentDisk(l *libvirt.Libvirt, d libvirt.Domain, target string) (string, error) {
	text, err := l.DomainGetXMLDesc(d, 0)
	if err != nil {
		return "", err
	}
	return diskElement(text, target)
}

// DetachDisk asks the guest to let go of a disk of a domain that has a process. The guest may take its time, or ignore it while it boots: the DeviceGone
// notice tells when it has not, and Describe when it is done. Asking again while the guest has not answered is no error. A disk that is not there is success.
func (c *Conn) DetachDisk(ctx context.Context, id cloud.ServerID, target string) error {
	return c.slow(ctx, "detach disk "+target, id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		disk, err := currentDisk(l, d, target)
		if err != nil || disk == "" {
			return err
		}
		err = l.DomainDetachDeviceFlags(d, disk, uint32(libvirt.DomainDeviceModifyLive))
		switch {
		case hasCode(err, libvirt.ErrDeviceMissing): // it went while we looked
			return nil
		case err != nil && strings.Contains(err.Error(), "in the process of unplug"): // QEMU's word: an earlier request still stands
			return nil
		}
		return err
	})
}

// ResizeDisk tells a running guest that a volume has grown to bytes. QEMU knows the size that its connection was told when that was made; as long as that
// is another one (QEMU 7.2 does not ask again), the answer is KindUnsupported, and the guest learns of the new size when it starts or has moved.
func (c *Conn) ResizeDisk(ctx context.Context, id cloud.ServerID, target string, bytes int64) error {
	return c.slow(ctx, "resize disk "+target, id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		err = l.DomainBlockResize(d, target, uint64(bytes), libvirt.DomainBlockResizeBytes)
		if err != nil && strings.Contains(err.Error(), "NBD nodes") { // "Cannot resize NBD nodes", "Cannot grow NBD nodes"
			return cloud.E(cloud.KindUnsupported, "", "", err)
		}
		return err
	})
}

// xml returns the disk alone in libvirt's format.
func (d Disk) xml() (string, error) {
	if d.Target == "" {
		return "", cloud.Errorf(cloud.KindInvalid, "disk without a target")
	}
	if err := d.validate(); err != nil {
		return "", cloud.Errorf(cloud.KindInvalid, "disk %s: %w", d.Target, err)
	}
	text, err := xml.Marshal(d.document(d.Target))
	return string(text), err
}

// span is a piece of a document, by offsets in bytes.
type span struct{ from, to int64 }

func (s span) of(text string) string { return text[s.from:s.to] }

// diskSpans are where a disk and its source are in a domain's document.
type diskSpans struct {
	target       string
	disk, source span
}

// findDisks returns where the disks of a domain's document are. The document is cut, not decoded and written anew: what godwit does not know of it must
// stay as libvirt wrote it.
func findDisks(text string) ([]diskSpans, error) {
	dec := xml.NewDecoder(strings.NewReader(text))
	var out []diskSpans
	var path []string
	var current diskSpans
	for {
		from := dec.InputOffset()
		token, err := dec.RawToken()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("domain document: %w", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			path = append(path, t.Name.Local)
			switch strings.Join(path, "/") {
			case "domain/devices/disk":
				current = diskSpans{disk: span{from: from}}
			case "domain/devices/disk/source":
				current.source.from = from
			case "domain/devices/disk/target":
				current.target = attr(t, "dev")
			}
		case xml.EndElement:
			if len(path) == 0 || path[len(path)-1] != t.Name.Local {
				return nil, fmt.Errorf("domain document: </%s> ends nothing", t.Name.Local)
			}
			switch strings.Join(path, "/") {
			case "domain/devices/disk":
				current.disk.to = dec.InputOffset()
				out = append(out, current)
			case "domain/devices/disk/source":
				current.source.to = dec.InputOffset()
			}
			path = path[:len(path)-1]
		}
	}
}

func attr(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// diskElement returns the disk with that target as it is written in a domain's document, empty when there is none.
func diskElement(text, target string) (string, error) {
	disks, err := findDisks(text)
	for _, d := range disks {
		if d.target == target {
			return d.disk.of(text), nil
		}
	}
	return "", err
}

// redirect returns a domain's document with other sources for its volumes, by target. Every one of them must be there.
func redirect(text string, volumes map[string]NBD) (string, error) {
	disks, err := findDisks(text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	done, from := 0, int64(0)
	for _, d := range disks {
		volume, ok := volumes[d.target]
		if !ok {
			continue
		}
		if err := volume.validate(); err != nil {
			return "", cloud.Errorf(cloud.KindInvalid, "disk %s: %w", d.target, err)
		}
		if d.source.to == 0 {
			return "", cloud.Errorf(cloud.KindConflict, "disk %s has no source", d.target)
		}
		source, err := xml.Marshal(volume.document())
		if err != nil {
			return "", err
		}
		out.WriteString(text[from:d.source.from])
		out.Write(source)
		from = d.source.to
		done++
	}
	if done != len(volumes) {
		return "", cloud.Errorf(cloud.KindConflict, "the running domain has %d of %d volumes", done, len(volumes))
	}
	out.WriteString(text[from:])
	return out.String(), nil
}
