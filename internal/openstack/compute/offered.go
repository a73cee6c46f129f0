package compute

import (
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Nova carries out some hundred extra specs and image properties; godwit carries out a few. What would change the guest and is not carried out
// is refused at boot, by name, rather than ignored: a server that was promised dedicated CPUs and did not get them is a lie.

// scopesRefused are the namespaces of extra specs that Nova itself acts on and godwit does not.
var scopesRefused = []string{"hw", "os", "quota", "pci_passthrough", "powervm", "vmware", "accel", "hw_video"}

// propertiesOffered are image properties whose values we can give; any other value is refused.
var propertiesOffered = map[string][]string{
	"hw_architecture":      {"x86_64"},
	"hw_disk_bus":          {"virtio"},
	"hw_vif_model":         {"virtio"},
	"hw_firmware_type":     {"bios"},
	"hw_machine_type":      {"pc"},
	"hw_rng_model":         {"virtio"},
	"hw_boot_menu":         {"false"},
	"hypervisor_type":      {"qemu", "kvm"},
	"img_hv_type":          {"qemu", "kvm"},
	"vm_mode":              {"hvm"},
	cloud.PropertyWatchdog: {"none", "pause", "poweroff", "reset", "disabled"},
}

// propertiesRefused are beginnings of image properties that promise the guest something we cannot give.
var propertiesRefused = []string{"hw_cpu_", "hw_numa_", "hw_mem_page_size", "hw_mem_encryption", "hw_tpm_", "hw_scsi_model",
	"hw_vif_multiqueue_enabled", "hw_pci_numa_affinity_policy", "hw_emulator_threads_policy", "os_secure_boot", "trait:"}

// offered returns nil when the hosts can give a guest all that its flavor and image ask for, and otherwise a refusal that names what they cannot.
func offered(flavor *cloud.Flavor, image *cloud.Image) error {
	for _, name := range sortedKeys(flavor.ExtraSpecs) {
		if !specOffered(name, flavor.ExtraSpecs[name]) {
			return invalid("Flavor %s asks for %s=%s, which this cloud does not offer: remove the extra spec or choose another flavor.",
				flavor.ID, name, flavor.ExtraSpecs[name])
		}
	}
	for _, name := range sortedKeys(image.Properties) {
		if !propertyOffered(name, image.Properties[name]) {
			return invalid("Image %s asks for %s=%s, which this cloud does not offer: remove the property or choose another image.",
				image.ID, name, image.Properties[name])
		}
	}
	return nil
}

func specOffered(name, value string) bool {
	scope, rest, scoped := strings.Cut(name, ":")
	switch {
	case name == cloud.SpecWatchdog:
		return true
	case !scoped:
		return true // a bare name is a note, or a capability in Nova's old manner
	case strings.HasPrefix(scope, "trait"):
		return value == "forbidden"
	case strings.HasPrefix(scope, "resources"):
		return value == "0" || slices.Contains([]string{"VCPU", "MEMORY_MB", "DISK_GB"}, rest)
	}
	return !slices.Contains(scopesRefused, scope)
}

func propertyOffered(name, value string) bool {
	if values, known := propertiesOffered[name]; known {
		return slices.Contains(values, strings.ToLower(value))
	}
	return !slices.ContainsFunc(propertiesRefused, func(begin string) bool { return strings.HasPrefix(name, begin) })
}
