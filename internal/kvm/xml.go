package kvm

import (
	"encoding/xml"
	"fmt"
)

// metaNamespace is the XML namespace of Meta.
const metaNamespace = "https://godwit.cloud/xmlns/server/1"

// The x types mirror the part of libvirt's domain format that godwit writes. Their field order is the document's order.
type (
	xDomain struct {
		XMLName    xml.Name  `xml:"domain"`
		Type       string    `xml:"type,attr"`
		Name       string    `xml:"name"`
		UUID       string    `xml:"uuid"`
		Metadata   xMetadata `xml:"metadata"`
		Memory     xSize     `xml:"memory"`
		VCPU       xVCPU     `xml:"vcpu"`
		SysInfo    xSysInfo  `xml:"sysinfo"`
		OS         xOS       `xml:"os"`
		Features   xFeatures `xml:"features"`
		CPU        xCPU      `xml:"cpu"`
		Clock      xClock    `xml:"clock"`
		OnPoweroff string    `xml:"on_poweroff"`
		OnReboot   string    `xml:"on_reboot"`
		OnCrash    string    `xml:"on_crash"`
		Devices    xDevices  `xml:"devices"`
		QEMU       *xQEMU    `xml:"qemu:commandline"`
	}
	// xQEMU is passed to QEMU behind libvirt's back.
	xQEMU struct {
		NS   string `xml:"xmlns:qemu,attr"`
		Args []xArg `xml:"qemu:arg"`
	}
	xArg struct {
		Value string `xml:"value,attr"`
	}
	xMetadata struct {
		Server xMeta `xml:"godwit:server"`
	}
	xMeta struct {
		NS         string `xml:"xmlns:godwit,attr"`
		Name       string `xml:"godwit:name"`
		Project    string `xml:"godwit:project,omitempty"`
		User       string `xml:"godwit:user,omitempty"`
		Flavor     string `xml:"godwit:flavor,omitempty"`
		Image      string `xml:"godwit:image,omitempty"`
		Generation int64  `xml:"godwit:generation"`
		Migration  string `xml:"godwit:migration,omitempty"`
	}
	xSize struct {
		Unit  string `xml:"unit,attr"`
		Value int64  `xml:",chardata"`
	}
	xVCPU struct {
		Placement string `xml:"placement,attr"`
		Count     int    `xml:",chardata"`
	}
	xSysInfo struct {
		Type   string   `xml:"type,attr"`
		System []xEntry `xml:"system>entry"`
	}
	xEntry struct {
		Name  string `xml:"name,attr"`
		Value string `xml:",chardata"`
	}
	xOS struct {
		Type   xOSType   `xml:"type"`
		SMBIOS xModeAttr `xml:"smbios"`
	}
	xModeAttr struct {
		Mode string `xml:"mode,attr"`
	}
	xOSType struct {
		Arch    string `xml:"arch,attr"`
		Machine string `xml:"machine,attr"`
		Value   string `xml:",chardata"`
	}
	xEmpty    struct{}
	xFeatures struct {
		ACPI xEmpty `xml:"acpi"`
		APIC xEmpty `xml:"apic"`
	}
	xCPU struct {
		Mode  string     `xml:"mode,attr"`
		Match string     `xml:"match,attr,omitempty"`
		Check string     `xml:"check,attr,omitempty"`
		Model *xCPUModel `xml:"model"`
	}
	xCPUModel struct {
		Fallback string `xml:"fallback,attr"`
		Value    string `xml:",chardata"`
	}
	xClock struct {
		Offset string   `xml:"offset,attr"`
		Timers []xTimer `xml:"timer"`
	}
	xTimer struct {
		Name       string `xml:"name,attr"`
		TickPolicy string `xml:"tickpolicy,attr,omitempty"`
		Present    string `xml:"present,attr,omitempty"`
	}
	xDevices struct {
		Emulator    string        `xml:"emulator,omitempty"`
		Disks       []xDisk       `xml:"disk"`
		Controllers []xController `xml:"controller"`
		Interfaces  []xInterface  `xml:"interface"`
		Serial      xSerial       `xml:"serial"`
		Console     xConsole      `xml:"console"`
		Video       xVideo        `xml:"video"`
		Balloon     xModel        `xml:"memballoon"`
		RNG         xRNG          `xml:"rng"`
		Panic       xModel        `xml:"panic"`
		Channel     *xChannel     `xml:"channel"`
		Watchdog    *xWatchdog    `xml:"watchdog"`
	}
	xChannel struct {
		Type   string         `xml:"type,attr"`
		Target xChannelTarget `xml:"target"`
	}
	xChannelTarget struct {
		Type string `xml:"type,attr"`
		Name string `xml:"name,attr"`
	}
	xWatchdog struct {
		Model  string `xml:"model,attr"`
		Action string `xml:"action,attr"`
	}
	xDisk struct {
		XMLName   xml.Name `xml:"disk"`
		Type      string   `xml:"type,attr"`
		Device    string   `xml:"device,attr"`
		Driver    xDriver  `xml:"driver"`
		Source    any      `xml:"source"` // xSource or xNBD
		Target    xTarget  `xml:"target"`
		ReadOnly  *xEmpty  `xml:"readonly"`
		Shareable *xEmpty  `xml:"shareable"`
		Serial    string   `xml:"serial,omitempty"`
		Boot      *xBoot   `xml:"boot"`
	}
	xDriver struct {
		Name    string `xml:"name,attr"`
		Type    string `xml:"type,attr"`
		Cache   string `xml:"cache,attr"`
		IO      string `xml:"io,attr,omitempty"`
		Discard string `xml:"discard,attr,omitempty"`
		// What QEMU does when a write or a read fails.
		WriteFailed string `xml:"error_policy,attr,omitempty"`
		ReadFailed  string `xml:"rerror_policy,attr,omitempty"`
	}
	xSource struct {
		File   string `xml:"file,attr,omitempty"`
		Bridge string `xml:"bridge,attr,omitempty"`
		Path   string `xml:"path,attr,omitempty"`
		Append string `xml:"append,attr,omitempty"`
	}
	xNBD struct {
		XMLName     xml.Name   `xml:"source"`
		Protocol    string     `xml:"protocol,attr"`
		Name        string     `xml:"name,attr"`
		TLS         string     `xml:"tls,attr"`
		TLSHostname string     `xml:"tlsHostname,attr,omitempty"`
		Host        xNBDHost   `xml:"host"`
		Reconnect   xReconnect `xml:"reconnect"`
	}
	xNBDHost struct {
		Name string `xml:"name,attr"`
		Port int    `xml:"port,attr"`
	}
	xReconnect struct {
		Delay int `xml:"delay,attr"`
	}
	xTarget struct {
		Dev  string `xml:"dev,attr"`
		Bus  string `xml:"bus,attr,omitempty"`
		Type string `xml:"type,attr,omitempty"`
	}
	xBoot struct {
		Order int `xml:"order,attr"`
	}
	xController struct {
		Type  string `xml:"type,attr"`
		Model string `xml:"model,attr"`
	}
	xInterface struct {
		Type   string  `xml:"type,attr"`
		MAC    xMAC    `xml:"mac"`
		Source xSource `xml:"source"`
		Target xTarget `xml:"target"`
		Model  xModelT `xml:"model"`
		MTU    *xMTU   `xml:"mtu"`
	}
	xMAC struct {
		Address string `xml:"address,attr"`
	}
	xModelT struct {
		Type string `xml:"type,attr"`
	}
	xModel struct {
		Model string `xml:"model,attr"`
	}
	xMTU struct {
		Size int `xml:"size,attr"`
	}
	xSerial struct {
		Type   string      `xml:"type,attr"`
		Source xSource     `xml:"source"`
		Target xSerialPort `xml:"target"`
	}
	xConsole struct {
		Type   string      `xml:"type,attr"`
		Source xSource     `xml:"source"`
		Target xSerialPort `xml:"target"`
	}
	xSerialPort struct {
		Type string `xml:"type,attr,omitempty"`
		Port int    `xml:"port,attr"`
	}
	xVideo struct {
		Model xModelT `xml:"model"`
	}
	xRNG struct {
		Model   string      `xml:"model,attr"`
		Backend xRNGBackend `xml:"backend"`
	}
	xRNGBackend struct {
		Model string `xml:"model,attr"`
		Path  string `xml:",chardata"`
	}
)

