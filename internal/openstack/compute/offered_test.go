package compute

import (
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestWhatHostsCannotGiveIsRefusedByName(t *testing.T) {
	cases := []struct {
		specs, properties map[string]string
		refused           string // empty: offered
	}{
		{specs: map[string]string{"hw:cpu_policy": "dedicated"}, refused: "hw:cpu_policy=dedicated"},
		{specs: map[string]string{"quota:vif_inbound_average": "100"}, refused: "quota:vif_inbound_average"},
		{specs: map[string]string{"trait:HW_CPU_X86_AVX2": "required"}, refused: "trait:HW_CPU_X86_AVX2"},
		{specs: map[string]string{"resources:VGPU": "1"}, refused: "resources:VGPU"},
		{specs: map[string]string{cloud.SpecCPUModel: "EPYC", "aggregate_instance_extra_specs:ssd": "true", "note": "x", "hw_rng:allowed": "true"}},
		{properties: map[string]string{"hw_firmware_type": "uefi"}, refused: "hw_firmware_type=uefi"},
		{properties: map[string]string{"hw_disk_bus": "scsi"}, refused: "hw_disk_bus=scsi"},
		{properties: map[string]string{"hw_cpu_policy": "dedicated"}, refused: "hw_cpu_policy"},
		{properties: map[string]string{"hw_disk_bus": "virtio", "os_distro": "debian", "hw_qemu_guest_agent": "yes"}},
	}
	for _, c := range cases {
		err := offered(&cloud.Flavor{ID: "f", ExtraSpecs: c.specs}, &cloud.Image{ID: "i", Properties: c.properties})
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%v %v: %v", c.specs, c.properties, err)
		case c.refused != "" && (!cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%v %v: got %v, want a refusal of %s", c.specs, c.properties, err, c.refused)
		}
	}
}
