package kvm

import (
	"encoding/xml"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Description is what godwit reads back from a domain that libvirt has.
type Description struct {
	ID      cloud.ServerID
	Machine string
	Disks   []DiskDescription
	Meta    Meta
}

// DiskDescription is one disk as libvirt has it.
type DiskDescription struct {
	Target   string // vda, vdb ...
	Path     string // of a local file
	Export   string // of a volume: its NBD export
	Serial   string
	ReadOnly bool
}

// Disk returns the disk with that target, nil when there is none.
func (d Description) Disk(target string) *DiskDescription {
	for i := range d.Disks {
		if d.Disks[i].Target == target {
			return &d.Disks[i]
		}
	}
	return nil
}

// parseDescription decodes libvirt's domain document. It must hold for any document: administrators edit them.
func parseDescription(text []byte) (Description, error) {
	var doc struct {
		XMLName xml.Name `xml:"domain"`
		UUID    string   `xml:"uuid"`
		Machine struct {
			Name string `xml:"machine,attr"`
		} `xml:"os>type"`
		Meta struct {
			Name       string `xml:"name"`
			Project    string `xml:"project"`
			User       string `xml:"user"`
			Flavor     string `xml:"flavor"`
			Image      string `xml:"image"`
			Generation int64  `xml:"generation"`
			Migration  string `xml:"migration"`
		} `xml:"metadata>server"`
		Disks []struct {
			Source struct {
				File     string `xml:"file,attr"`
				Protocol string `xml:"protocol,attr"`
				Name     string `xml:"name,attr"`
			} `xml:"source"`
			Serial string `xml:"serial"`
			Target struct {
				Dev string `xml:"dev,attr"`
			} `xml:"target"`
			ReadOnly *struct{} `xml:"readonly"`
		} `xml:"devices>disk"`
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		return Description{}, fmt.Errorf("domain document: %w", err)
	}
	m := doc.Meta
	out := Description{
		ID: cloud.ServerID(doc.UUID), Machine: doc.Machine.Name,
		Meta: Meta{Name: m.Name, Project: m.Project, User: m.User, Flavor: m.Flavor, Image: m.Image, Generation: m.Generation,
			Migration: cloud.MigrationID(m.Migration)},
	}
	for _, d := range doc.Disks {
		disk := DiskDescription{Target: d.Target.Dev, Path: d.Source.File, Serial: d.Serial, ReadOnly: d.ReadOnly != nil}
		if d.Source.Protocol == nbdProtocol {
			disk.Export = d.Source.Name
		}
		out.Disks = append(out.Disks, disk)
	}
	return out, nil
}