// XML returns the domain in libvirt's format. Equal domains give equal text.
func (d Domain) XML() (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	text, err := xml.MarshalIndent(d.document(), "", "  ")
	if err != nil {
		return "", fmt.Errorf("domain %s: %w", d.ID, err)
	}
	return string(text), nil
}

func (d Domain) document() xDomain {
	log := xSource{Path: d.ConsoleLog, Append: "on"} // a reboot or a move must not wipe what the guest said
	return xDomain{
		Type:       string(d.Emulation),
		Name:       DomainName(d.ID),
		UUID:       string(d.ID),
		Metadata:   xMetadata{Server: d.Meta.document()},
		Memory:     xSize{Unit: "MiB", Value: d.RAMMiB},
		VCPU:       xVCPU{Placement: "static", Count: d.VCPUs},
		SysInfo:    d.sysInfo(),
		OS:         xOS{Type: xOSType{Arch: "x86_64", Machine: or(d.Machine, MachineDefault), Value: "hvm"}, SMBIOS: xModeAttr{Mode: "sysinfo"}},
		CPU:        d.cpu(),
		Clock:      d.clock(),
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
		Devices: xDevices{
			Emulator: d.Emulator,
			Disks:    d.disks(),
			// Without a USB controller an idle guest under TCG costs a tenth of a core less.
			Controllers: []xController{{Type: "usb", Model: "none"}},
			Interfaces:  d.interfaces(),
			Serial:      xSerial{Type: "file", Source: log, Target: xSerialPort{Type: "isa-serial"}},
			Console:     xConsole{Type: "file", Source: log, Target: xSerialPort{Type: "serial"}},
			Video:       xVideo{Model: xModelT{Type: "none"}},
			Balloon:     xModel{Model: "virtio"},
			RNG:         xRNG{Model: "virtio", Backend: xRNGBackend{Model: "random", Path: "/dev/urandom"}},
			Panic:       xModel{Model: "isa"},
			Channel:     d.channel(),
			Watchdog:    d.watchdog(),
		},
		QEMU: d.qemu(),
	}
}

