package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// SettleDefault is how long a record must have been left alone before an observation older than its last change may contradict it, and a
	// leftover before it is discarded. Longer than an observation's way through agent, stream and store, even of a busy one.
	SettleDefault = 10 * time.Second
	// MissingAfter is how long a connected host must have been silent about a server it owns before the operator is told. Longer than an
	// agent needs to look at all its domains and disks after its start.
	MissingAfter = time.Minute
)

// ServerCase is all that may be known about one server.
type ServerCase struct {
	ID cloud.ServerID
	// Server is the record; nil when there is none.
	Server *cloud.Server
	// Grave is the record of the deleted server; nil when there is none. It counts only when Server is nil.
	Grave *cloud.Server
	// Busy says that an intent, an unfinished migration or a run concerns the server; see the function Busy.
	Busy bool
	// Seen are the observations of all hosts.
	Seen []cloud.ServerObservation
	// Evacuated are the hosts that were given up and from which the server was started elsewhere.
	Evacuated map[cloud.HostName]bool
	// Sessions are the connected hosts and since when they are; absent means not connected.
	Sessions map[cloud.HostName]time.Time
}

// Server says what to do about one server.
func Server(c ServerCase, now time.Time) Outcome {
	var o Outcome
	if c.Busy {
		return o
	}
	switch {
	case c.Server == nil:
		c.withoutRecord(&o, now)
		c.waitForSessions(&o, now)
	case c.Server.VMState == cloud.VMOffloaded && c.Server.Task == cloud.TaskNone && c.Server.Host == "":
		c.offloaded(&o, now)
		c.waitForSessions(&o, now)
	case c.Server.Task != cloud.TaskNone, c.Server.VMState == cloud.VMBuilding, c.Server.VMState == cloud.VMDeleted, c.Server.Host == "":
		return o // a flow's, or nowhere
	default:
		c.owner(&o, now)
		c.elsewhere(&o, now)
		c.waitForSessions(&o, now)
	}
	return o
}

// current returns what connected hosts say, by host name. With each session a host says everything anew, repeats included, and what it no longer
// says is forgotten with its first heartbeat. So an observation from before the session counts only when the session has lasted a while.
func (c *ServerCase) current(now time.Time) []cloud.ServerObservation {
	var out []cloud.ServerObservation
	for _, seen := range c.Seen {
		if since, up := c.Sessions[seen.Host]; up && (!seen.At.Before(since) || !now.Before(since.Add(SettleDefault))) {
			out = append(out, seen)
		}
	}
	slices.SortFunc(out, func(a, b cloud.ServerObservation) int { return cmp.Compare(a.Host, b.Host) })
	return out
}

// waitForSessions makes the outcome ask again when observations from before a young session begin to count.
func (c *ServerCase) waitForSessions(o *Outcome, now time.Time) {
	for _, seen := range c.Seen {
		if since, up := c.Sessions[seen.Host]; up && seen.At.Before(since) && now.Before(since.Add(SettleDefault)) {
			o.waitUntil(since.Add(SettleDefault))
		}
	}
}

// ownerSees returns what the connected owner says; nil when it says nothing or is not connected.
func (c *ServerCase) ownerSees(now time.Time) *cloud.ServerObservation {
	for _, seen := range c.current(now) {
		if seen.Host == c.Server.Host {
			return &seen
		}
	}
	return nil
}

// owner compares the record with what the owning host sees.
func (c *ServerCase) owner(o *Outcome, now time.Time) {
	s, seen := c.Server, c.ownerSees(now)
	since, up := c.Sessions[s.Host]
	switch {
	case !up:
		return // down is not this package's to judge
	case seen == nil:
		c.missing(o, later(s.Updated, since).Add(MissingAfter), now)
		return
	}
	state, fault, reason := follow(s, seen)
	if state == s.VMState && seen.Power == s.Power || state == s.VMState && seen.Power == cloud.PowerNone {
		return
	}
	if settled := s.Updated.Add(SettleDefault); !seen.At.After(s.Updated) && now.Before(settled) {
		o.waitUntil(settled)
		return
	}
	power := seen.Power
	if power == cloud.PowerNone {
		power = cloud.PowerShutdown
	}
	o.Actions = append(o.Actions, Action{Kind: SetState, Server: s.ID, Host: s.Host, Generation: s.Generation, From: s.VMState, State: state, Power: power,
		Fault: fault, Reason: reason})
}

