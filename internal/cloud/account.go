package cloud

import "time"

// AccountKind is whose account it is.
type AccountKind string

// The kinds of accounts. A project's is the sum of its servers' and is not kept.
const (
	AccountHost    AccountKind = "host"
	AccountServer  AccountKind = "server"
	AccountProject AccountKind = "project"
)

// PowerSource says how it is known what a host draws.
type PowerSource string

// The sources. A host's own counters (RAPL) are those of its processors and memory; all else that it draws is not in them.
const (
	PowerByModel PowerSource = "model"
	PowerByHost  PowerSource = "host"
	PowerByBMC   PowerSource = "bmc"
)

// Account is what a host or a server used on one day (UTC), as far as the leader saw it.
type Account struct {
	Day     string      `json:"day"` // "2026-01-31"
	Kind    AccountKind `json:"kind"`
	Subject string      `json:"subject"` // host name, server id or project id
	Name    string      `json:"name,omitempty"`
	Project ProjectID   `json:"project,omitempty"`
	// WattSeconds is energy. Of a host that says what it draws it is measured, else modelled from its CPU use (Measured says how much is). Of a server
	// it is its share of its host's: of what the host draws when idle by memory, of the rest by CPU use.
	WattSeconds float64     `json:"watt_seconds"`
	Measured    float64     `json:"measured_watt_seconds,omitempty"`
	PowerBy     PowerSource `json:"power_by,omitempty"` // of the newest part of it
	CPUSeconds  float64     `json:"cpu_seconds"`
	// Seen is how long telemetry was there for; Overload how long of it a host's CPU was short (or a server waited for more than a tenth of what it
	// used); Asleep how long a host slept.
	Seen       time.Duration `json:"seen"`
	Overload   time.Duration `json:"overload"`
	Asleep     time.Duration `json:"asleep,omitempty"`
	Migrations int           `json:"migrations"` // of a host: away from it
	Downtime   time.Duration `json:"downtime"`   // of these moves
	Updated    time.Time     `json:"updated"`
}

// KWh returns the energy in kilowatt hours.
func (a Account) KWh() float64 { return a.WattSeconds / 3.6e6 }

// Add adds what b counts to a; whom each is about stays as it is.
func (a *Account) Add(b *Account) {
	a.WattSeconds += b.WattSeconds
	a.Measured += b.Measured
	if b.PowerBy != "" {
		a.PowerBy = b.PowerBy
	}
	a.CPUSeconds += b.CPUSeconds
	a.Seen += b.Seen
	a.Overload += b.Overload
	a.Asleep += b.Asleep
	a.Migrations += b.Migrations
	a.Downtime += b.Downtime
}
