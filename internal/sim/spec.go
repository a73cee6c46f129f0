package sim

import (
	"errors"

	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// HostType is a kind of host.
type HostType struct {
	Name   string
	Cores  int
	MIPS   float64 // per core
	RAMMiB float64
	Power  consolidate.PowerModel
}

// CPU returns the MIPS of all cores.
func (t *HostType) CPU() float64 { return float64(t.Cores) * t.MIPS }

// ServerType is a kind of server, with one virtual CPU.
type ServerType struct {
	Name   string
	MIPS   float64
	RAMMiB float64
}

// Spec is a fleet: hosts of the types in turn, and servers of the types in blocks of equal size.
type Spec struct {
	Hosts       int
	HostTypes   []HostType
	ServerTypes []ServerType
	// MigrationMiBps is what one migration gets of a host's network.
	MigrationMiBps float64
	// StepSeconds is the time between two samples and between two decisions.
	StepSeconds float64
}

// PaperSpec is the fleet of the 2012 paper: 800 hosts of two types, four server types after Amazon's of that time with half their
// memory, samples of 5 minutes, 1 Gbit/s of which migrations get half.
func PaperSpec() Spec {
	return Spec{
		Hosts: 800,
		HostTypes: []HostType{
			{Name: "HP ProLiant ML110 G4", Cores: 2, MIPS: 1860, RAMMiB: 4096, Power: consolidate.ProLiantG4},
			{Name: "HP ProLiant ML110 G5", Cores: 2, MIPS: 2660, RAMMiB: 4096, Power: consolidate.ProLiantG5},
		},
		ServerTypes: []ServerType{
			{Name: "high-CPU medium", MIPS: 2500, RAMMiB: 870},
			{Name: "extra large", MIPS: 2000, RAMMiB: 1740},
			{Name: "small", MIPS: 1000, RAMMiB: 1740},
			{Name: "micro", MIPS: 500, RAMMiB: 613},
		},
		MigrationMiBps: 1e6 / (2 * 8000),
		StepSeconds:    300,
	}
}

// Validate tells what of a fleet cannot be simulated.
func (s Spec) Validate() error {
	switch {
	case s.Hosts < 1 || len(s.HostTypes) == 0:
		return errors.New("fleet: no hosts")
	case len(s.ServerTypes) == 0:
		return errors.New("fleet: no server types")
	case s.MigrationMiBps <= 0 || s.StepSeconds <= 0:
		return errors.New("fleet: migration bandwidth and step must be positive")
	}
	return nil
}

func (s Spec) hostType(i int) *HostType { return &s.HostTypes[i%len(s.HostTypes)] }

// serverType returns the type of server i of n: the first block is of the first type, and so on.
func (s Spec) serverType(i, n int) *ServerType {
	block := (n + len(s.ServerTypes) - 1) / len(s.ServerTypes)
	return &s.ServerTypes[i/block]
}

// Rules say what a simulated fleet allows and how a day is counted.
type Rules struct {
	Name string
	// AsCloudSim does what CloudSim 5.0 does and no cloud: a server that asks for nothing when the load is taken is removed for good;
	// the load is first taken after one step and last before the day ends, and hosts draw nothing outside of that; a host whose servers
	// use nothing draws nothing; and a server that is planned to move twice in a round moves twice.
	AsCloudSim bool
	// LimitRAM holds hosts to their memory all the time. Otherwise it counts only when servers boot, as in the paper's build.
	LimitRAM bool
}

// The rules.
var (
	CloudSimRules = Rules{Name: "cloudsim", AsCloudSim: true}
	PaperRules    = Rules{Name: "paper"}
	RAMRules      = Rules{Name: "ram", LimitRAM: true}
)

// AllRules lists the rules there are.
func AllRules() []Rules { return []Rules{CloudSimRules, PaperRules, RAMRules} }
