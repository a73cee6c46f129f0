package placement

import (
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Hosts of a failover segment may be kept in reserve: nothing is placed on them but what recovery brings there, as the segment's method has it.
//
//	method of the source's segment   its reserved hosts   other hosts
//	auto, or no segment              refused              taken
//	reserved_host                    taken                refused
//	auto_priority                    taken last           taken
//	rh_priority                      taken first          taken
//
// A host that is asked for by name is taken at its word, reserved or not.

// reserveScoreBy is more than all other considerations together.
const reserveScoreBy = 1000

// reserve appends what reservation rules out.
func (c *checker) reserve(h *cloud.HostView, reasons []string) []string {
	if c.req.ForcedHost == h.Host.Name {
		return reasons
	}
	method, known := c.method()
	switch {
	case !h.Reserved && known && method == cloud.RecoverReserved:
		return append(reasons, "reserve: the recovery method reserved_host wants a reserved host of the segment")
	case !h.Reserved:
		return reasons
	case !c.req.Recovery:
		return append(reasons, "reserve: the host is kept for recovery")
	case !known && c.source == nil:
		return reasons // asked again inside a transaction, which sees this host alone
	case c.source.Segment != h.Segment:
		return append(reasons, "reserve: the host is kept for the recovery of another segment")
	case method == cloud.RecoverAuto:
		return append(reasons, fmt.Sprintf("reserve: the recovery method %s does not use reserved hosts", method))
	}
	return reasons
}

// method returns the recovery method of the source's segment, when this is a recovery and the source is in one.
func (c *checker) method() (cloud.RecoveryMethod, bool) {
	if !c.req.Recovery || c.source == nil || c.source.Segment == "" {
		return "", false
	}
	return c.source.RecoveryMethod, true
}

// reserveScore puts reserved hosts first or last, as the method has it.
func (c *checker) reserveScore(h *cloud.HostView) float64 {
	method, known := c.method()
	switch {
	case !known || !h.Reserved:
		return 0
	case method == cloud.RecoverReservedOnce:
		return reserveScoreBy
	case method == cloud.RecoverAutoFirst:
		return -reserveScoreBy
	}
	return 0
}
