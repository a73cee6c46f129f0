package kvm

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"

	libvirt "github.com/digitalocean/go-libvirt"
)

// Versions are the programs a host runs.
type Versions struct {
	Libvirt string // "9.0.0"
	QEMU    string // "7.2.22"
}

// Versions asks libvirt for its own and QEMU's version.
func (c *Conn) Versions(ctx context.Context) (Versions, error) {
	var v Versions
	err := c.quick(ctx, "versions", "", func(l *libvirt.Libvirt) error {
		lib, err := l.ConnectGetLibVersion()
		if err != nil {
			return err
		}
		hv, err := l.ConnectGetVersion()
		v = Versions{Libvirt: dotted(lib), QEMU: dotted(hv)}
		return err
	})
	return v, err
}

// dotted splits libvirt's packed version: 9000000 is 9.0.0.
func dotted(v uint64) string { return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000) }

// Node is the machine as libvirt sees it.
type Node struct {
	VCPUs                   int
	Sockets, Cores, Threads int
	RAMMiB                  int64
}

// Node asks for the machine's size.
func (c *Conn) Node(ctx context.Context) (Node, error) {
	var n Node
	err := c.quick(ctx, "node info", "", func(l *libvirt.Libvirt) error {
		_, kib, cpus, _, _, sockets, cores, threads, err := l.NodeGetInfo()
		n = Node{VCPUs: int(cpus), RAMMiB: int64(kib >> 10), Sockets: int(sockets), Cores: int(cores), Threads: int(threads)}
		return err
	})
	return n, err
}

// Capabilities are what guests of one emulation can be given on this host.
type Capabilities struct {
	Emulator  string   // path of the QEMU program
	CPUModels []string // sorted; libvirt's names of the models it can give
	HostModel string   // the model libvirt likens the host's CPU to
	Vendor    string
	Machine   string // the machine type asked about, canonical
}

// Capabilities asks what libvirt can give to guests of that emulation on the default machine type.
func (c *Conn) Capabilities(ctx context.Context, e Emulation) (Capabilities, error) {
	var text string
	err := c.quick(ctx, "domain capabilities", "", func(l *libvirt.Libvirt) error {
		var err error
		text, err = l.ConnectGetDomainCapabilities(nil, libvirt.OptString{"x86_64"}, libvirt.OptString{MachineDefault},
			libvirt.OptString{string(e)}, 0)
		return err
	})
	if err != nil {
		return Capabilities{}, err
	}
	caps, err := parseCapabilities([]byte(text))
	return caps, wrap("domain capabilities", "", err)
}

func parseCapabilities(text []byte) (Capabilities, error) {
	var doc struct {
		XMLName xml.Name `xml:"domainCapabilities"`
		Path    string   `xml:"path"`
		Machine string   `xml:"machine"`
		Modes   []struct {
			Name      string `xml:"name,attr"`
			Supported string `xml:"supported,attr"`
			Vendor    string `xml:"vendor"`
			Models    []struct {
				Usable string `xml:"usable,attr"`
				Name   string `xml:",chardata"`
			} `xml:"model"`
		} `xml:"cpu>mode"`
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		return Capabilities{}, fmt.Errorf("domain capabilities: %w", err)
	}
	out := Capabilities{Emulator: doc.Path, Machine: doc.Machine}
	for _, mode := range doc.Modes {
		for _, m := range mode.Models {
			switch {
			case mode.Name == "host-model":
				out.HostModel, out.Vendor = m.Name, mode.Vendor
			case mode.Name == "custom" && m.Usable != "no":
				out.CPUModels = append(out.CPUModels, m.Name)
			}
		}
	}
	slices.Sort(out.CPUModels)
	return out, nil
}
