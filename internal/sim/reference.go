package sim

// Published is what the 2012 paper prints for a policy: the medians over its ten days (its tables 2 to 5).
type Published struct {
	EnergyKWh, ESV, SLAV, SLATAH, PDM float64
	Migrations                        float64
}

// PublishedTable is by policy. These energies cannot be reached: the bound of the same traces is above them, see
// docs/consolidation.md. They are printed beside our own figures and chased by nobody.
var PublishedTable = map[string]Published{
	"npa":         {EnergyKWh: 2419.2},
	"dvfs":        {EnergyKWh: 613.6},
	"thr-mmt-1.0": {75.36, 20.12e-3, 25.78e-5, 0.2497, 0.0010, 13640},
	"thr-mmt-0.8": {89.92, 4.19e-3, 4.57e-5, 0.0461, 0.0010, 17180},
	"iqr-mmt-1.5": {90.13, 4.00e-3, 4.51e-5, 0.0464, 0.0010, 16930},
	"mad-mmt-2.5": {87.67, 3.94e-3, 4.48e-5, 0.0465, 0.0010, 16720},
	"lrr-mmt-1.2": {87.93, 2.43e-3, 2.77e-5, 0.0398, 0.0007, 12820},
	"lr-mmt-1.2":  {88.17, 1.98e-3, 2.33e-5, 0.0363, 0.0006, 11850},
}

// Reference is what CloudSim 5.0 itself computes for a day and a policy, unmodified but for taking trace files by name.
type Reference struct {
	Day, Policy string
	EnergyKWh   float64
	Migrations  int
}

// References are the figures that CloudSimRules are checked against.
var References = []Reference{
	{"20110303", "lr-mmt-1.2", 163.48, 27859}, {"20110303", "thr-mmt-0.8", 192.62, 26711},
	{"20110306", "lr-mmt-1.2", 123.28, 20878}, {"20110306", "thr-mmt-0.8", 144.74, 20908},
	{"20110309", "lr-mmt-1.2", 142.09, 24959}, {"20110309", "thr-mmt-0.8", 165.27, 23475},
	{"20110322", "lr-mmt-1.2", 177.48, 32038}, {"20110322", "thr-mmt-0.8", 201.70, 28902},
	{"20110403", "lr-mmt-1.2", 219.70, 37972}, {"20110403", "thr-mmt-0.8", 258.56, 35488},
	{"20110409", "lr-mmt-1.2", 179.89, 31556}, {"20110409", "thr-mmt-0.8", 209.32, 29377},
	{"20110420", "lr-mmt-1.2", 130.90, 24400}, {"20110420", "thr-mmt-0.8", 150.50, 22191},
	{"20110303", "mad-mmt-2.5", 185.79, 26556}, {"20110303", "iqr-mmt-1.5", 189.98, 26282}, {"20110303", "dvfs", 802.75, 0},
}

// ReferenceFor finds the reference of a result; there is one only under CloudSimRules and for the paper's fleet.
func ReferenceFor(r Result) (Reference, bool) {
	if r.Rules != CloudSimRules.Name || r.Hosts != PaperSpec().Hosts {
		return Reference{}, false
	}
	for _, ref := range References {
		if ref.Day == r.Day && ref.Policy == r.Policy {
			return ref, true
		}
	}
	return Reference{}, false
}