// missing reports a server that its connected host says nothing of. The record stays: silence is no proof, an agent that cannot reach its libvirtd is
// silent too, and a server once marked as lost would stay so when it is found again.
func (c *ServerCase) missing(o *Outcome, at, now time.Time) {
	s := c.Server
	if now.Before(at) {
		o.waitUntil(at)
		return
	}
	o.Actions = append(o.Actions, Action{Kind: Alarm, Server: s.ID, Host: s.Host, Generation: s.Generation,
		Reason: fmt.Sprintf("host %s is connected and says nothing of this server, which the record says is %s there", s.Host, s.VMState)})
}

// follow returns the state that a record must get to agree with the owner's observation, as Nova's power-state synchronisation has it, but for a
// stopped server that runs: Nova stops it, godwit believes it.
//
//	record   running   paused    shut down  crashed              no domain
//	active   -         -         stopped    stopped and a fault  stopped
//	paused   active    -         stopped    stopped and a fault  stopped
//	stopped  active    -         -          -                    -
//	error    -         -         -          -                    -
func follow(s *cloud.Server, seen *cloud.ServerObservation) (state cloud.VMState, fault, reason string) {
	reason = fmt.Sprintf("host %s sees it %s (%s), the record says %s", seen.Host, powerName(seen.Power), seen.Reason, s.VMState)
	runs := s.VMState == cloud.VMActive || s.VMState == cloud.VMPaused
	switch seen.Power {
	case cloud.PowerRunning:
		if s.VMState == cloud.VMPaused || s.VMState == cloud.VMStopped {
			return cloud.VMActive, "", reason
		}
	case cloud.PowerShutdown, cloud.PowerNone:
		if runs {
			return cloud.VMStopped, "", reason
		}
	case cloud.PowerCrashed:
		if runs {
			return cloud.VMStopped, fmt.Sprintf("The guest crashed on host %s (%s).", seen.Host, seen.Reason), reason
		}
	case cloud.PowerPaused, cloud.PowerSuspended: // an I/O error, a snapshot: the power state says so, the record stays
	}
	return s.VMState, "", reason
}

// elsewhere deals with what other hosts still have of the server.
func (c *ServerCase) elsewhere(o *Outcome, now time.Time) {
	s, own := c.Server, c.ownerSees(now)
	for _, seen := range c.current(now) {
		if seen.Host == s.Host || s.Keeps(seen.Host) && seen.Power != cloud.PowerRunning {
			continue // its own, or the way back from a resize
		}
		if seen.Generation > s.Generation {
			o.alarm(s.ID, seen, s.Generation, fmt.Sprintf("host %s acts on generation %d of a server whose record is at %d", seen.Host, seen.Generation, s.Generation))
			continue
		}
		settled := later(s.Updated, seen.At).Add(SettleDefault)
		switch {
		case own == nil: // whether the owner has the server is not known: keep everything
		case c.Evacuated[seen.Host] && seen.Generation < s.Generation && own.Generation == s.Generation:
			// No waiting: the host came back after all, and what it has was given up when the owner's copy was made.
			o.Actions = append(o.Actions, Action{Kind: DiscardEvacuated, Server: s.ID, Host: seen.Host, Generation: s.Generation,
				Reason: fmt.Sprintf("evacuated to %s while the host was down, and still there (%s)", s.Host, powerName(seen.Power))})
		case now.Before(settled):
			o.waitUntil(settled)
		case seen.Power == cloud.PowerRunning:
			o.alarm(s.ID, seen, s.Generation, fmt.Sprintf("the server runs on host %s although it belongs to %s, which sees it %s", seen.Host, s.Host, powerName(own.Power)))
		case live(seen.Power) && own.Power != cloud.PowerRunning:
			o.alarm(s.ID, seen, s.Generation, fmt.Sprintf("host %s holds a %s copy, and the server does not run on its owner %s", seen.Host, powerName(seen.Power), s.Host))
		default:
			o.Actions = append(o.Actions, Action{Kind: Discard, Server: s.ID, Host: seen.Host, Generation: s.Generation,
				Reason: fmt.Sprintf("left over (%s): the server belongs to %s, which sees it %s", powerName(seen.Power), s.Host, powerName(own.Power))})
		}
	}
}

