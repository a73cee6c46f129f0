package metadata

// Server is what a guest may know of itself.
type Server struct {
	UUID             string
	Name             string
	Hostname         string
	ProjectID        string
	ReservationID    string
	AvailabilityZone string
	FlavorName       string
	ImageID          string
	KeyName          string // empty: no key
	PublicKey        string // OpenSSH's one-line form
	KeyType          string // "ssh" when empty
	AdminPass        string // only for the config drive of a first boot
	LaunchIndex      int64
	Meta             map[string]string
	UserData         []byte // decoded; nil when there is none
	NICs             []NIC
}

// NIC is one of the guest's network cards.
type NIC struct {
	PortID    string
	MAC       string
	NetworkID string
	MTU       int64
	Addresses []Address
}

// Address is an IPv4 address of a NIC with what its subnet says.
type Address struct {
	SubnetID string
	Address  string
	Prefix   int64
	Gateway  string // empty: none
	DNS      []string
	Routes   []Route
	DHCP     bool // the guest gets it by DHCP; otherwise it must configure it itself
}

// Route is a static route.
type Route struct {
	Destination string // CIDR
	NextHop     string
}
