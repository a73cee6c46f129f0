package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// HostCase is all that may be known about one host's bookkeeping.
type HostCase struct {
	Name cloud.HostName
	// Host is the operator's record; nil when there is none.
	Host *cloud.Host
	// Reported says that the host has reported.
	Reported bool
	Usage    cloud.Usage
	// Servers are the records of every server that has a claim here or lives here.
	Servers map[cloud.ServerID]*cloud.Server
	// Busy are the servers that somebody works on; see the function Busy. Their claims are the flows'.
	Busy map[cloud.ServerID]bool
}

// Host says what to do about one host's records: the host's own, when it has reported and nobody has made one, and claims that do not agree with the
// servers. A crash between two transactions leaves no such claim, since claims are written with what they belong to; a restored backup or
// a hand that edited the store may.
func Host(c HostCase) Outcome {
	var o Outcome
	if c.Host == nil {
		if c.Reported {
			o.Actions = append(o.Actions, Action{Kind: CreateHost, Host: c.Name, Reason: "it has reported and has no record"})
		}
		return o
	}
	for _, key := range slices.Sorted(maps.Keys(c.Usage.Claims)) {
		id := c.Usage.Claims[key].Server
		if reason := c.stale(id); reason != "" {
			o.Actions = append(o.Actions, Action{Kind: ReleaseClaim, Server: id, Host: c.Name, Generation: c.generation(id), Reason: reason})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.Servers)) {
		s := c.Servers[id]
		claim, ok := c.Usage.Claims[cloud.ClaimKey(id)]
		want, due := s.ClaimOn(c.Name)
		if !due || !c.idle(id) || ok && claim == want {
			continue
		}
		reason := "it lives here and nothing is claimed for it"
		if ok {
			reason = fmt.Sprintf("its claim is of %+v for migration %q, it has %+v", claim.Resources, claim.Migration, want.Resources)
		}
		o.Actions = append(o.Actions, Action{Kind: RestoreClaim, Server: id, Host: c.Name, Generation: s.Generation, Claim: want, Reason: reason})
	}
	return o
}

// idle reports whether the server is nobody's but its host's now.
func (c *HostCase) idle(id cloud.ServerID) bool {
	s := c.Servers[id]
	return !c.Busy[id] && (s == nil || s.Task == cloud.TaskNone && s.VMState != cloud.VMBuilding)
}

// stale returns why a server's claim on this host is nobody's; empty when it is somebody's or may be.
func (c *HostCase) stale(id cloud.ServerID) string {
	if !c.idle(id) {
		return ""
	}
	switch s := c.Servers[id]; {
	case s == nil:
		return "the server does not exist"
	case s.Host != c.Name && !s.Keeps(c.Name):
		return fmt.Sprintf("the server lives on %q", s.Host)
	}
	return ""
}

func (c *HostCase) generation(id cloud.ServerID) int64 {
	if s := c.Servers[id]; s != nil {
		return s.Generation
	}
	return 0
}
