package ipam

import (
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Refusal is the cause of an error that has a name of its own in Neutron: clients tell what happened by Type.
type Refusal struct {
	Type    string // Neutron's exception class: "IpAddressGenerationFailure", "PortInUse" ...
	Message string // for the user, in Neutron's words
}

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }

// Refuse returns an error of the kind whose cause is a Refusal.
func Refuse(kind cloud.Kind, class, format string, args ...any) error {
	return cloud.E(kind, "", "", &Refusal{Type: class, Message: fmt.Sprintf(format, args...)})
}

// NetworkNotFound says that a network does not exist, or not for the one who asks.
func NetworkNotFound(id cloud.NetworkID) error {
	return Refuse(cloud.KindNotFound, "NetworkNotFound", "Network %s could not be found.", id)
}

// SubnetNotFound says that a subnet does not exist, or not for the one who asks.
func SubnetNotFound(id cloud.SubnetID) error {
	return Refuse(cloud.KindNotFound, "SubnetNotFound", "Subnet %s could not be found.", id)
}

// PortNotFound says that a port does not exist, or not for the one who asks.
func PortNotFound(id cloud.PortID) error {
	return Refuse(cloud.KindNotFound, "PortNotFound", "Port %s could not be found.", id)
}

// SecurityGroupNotFound says that a security group does not exist, or not for the one who asks.
func SecurityGroupNotFound(id cloud.SecurityGroupID) error {
	return Refuse(cloud.KindNotFound, "SecurityGroupNotFound", "Security group %s does not exist", id)
}
