package reconcile

import (
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Kind is what an action does.
type Kind string

// The kinds of action.
const (
	// SetState writes the server's State, Power and Fault; see Action.Apply.
	SetState Kind = "set-state"
	// Discard removes what a host that does not own the server still has of it: Host.Discard without destroy_running.
	Discard Kind = "discard"
	// DiscardDeleted removes a server that was deleted while its host could not be told: Host.Discard with destroy_running.
	DiscardDeleted Kind = "discard-deleted"
	// DiscardEvacuated removes what a host that was believed dead still has, or runs, of a server that was started elsewhere: Host.Discard with
	// destroy_running.
	DiscardEvacuated Kind = "discard-evacuated"
	// DiscardShelved removes what a host that was away has of a server that was shelved meanwhile: Host.Discard with destroy_running, as files in a
	// directory that hosts share go with the server only.
	DiscardShelved Kind = "discard-shelved"
	// Alarm tells the operator something that nobody but a person should decide.
	Alarm Kind = "alarm"
	// CreateHost writes the record of a host that has reported and has none.
	CreateHost Kind = "create-host"
	// ReleaseClaim takes the server's claim off the host: placement.Release.
	ReleaseClaim Kind = "release-claim"
	// RestoreClaim puts the claim of a server that lives on the host back: placement.Claim of Claim.
	RestoreClaim Kind = "restore-claim"
)

// Action is one thing to do. Which fields are set depends on Kind; Server is empty for CreateHost, Host for none but SetState.
type Action struct {
	Kind   Kind
	Server cloud.ServerID
	Host   cloud.HostName
	// Generation is the server's that the decision was made on. Host calls carry it.
	Generation int64
	// From is the state the server had; State and Power are what it gets. SetState only.
	From, State cloud.VMState
	Power       cloud.PowerState
	// Fault, when not empty, is noted on the server. SetState only.
	Fault string
	// Claim is what to restore. RestoreClaim only.
	Claim cloud.Claim
	// Reason is why, a sentence for the log and the operator.
	Reason string
}

// String returns "kind server on host: reason".
func (a Action) String() string {
	s := string(a.Kind)
	if a.Server != "" {
		s += " server " + string(a.Server)
	}
	if a.Host != "" {
		s += " on " + string(a.Host)
	}
	return s + ": " + a.Reason
}

// Apply carries a SetState out on the server's record, as read in the transaction that will write it. It returns cloud.KindStale and changes
// nothing when the server is no longer as it was when the decision was made.
func (a Action) Apply(s *cloud.Server, now time.Time) error {
	if s.Generation != a.Generation || s.VMState != a.From || s.Task != cloud.TaskNone {
		return cloud.E(cloud.KindStale, string(a.Kind), "server "+string(a.Server), fmt.Errorf("it is %s %s at generation %d, decided on %s at %d",
			s.VMState, s.Task, s.Generation, a.From, a.Generation))
	}
	if err := s.Become(a.State, cloud.TaskNone); err != nil {
		return err
	}
	s.Power, s.Updated = a.Power, now
	if a.Fault != "" {
		s.Fault = &cloud.Fault{Code: 500, Message: a.Fault, Created: now}
	}
	return nil
}

// Outcome is what is to be done about one noun.
type Outcome struct {
	Actions []Action
	// Again is when to ask again even if nothing changes; zero when only a change can alter the answer.
	Again time.Time
}

// waitUntil makes the outcome ask again at t, the earliest of all such times.
func (o *Outcome) waitUntil(t time.Time) {
	if o.Again.IsZero() || t.Before(o.Again) {
		o.Again = t
	}
}

// Busy returns the servers that somebody works on, from the intents and migrations of the same view as the rest of the case.
func Busy(intents []*cloud.Intent, migrations []*cloud.Migration) map[cloud.ServerID]bool {
	out := map[cloud.ServerID]bool{}
	for _, i := range intents {
		out[i.Server] = true
	}
	for _, m := range migrations {
		if !m.Status.Resting() {
			out[m.Server] = true
		}
	}
	return out
}