// tcgRAMTrim is taken off the memory of an emulated guest: less than the 256 KiB that 64 of its pages are, and what firmware still counts in.
const tcgRAMTrim = 64 << 10

// qemu works around a defect of QEMU before 9.0 that corrupts emulated guests when they migrate live (decision 8): dirty bits of RAM blocks that
// consist of whole groups of 64 pages are collected in a way that loses writes. libvirt only gives whole MiB, so the memory is replaced by a
// block that is 64 KiB shorter. The block's length must be equal on source and target, so every emulated guest has it, whatever QEMU runs it.
func (d Domain) qemu() *xQEMU {
	if d.Emulation != TCG {
		return nil
	}
	const name = "godwit.ram"
	bytes := d.RAMMiB<<20 - tcgRAMTrim
	return &xQEMU{NS: "http://libvirt.org/schemas/domain/qemu/1.0", Args: []xArg{
		{"-object"}, {fmt.Sprintf("memory-backend-ram,id=%s,size=%d", name, bytes)},
		{"-machine"}, {"memory-backend=" + name},
		{"-m"}, {fmt.Sprintf("size=%dk", bytes>>10)},
	}}
}

// sysInfo is what the guest reads in its SMBIOS tables. cloud-init asks the metadata service of a guest without config drive only when the
// product is Nova's (ds-identify, dmi_product_name "OpenStack Nova"), so that is what we call ourselves there.
func (d Domain) sysInfo() xSysInfo {
	return xSysInfo{Type: "smbios", System: []xEntry{
		{"manufacturer", "OpenStack Foundation"}, {"product", "OpenStack Nova"}, {"serial", string(d.ID)}, {"uuid", string(d.ID)},
		{"family", "Virtual Machine"},
	}}
}

