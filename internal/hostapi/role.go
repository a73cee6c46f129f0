package hostapi

import (
	"errors"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// role is what a peer that dials in does for the cloud. It is settled by the protocol of its reversed connection and the first message of its session.
type role uint8

const (
	roleHost    role = iota // a compute host: serves Host
	roleVolumes             // a volume service: serves VolumeHost
)

// roleOf returns the role of the peer that offers a reversed connection.
func roleOf(protocol string) role {
	if protocol == alpnVolumes {
		return roleVolumes
	}
	return roleHost
}

// protocol is what the peer's reversed connection speaks.
func (r role) protocol() string {
	if r == roleVolumes {
		return alpnVolumes
	}
	return alpnHost
}

func (r role) absence() error {
	if r == roleVolumes {
		return errNotRunning
	}
	return errNotConnected
}

var (
	errNotConnected = errors.New("its agent is not connected")
	errNotRunning   = errors.New("it is not connected")
)

// peerID names who dialled in. A host and a volume service do not share a name for long, because the second one's session is refused; until then
// they must not take each other's place.
type peerID struct {
	role role
	name cloud.HostName
}

// String returns "host compute-1" or "volume service storage-1".
func (id peerID) String() string {
	if id.role == roleVolumes {
		return "volume service " + string(id.name)
	}
	return "host " + string(id.name)
}
