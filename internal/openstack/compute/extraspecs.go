package compute

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// extraSpecs are extra specs as a body gives them: texts or numbers.
type extraSpecs map[string]string

// BindJSON accepts texts and numbers by name.
func (e *extraSpecs) BindJSON(v any) error {
	pairs, err := metadataPairs(v, func(v any) (string, error) {
		switch v := v.(type) {
		case string:
			if utf8.RuneCountInString(v) > nameLengthMax {
				return "", openstack.Refuse(v, "is too long")
			}
			return v, nil
		case json.Number:
			return v.String(), nil
		}
		return "", openstack.Mismatch(v, "string", "number")
	})
	*e = pairs
	return err
}

func (c *call) listExtraSpecs() error {
	f, err := c.findFlavor(c.path("id"))
	if err != nil {
		return err
	}
	specs := f.ExtraSpecs
	if specs == nil {
		specs = map[string]string{}
	}
	return c.ok(object{"extra_specs": specs})
}

func (c *call) createExtraSpecs() error {
	if err := c.mayAdmin("os-flavor-extra-specs:create"); err != nil {
		return err
	}
	var body struct {
		Specs extraSpecs `json:"extra_specs" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := c.setExtraSpecs(body.Specs); err != nil {
		return err
	}
	return c.ok(object{"extra_specs": body.Specs})
}

func (c *call) updateExtraSpec() error {
	if err := c.mayAdmin("os-flavor-extra-specs:update"); err != nil {
		return err
	}
	o, err := c.r.Object(c.w)
	if err != nil {
		return err
	}
	var specs extraSpecs
	if err := specs.BindJSON(o); err != nil {
		return err
	}
	if len(specs) != 1 {
		reason := pick(len(specs) == 0, "does not have enough properties", "has too many properties")
		return openstack.Refuse(o, "%s", reason)
	}
	if _, ok := specs[c.path("key")]; !ok {
		return invalid("Request body and URI mismatch")
	}
	if err := c.setExtraSpecs(specs); err != nil {
		return err
	}
	return c.ok(specs)
}

func (c *call) setExtraSpecs(specs extraSpecs) error {
	if c.since(86) {
		for _, name := range sortedKeys(specs) {
			if err := checkExtraSpec(name, specs[name]); err != nil {
				return err
			}
		}
	}
	_, err := c.changeFlavor(cloud.FlavorID(c.path("id")), func(f *cloud.Flavor) error {
		all := maps.Clone(f.ExtraSpecs)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, specs)
		f.ExtraSpecs = all
		return nil
	})
	return err
}

func (c *call) noExtraSpec() error {
	return notFound("Flavor %s has no extra specs with key %s.", c.path("id"), c.path("key"))
}

func (c *call) showExtraSpec() error {
	f, err := c.findFlavor(c.path("id"))
	if err != nil {
		return err
	}
	value, ok := f.ExtraSpecs[c.path("key")]
	if !ok {
		return c.noExtraSpec()
	}
	return c.ok(object{c.path("key"): value})
}

func (c *call) deleteExtraSpec() error {
	if err := c.mayAdmin("os-flavor-extra-specs:delete"); err != nil {
		return err
	}
	_, err := c.changeFlavor(cloud.FlavorID(c.path("id")), func(f *cloud.Flavor) error {
		if _, ok := f.ExtraSpecs[c.path("key")]; !ok {
			return c.noExtraSpec()
		}
		all := maps.Clone(f.ExtraSpecs)
		delete(all, c.path("key"))
		f.ExtraSpecs = all
		return nil
	})
	if err != nil {
		return err
	}
	return c.status(200)
}

// knownNamespaces are the namespaces of extra specs whose names Nova knows; names elsewhere are free.
var knownNamespaces = []string{
	"accel", "aggregate_instance_extra_specs", "capabilities", "hw", "hw_rng", "hw_video", "os", "pci_passthrough", "powervm", "quota", "resources", "trait", "vmware",
}

// specRules say what the known names look like and what their values may be, first match wins.
var specRules = []struct {
	name  *regexp.Regexp
	value func(string) bool
}{
	{regexp.MustCompile(`^aggregate_instance_extra_specs:.+$`), anyText},
	{regexp.MustCompile(`^capabilities:.+$`), anyText},
	{regexp.MustCompile(`^accel:device_profile$`), anyText},
	{regexp.MustCompile(`^hw:(cpu_realtime|hide_hypervisor_id|locked_memory|boot_menu|vif_multiqueue_enabled|mem_encryption|pmu|ephemeral_encryption)$`), isBooleanText},
	{regexp.MustCompile(`^hw:(numa_nodes|cpu_sockets|cpu_cores|cpu_threads|max_cpu_sockets|max_cpu_cores|max_cpu_threads|serial_port_count)$`), isNaturalText},
	{regexp.MustCompile(`^hw:numa_mem\.\d+$`), isNaturalText},
	{regexp.MustCompile(`^hw:cpu_policy$`), oneOfTexts("dedicated", "shared", "mixed")},
	{regexp.MustCompile(`^hw:cpu_thread_policy$`), oneOfTexts("prefer", "isolate", "require")},
	{regexp.MustCompile(`^hw:emulator_threads_policy$`), oneOfTexts("isolate", "share")},
	{regexp.MustCompile(`^hw:watchdog_action$`), oneOfTexts("none", "pause", "poweroff", "reset", "disabled")},
	{regexp.MustCompile(`^hw:tpm_model$`), oneOfTexts("tpm-tis", "tpm-crb")},
	{regexp.MustCompile(`^hw:tpm_version$`), oneOfTexts("1.2", "2.0")},
	{regexp.MustCompile(`^hw:pci_numa_affinity_policy$`), oneOfTexts("required", "preferred", "legacy", "socket")},
	{regexp.MustCompile(`^hw:viommu_model$`), oneOfTexts("intel", "smmuv3", "virtio", "auto")},
	{regexp.MustCompile(`^hw:(cpu_realtime_mask|cpu_dedicated_mask|mem_page_size|numa_cpus\.\d+|pmem|ephemeral_encryption_format|maxphysaddr_mode|maxphysaddr_bits)$`), anyText},
	{regexp.MustCompile(`^hw_rng:allowed$`), isBooleanText},
	{regexp.MustCompile(`^hw_rng:(rate_bytes|rate_period)$`), isNaturalText},
	{regexp.MustCompile(`^hw_video:ram_max_mb$`), isNaturalText},
	{regexp.MustCompile(`^os:secure_boot$`), oneOfTexts("disabled", "required")},
	{regexp.MustCompile(`^os:(monitors|vram)$`), isNaturalText},
	{regexp.MustCompile(`^os:resolution$`), anyText},
	{regexp.MustCompile(`^pci_passthrough:alias$`), anyText},
	{regexp.MustCompile(`^quota:(cpu|memory|disk_io|vif)_(limit|reservation|shares_share)$`), isNaturalText},
	{regexp.MustCompile(`^quota:(cpu|memory|disk_io|vif)_shares_level$`), oneOfTexts("custom", "high", "normal", "low")},
	{regexp.MustCompile(`^quota:cpu_(shares|period)$`), isNaturalText},
	{regexp.MustCompile(`^quota:cpu_quota$`), isIntegerText},
	{regexp.MustCompile(`^quota:disk_(read|write|total)_(bytes|iops)_sec$`), isNaturalText},
	{regexp.MustCompile(`^quota:vif_(inbound|outbound)_(average|peak|burst)$`), isNaturalText},
	{regexp.MustCompile(`^resources([a-zA-Z0-9_-]{1,64})?:[A-Z0-9_]+$`), isNaturalText},
	{regexp.MustCompile(`^trait([a-zA-Z0-9_-]{1,64})?:[A-Z0-9_]+$`), oneOfTexts("required", "forbidden")},
	{regexp.MustCompile(`^vmware:(hw_version|storage_policy)$`), anyText},
}

func anyText(string) bool { return true }

func isBooleanText(s string) bool {
	_, ok := queryBoolean(s)
	return ok
}

func isNaturalText(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0
}

func isIntegerText(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

func oneOfTexts(values ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(values, s) }
}

// checkExtraSpec refuses unknown names in known namespaces and wrong values of known names (2.86).
func checkExtraSpec(name, value string) error {
	for _, rule := range specRules {
		if rule.name.MatchString(name) {
			if !rule.value(value) {
				return invalid("Validation failed; extra spec %s has an unsupported value %s", quote(name), quote(value))
			}
			return nil
		}
	}
	namespace, _, scoped := strings.Cut(name, ":")
	if scoped && slices.Contains(knownNamespaces, strings.TrimRight(namespace, "0123456789")) {
		return invalid("Validation failed; extra spec %s does not appear to be a valid extra spec.", quote(name))
	}
	return nil
}