func (m Meta) document() xMeta {
	return xMeta{
		NS: metaNamespace, Name: m.Name, Project: m.Project, User: m.User, Flavor: m.Flavor, Image: m.Image,
		Generation: m.Generation, Migration: string(m.Migration),
	}
}

func (d Domain) cpu() xCPU {
	model := or(d.CPUModel, CPUDefault)
	if model == "host-model" || model == "host-passthrough" {
		return xCPU{Mode: model}
	}
	// TCG gives a model as far as it can and says so only in the guest's flags; a check would refuse most models.
	check := "partial"
	if d.Emulation == TCG {
		check = "none"
	}
	return xCPU{Mode: "custom", Match: "exact", Check: check, Model: &xCPUModel{Fallback: "forbid", Value: model}}
}

// clock lets a guest that lost ticks (downtime) catch up rather than drift.
func (d Domain) clock() xClock {
	clock := xClock{Offset: "utc", Timers: []xTimer{{Name: "rtc", TickPolicy: "catchup"}}}
	if d.Emulation == KVM {
		clock.Timers = append(clock.Timers, xTimer{Name: "pit", TickPolicy: "delay"})
	}
	clock.Timers = append(clock.Timers, xTimer{Name: "hpet", Present: "no"})
	return clock
}

func (d Domain) disks() []xDisk {
	var out []xDisk
	for i, disk := range d.Disks {
		x := disk.document(disk.target(i))
		if i == 0 {
			x.Boot = &xBoot{Order: 1}
		}
		out = append(out, x)
	}
	return out
}

func (d Disk) document(target string) xDisk {
	x := xDisk{
		Type: "file", Device: "disk", Serial: d.Serial,
		Driver: xDriver{Name: "qemu", Type: d.Format, Cache: d.Cache, IO: d.IO},
		Source: xSource{File: d.Path},
		Target: xTarget{Dev: target, Bus: "virtio"},
	}
	if d.Waits {
		x.Driver.WriteFailed, x.Driver.ReadFailed = volumeFailed, volumeFailed
	}
	if d.NBD != nil {
		// The volume service decides what is cached: QEMU must not answer a flush before it.
		x.Type, x.Source = "network", d.NBD.document()
		x.Driver = xDriver{Name: "qemu", Type: "raw", Cache: "none", WriteFailed: volumeFailed, ReadFailed: volumeFailed}
	}
	if d.ReadOnly {
		x.ReadOnly = &xEmpty{}
	} else {
		x.Driver.Discard = "unmap"
	}
	if d.Shareable {
		x.Shareable = &xEmpty{}
	}
	return x
}

func (d Domain) interfaces() []xInterface {
	var out []xInterface
	for _, n := range d.NICs {
		x := xInterface{
			Type: "bridge", MAC: xMAC{Address: n.MAC}, Source: xSource{Bridge: n.Bridge},
			Target: xTarget{Dev: n.Tap}, Model: xModelT{Type: "virtio"},
		}
		if n.MTU > 0 {
			x.MTU = &xMTU{Size: n.MTU}
		}
		out = append(out, x)
	}
	return out
}

// channel is where libvirt and qemu-guest-agent meet; libvirt makes the socket and its path.
func (d Domain) channel() *xChannel {
	if !d.GuestAgent {
		return nil
	}
	return &xChannel{Type: "unix", Target: xChannelTarget{Type: "virtio", Name: agentChannel}}
}

// watchdog is a PCI device that every machine type has room for, unlike the iTCO, which only q35 has.
func (d Domain) watchdog() *xWatchdog {
	if d.Watchdog == "" {
		return nil
	}
	return &xWatchdog{Model: "i6300esb", Action: d.Watchdog}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
