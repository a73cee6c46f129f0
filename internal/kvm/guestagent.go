package kvm

import (
	"context"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// agentChannel is qemu-guest-agent's name of its channel.
const agentChannel = "org.qemu.guest_agent.0"

// pingSecondsMax is how long a guest's agent may take to answer a ping: its program only has to be scheduled.
const pingSecondsMax = 5

// Pong is what became of a ping of a guest's agent.
type Pong uint8

// The values of Pong.
const (
	// AgentAbsent: nobody in the guest has opened the channel, or there is none: it is booting, or its agent ended in order.
	AgentAbsent Pong = iota
	// AgentAnswered: the guest's user space runs.
	AgentAnswered
	// AgentSilent: somebody has the channel open and does not answer.
	AgentSilent
)

// PingGuest asks the guest's agent whether it is there, and waits for it a few seconds. A domain that does not run has no agent.
func (c *Conn) PingGuest(ctx context.Context, id cloud.ServerID) (Pong, error) {
	pong := AgentAbsent
	err := c.slow(ctx, "ping guest", id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		_, err = l.QEMUDomainAgentCommand(d, `{"execute":"guest-ping"}`, pingSecondsMax, 0)
		switch {
		case err == nil:
			pong = AgentAnswered
		case hasCode(err, libvirt.ErrAgentUnresponsive) && strings.Contains(err.Error(), "not connected"):
			return nil
		case hasCode(err, libvirt.ErrAgentUnresponsive), hasCode(err, libvirt.ErrAgentCommandTimeout), hasCode(err, libvirt.ErrAgentUnsynced):
			pong = AgentSilent
		case hasCode(err, libvirt.ErrOperationInvalid), hasCode(err, libvirt.ErrArgumentUnsupported), hasCode(err, libvirt.ErrConfigUnsupported):
			return nil // it does not run, or has no channel
		default:
			return err
		}
		return nil
	})
	if cloud.Is(err, cloud.KindNotFound) {
		return AgentAbsent, nil
	}
	return pong, err
}
