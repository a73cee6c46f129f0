package kvm

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden domain documents")

const testID = "0b4eb0b2-52bb-4e04-9a4e-2b6cf9ddc6e0"

func sampleDomain() Domain {
	return Domain{
		ID: testID, Emulation: TCG, Emulator: DefaultEmulator, VCPUs: 2, RAMMiB: 512,
		Disks: []Disk{
			{Path: "/var/lib/godwit/instances/x/disk", Format: "qcow2", Cache: "none", IO: "io_uring"},
			{Path: "/var/lib/godwit/instances/x/disk.config", Format: "raw", Cache: "none", IO: "io_uring", ReadOnly: true},
		},
		NICs:       []NIC{{MAC: "fa:16:3e:00:00:01", Bridge: "gwb-5", Tap: "tap0b4eb0b2-52", MTU: 1450}},
		ConsoleLog: "/var/lib/godwit/instances/x/console.log",
		Meta:       Meta{Name: "web <1> & \"co\"", Project: "p", User: "u", Flavor: "m1.tiny", Image: "i", Generation: 7, Migration: "m"},
	}
}

func TestDomainDocumentIsGolden(t *testing.T) {
	kvmGuest := sampleDomain()
	kvmGuest.Emulation, kvmGuest.CPUModel, kvmGuest.NICs, kvmGuest.Disks = KVM, "Nehalem", nil, kvmGuest.Disks[:1]
	passthrough := sampleDomain()
	passthrough.Emulation, passthrough.CPUModel = KVM, "host-passthrough"
	for name, d := range map[string]Domain{"tcg": sampleDomain(), "kvm": kvmGuest, "passthrough": passthrough, "volumes": onVolumes()} {
		got, err := d.XML()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name+".xml")
		if *rewrite {
			if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got+"\n" != string(want) {
			t.Errorf("%s differs from what XML made (rewrite with -rewrite only if the change is meant):\n%s", file, got)
		}
	}
}

func TestDescriptionReadsBackWhatTheDocumentSays(t *testing.T) {
	d := sampleDomain()
	text, err := d.XML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseDescription([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != d.ID || got.Machine != MachineDefault || got.Meta != d.Meta {
		t.Errorf("read %+v from the document of %+v", got, d)
	}
	if len(got.Disks) != 2 || got.Disks[0].Target != "vda" || got.Disks[0].ReadOnly || !got.Disks[1].ReadOnly ||
		got.Disks[1].Path != d.Disks[1].Path {
		t.Errorf("disks read as %+v", got.Disks)
	}
}

func TestDomainsLibvirtWouldMisreadAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Domain){
		"no id":             func(d *Domain) { d.ID = "" },
		"unknown emulation": func(d *Domain) { d.Emulation = "xen" },
		"no cpu":            func(d *Domain) { d.VCPUs = 0 },
		"no disk":           func(d *Domain) { d.Disks = nil },
		"relative path":     func(d *Domain) { d.Disks[0].Path = "disk" },
		"probed format":     func(d *Domain) { d.Disks[0].Format = "" },
		"reserved tap":      func(d *Domain) { d.NICs[0].Tap = "vnet3" },
		"no bridge":         func(d *Domain) { d.NICs[0].Bridge = "" },
		"no console":        func(d *Domain) { d.ConsoleLog = "" },
	} {
		d := sampleDomain()
		spoil(&d)
		if _, err := d.XML(); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: error %v, want one of kind invalid", name, err)
		}
	}
}

// TestEmulatedGuestsGetMemoryThatQEMUCanMigrate: a block of memory of whole groups of 64 pages loses writes when it migrates under TCG (decision 8).
func TestEmulatedGuestsGetMemoryThatQEMUCanMigrate(t *testing.T) {
	for _, ramMiB := range []int64{1, 64, 255, 256, 4096} {
		d := sampleDomain()
		d.RAMMiB = ramMiB
		var bytes int64
		for _, arg := range d.qemu().Args {
			fmt.Sscanf(arg.Value, "memory-backend-ram,id=godwit.ram,size=%d", &bytes)
		}
		const page, group = 4 << 10, 64 * 4 << 10
		if bytes%group == 0 || bytes%page != 0 || bytes <= 0 || bytes > ramMiB<<20 {
			t.Errorf("%d MiB become %d bytes", ramMiB, bytes)
		}
	}
	d := sampleDomain()
	if d.Emulation = KVM; d.qemu() != nil {
		t.Error("a KVM guest gets the work-around for TCG")
	}
}

func FuzzParseDescription(f *testing.F) {
	text, _ := sampleDomain().XML()
	f.Add([]byte(text))
	f.Add([]byte("<domain/>"))
	f.Add([]byte("<domain><metadata><server><generation>x</generation></server></metadata></domain>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		if got, err := parseDescription(doc); err != nil && (got.ID != "" || len(got.Disks) > 0) {
			t.Errorf("error %v together with %+v", err, got)
		}
	})
}

func FuzzDomainNamesCannotBreakTheDocument(f *testing.F) {
	f.Add("plain", "p")
	f.Add("</godwit:name><devices/>", "\"'<>&")
	f.Fuzz(func(t *testing.T, name, project string) {
		d := sampleDomain()
		d.Meta.Name, d.Meta.Project = name, project
		text, err := d.XML()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(text, "<devices>") != 1 {
			t.Errorf("name %q adds elements", name)
		}
		if err := xml.Unmarshal([]byte(text), new(struct{ XMLName xml.Name })); err != nil {
			t.Errorf("name %q: %v", name, err)
		}
	})
}