// offloaded deals with what hosts still have of a server that is shelved: its disk is an image, or a volume, and what a host has that was away when the server
// was taken off it is worth nothing. Unless it runs or has memory: then somebody has started it by hand.
func (c *ServerCase) offloaded(o *Outcome, now time.Time) {
	s := c.Server
	for _, seen := range c.current(now) {
		settled := later(s.Updated, seen.At).Add(SettleDefault)
		switch {
		case seen.Generation > s.Generation:
			o.alarm(s.ID, seen, s.Generation, fmt.Sprintf("host %s acts on generation %d of a server shelved at %d", seen.Host, seen.Generation, s.Generation))
		case now.Before(settled):
			o.waitUntil(settled)
		case seen.Power == cloud.PowerRunning || live(seen.Power):
			o.alarm(s.ID, seen, s.Generation, fmt.Sprintf("the server is shelved, and host %s has it %s", seen.Host, powerName(seen.Power)))
		default:
			o.Actions = append(o.Actions, Action{Kind: DiscardShelved, Server: s.ID, Host: seen.Host, Generation: s.Generation,
				Reason: fmt.Sprintf("shelved while the host was away, and still there (%s)", powerName(seen.Power))})
		}
	}
}

// live reports whether a copy in this state has memory that may exist nowhere else.
func live(p cloud.PowerState) bool { return p == cloud.PowerPaused || p == cloud.PowerSuspended }

// withoutRecord deals with a server that hosts see and no record names. A grave is proof that its owner wanted it gone; without one nothing is
// destroyed.
func (c *ServerCase) withoutRecord(o *Outcome, now time.Time) {
	for _, seen := range c.current(now) {
		if c.Grave == nil {
			o.alarm(c.ID, seen, 0, fmt.Sprintf("host %s has a server (%s) that no record names", seen.Host, powerName(seen.Power)))
			continue
		}
		if seen.Generation > c.Grave.Generation {
			o.alarm(c.ID, seen, c.Grave.Generation, fmt.Sprintf("host %s acts on generation %d of a server deleted at %d", seen.Host, seen.Generation, c.Grave.Generation))
			continue
		}
		if settled := later(c.Grave.Terminated, seen.At).Add(SettleDefault); now.Before(settled) {
			o.waitUntil(settled)
			continue
		}
		o.Actions = append(o.Actions, Action{Kind: DiscardDeleted, Server: c.ID, Host: seen.Host, Generation: c.Grave.Generation,
			Reason: fmt.Sprintf("deleted at %s, and still there (%s)", c.Grave.Terminated.UTC().Format(time.RFC3339), powerName(seen.Power))})
	}
}

func (o *Outcome) alarm(id cloud.ServerID, seen cloud.ServerObservation, generation int64, reason string) {
	o.Actions = append(o.Actions, Action{Kind: Alarm, Server: id, Host: seen.Host, Generation: generation, Reason: reason})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func powerName(p cloud.PowerState) string {
	switch p {
	case cloud.PowerNone:
		return "without a domain"
	case cloud.PowerRunning:
		return "running"
	case cloud.PowerPaused:
		return "paused"
	case cloud.PowerShutdown:
		return "shut down"
	case cloud.PowerCrashed:
		return "crashed"
	case cloud.PowerSuspended:
		return "suspended"
	}
	return fmt.Sprintf("in power state %d", int(p))
}
