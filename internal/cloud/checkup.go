package cloud

import "time"

// A Checkup is what the leader and a host found when they last looked at what moves need. Written by control; read by operators.
type Checkup struct {
	Host HostName  `json:"host"`
	At   time.Time `json:"at"`
	// ClockAhead is by how much the host's clock is ahead of the leader's, give or take ClockMargin: half the time that the question took.
	ClockAhead  time.Duration `json:"clock_ahead"`
	ClockMargin time.Duration `json:"clock_margin"`
	// CertificateEnd is when the first of the certificates ends that libvirt and QEMU read; CertificateError why they are no good.
	CertificateEnd   time.Time `json:"certificate_end,omitzero"`
	CertificateError string    `json:"certificate_error,omitempty"`
	// Looked are the hosts to which the ways were tried, Closed the ways that are closed.
	Looked []HostName  `json:"looked,omitempty"`
	Closed []ClosedWay `json:"closed,omitempty"`
}

// ClosedWay is a way from one host to another that is not open.
type ClosedWay struct {
	To    HostName `json:"to"`
	Way   string   `json:"way"` // libvirt, migration or peer
	Error string   `json:"error"`
}

// The ways from a host to another that moves need.
const (
	WayLibvirt   = "libvirt"   // libvirtd, with the certificates of both
	WayMigration = "migration" // QEMU's ports
	WayPeer      = "peer"      // the other agent's port for disks and images
)
