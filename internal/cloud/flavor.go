package cloud

import "time"

// Flavor is a named size of server. Servers keep a copy of the flavor they were booted with, as Nova does since 2.47.
type Flavor struct {
	ID           FlavorID          `json:"id"`
	Name         string            `json:"name"`
	VCPUs        int               `json:"vcpus"`
	RAMMiB       int               `json:"ram_mib"`
	RootGiB      int               `json:"root_gib"`      // 0 means: as large as the image
	EphemeralGiB int               `json:"ephemeral_gib"` // must be 0 today; kept for the API
	SwapMiB      int               `json:"swap_mib"`      // must be 0 today; kept for the API
	RxTxFactor   float64           `json:"rxtx_factor"`
	Public       bool              `json:"public"`
	Disabled     bool              `json:"disabled"`
	Description  string            `json:"description,omitempty"` // microversion 2.55
	ExtraSpecs   map[string]string `json:"extra_specs,omitempty"`
	Access       []ProjectID       `json:"access,omitempty"` // projects that see a flavor that is not public
	Created      time.Time         `json:"created"`
}

// Resources is an amount of what placement counts.
type Resources struct {
	VCPUs   int `json:"vcpus"`
	RAMMiB  int `json:"ram_mib"`
	DiskGiB int `json:"disk_gib"`
}

// Add returns r plus o.
func (r Resources) Add(o Resources) Resources {
	return Resources{r.VCPUs + o.VCPUs, r.RAMMiB + o.RAMMiB, r.DiskGiB + o.DiskGiB}
}

// Resources returns what one server of this flavor takes from a host.
func (f Flavor) Resources() Resources {
	return Resources{VCPUs: f.VCPUs, RAMMiB: f.RAMMiB, DiskGiB: f.RootGiB + f.EphemeralGiB + (f.SwapMiB+1023)/1024}
}

// SpecCPUModel is the flavor extra spec that asks for a CPU model by libvirt's name. Placement gives such a server only hosts that offer it.
const SpecCPUModel = "godwit:cpu_model"

// CPUModel returns the CPU model the flavor asks for; empty: the one that every host gives.
func (f Flavor) CPUModel() string { return f.ExtraSpecs[SpecCPUModel] }
