package kvm

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func volumeDisk(target, export string) Disk {
	return Disk{Target: target, Serial: "9a4e2b6c-f9dd-c6e0", NBD: &NBD{Export: export, Address: "192.0.2.7", Port: 10809, TLS: true, TLSHostname: "storage-1"}}
}

// onVolumes is a domain that boots from a volume, with a data volume that other domains share and a config drive.
func onVolumes() Domain {
	d := sampleDomain()
	data := volumeDisk("vdb", "v2/a2")
	data.Shareable, data.ReadOnly = true, true
	config := d.Disks[1]
	config.Target = "vdz"
	d.Disks = []Disk{volumeDisk("vda", "v1/a1"), data, config}
	return d
}

func TestVolumesLibvirtWouldMisreadAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Disk){
		"no export":         func(d *Disk) { d.NBD.Export = "" },
		"a name as address": func(d *Disk) { d.NBD.Address = "storage-1" },
		"no port":           func(d *Disk) { d.NBD.Port = 0 },
		"a file as well":    func(d *Disk) { d.Path = "/disk" },
		"another bus":       func(d *Disk) { d.Target = "sda" },
		"another's target":  func(d *Disk) { d.Target = "vdz" },
	} {
		d := onVolumes()
		spoil(&d.Disks[0])
		if _, err := d.XML(); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: error %v, want one of kind invalid", name, err)
		}
	}
}

func TestVolumesAreReadBackByTheirExports(t *testing.T) {
	text, err := onVolumes().XML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseDescription([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	root := got.Disk("vda")
	if root == nil || root.Export != "v1/a1" || root.Serial != "9a4e2b6c-f9dd-c6e0" || root.Path != "" || got.Disk("vdb").Export != "v2/a2" ||
		got.Disk("vdz").Path == "" || got.Disk("vdc") != nil {
		t.Errorf("disks read as %+v", got.Disks)
	}
}

func TestATargetsDocumentDiffersInItsVolumesSourcesAlone(t *testing.T) {
	text, err := onVolumes().XML()
	if err != nil {
		t.Fatal(err)
	}
	moved := onVolumes()
	moved.Disks[0].NBD = &NBD{Export: "v1/other & <newer>", Address: "2001:db8::1", Port: 10810}
	moved.Disks[1].NBD = &NBD{Export: "v2/newer", Address: "192.0.2.8", Port: 10809, TLS: true, TLSHostname: "storage-2"}
	want, err := moved.XML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := redirect(text, map[string]NBD{"vda": *moved.Disks[0].NBD, "vdb": *moved.Disks[1].NBD})
	if err != nil {
		t.Fatal(err)
	}
	if squeeze(got) != squeeze(want) {
		t.Errorf("redirected:\n%s\nwant:\n%s", got, want)
	}
	if _, err := redirect(text, map[string]NBD{"vdc": *moved.Disks[0].NBD}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("redirecting a volume that is not there: %v", err)
	}
}

// squeeze takes out what indents.
func squeeze(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimSpace(line))
	}
	return b.String()
}

func TestADiskIsFoundInWhateverSurroundsIt(t *testing.T) {
	const disk = `<disk type='network' device='disk'><source protocol='nbd' name='a/b'><host name='x'/></source><backingStore><source file='/no'/></backingStore><target dev='vdb'/></disk>`
	for name, text := range map[string]string{
		"comments and namespaces": `<?xml version='1.0'?><domain xmlns:q='u'><!-- <disk> --><q:devices><disk/></q:devices><devices>` + disk + `<other/></devices></domain>`,
		"another disk first":      `<domain><devices><disk><target dev='vda'/></disk>` + disk + `</devices></domain>`,
	} {
		if got, err := diskElement(text, "vdb"); err != nil || got != disk && name != "comments and namespaces" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := diskElement("<domain><devices></devices></domain>", "vdb"); got != "" || err != nil {
		t.Errorf("no disk: %q, %v", got, err)
	}
}

func TestCuttingADocumentNeverPanics(t *testing.T) {
	whole, err := onVolumes().XML()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		cut := rapid.IntRange(0, len(whole)).Draw(t, "cut")
		junk := rapid.SampledFrom([]string{"", "</disk>", "<source/>", "<", "&", "</domain>"}).Draw(t, "junk")
		got, err := redirect(whole[:cut]+junk+whole[cut:], map[string]NBD{"vda": {Export: "e", Address: "192.0.2.1", Port: 1}})
		if err != nil && got != "" {
			t.Errorf("error %v together with a document", err)
		}
	})
}
