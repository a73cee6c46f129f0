package cloud

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// HostVerdict is what the leader believes of a host's life, and why. There is one for each host that was judged; it is written when the verdict
// changes, and while a host is suspect or dead when its evidence gets a new sentence, never for a heartbeat.
type HostVerdict struct {
	Host    HostName `json:"host"`
	Verdict string   `json:"verdict"` // "alive", "suspect", "dead": package liveness
	// Since is when the host came by this verdict; Judged when the evidence was last weighed and written.
	Since    time.Time `json:"since"`
	Judged   time.Time `json:"judged"`
	Evidence []string  `json:"evidence,omitempty"` // sentences with figures
	Isolated bool      `json:"isolated,omitempty"` // suspect, yet seen to live: only the agent or the management network is gone
	Forced   bool      `json:"forced,omitempty"`   // an operator's word, not the cluster's
	Reported bool      `json:"reported,omitempty"` // dead by a monitor's word: reason to turn it off, and for nothing else until the evidence is whole
	Brake    string    `json:"brake,omitempty"`    // why a host for whose death there is evidence enough is not called dead
	// Silent is when the host was last heard before it fell silent, by the leader's clock; zero: it is heard, or was never.
	Silent time.Time `json:"silent,omitzero"`
	Judge  string    `json:"judge,omitempty"` // the instance that judged
}

// BMC is how a host's baseboard management controller is reached. The password is stored as it is and never shown.
type BMC struct {
	Host     HostName `json:"host"`
	Protocol string   `json:"protocol"` // "ipmi" or "redfish"
	Address  string   `json:"address"`  // ipmi: IP[:port]; redfish: https://host[:port]
	User     string   `json:"user,omitempty"`
	Password string   `json:"password,omitempty"`
	Cipher   int      `json:"cipher,omitempty"` // ipmi: cipher suite; 0: the usual one
	System   string   `json:"system,omitempty"` // redfish: id of the system; empty: the only one
	CA       string   `json:"ca,omitempty"`     // redfish: PEM of the authority that signed its certificate
	// Confirmed is when the BMC last told a power state, and Power which; Error is why the last attempt failed.
	Confirmed time.Time `json:"confirmed,omitzero"`
	Power     string    `json:"power,omitempty"`
	Error     string    `json:"error,omitempty"`
	Updated   time.Time `json:"updated"`
}

// RecoveryID identifies the recovery of one host's servers.
type RecoveryID string

// RecoveryStatus is where a recovery stands.
type RecoveryStatus string

// The statuses of a recovery.
const (
	RecoveryFencing  RecoveryStatus = "fencing"    // making sure that the host runs nothing any more
	RecoveryBlocked  RecoveryStatus = "blocked"    // it cannot be made sure; a person is asked (Recovery.Reason)
	RecoveryRunning  RecoveryStatus = "running"    // its servers are being started elsewhere
	RecoveryDone     RecoveryStatus = "done"       // every server has an outcome; at least one may have failed
	RecoveryCalled   RecoveryStatus = "called-off" // the host was heard again before anything was started elsewhere
	RecoveryReturned RecoveryStatus = "returned"   // done, and the host is back, clean and enabled
)

// Final reports whether nothing is to be done for the recovery any more.
func (s RecoveryStatus) Final() bool { return s == RecoveryCalled || s == RecoveryReturned }

// Recovery is what was done about one dead host, from the verdict to its return. The leader owns it.
type Recovery struct {
	ID       RecoveryID       `json:"id"`
	Host     HostName         `json:"host"`
	Status   RecoveryStatus   `json:"status"`
	Evidence []string         `json:"evidence"`           // of the verdict it began with
	Silent   time.Time        `json:"silent,omitzero"`    // when the host was last heard
	Fence    string           `json:"fence,omitempty"`    // what proves that the host runs nothing any more
	Fenced   bool             `json:"fenced,omitempty"`   // Fence proves it for the whole host; else each server rests on its own disks' fence
	Reason   string           `json:"reason,omitempty"`   // why it is blocked or was called off
	Allowed  bool             `json:"allowed,omitempty"`  // an operator let it go on past the brake
	Disabled bool             `json:"disabled,omitempty"` // this recovery disabled the host, and enables it again
	Servers  []RecoveryServer `json:"servers,omitempty"`
	Began    time.Time        `json:"began"`
	Ended    time.Time        `json:"ended,omitzero"` // when the last server had an outcome
	Updated  time.Time        `json:"updated"`
}

// RecoveryOutcome is what became of one server of a dead host.
type RecoveryOutcome string

// The outcomes. A server without one waits.
const (
	RecoveryWaiting   RecoveryOutcome = "waiting"
	RecoveryMoving    RecoveryOutcome = "moving"
	RecoveryRecovered RecoveryOutcome = "recovered"
	RecoveryFailed    RecoveryOutcome = "failed"
	RecoveryLeft      RecoveryOutcome = "left" // not to be recovered, or not possible without a person
)

// RecoveryServer is one server's part in a recovery.
type RecoveryServer struct {
	Server    ServerID        `json:"server"`
	Priority  int             `json:"priority"`
	Outcome   RecoveryOutcome `json:"outcome"`
	Reason    string          `json:"reason,omitempty"`
	Migration MigrationID     `json:"migration,omitempty"`
	Target    HostName        `json:"target,omitempty"`
	Attempts  int             `json:"attempts,omitempty"` // evacuations begun
	Began     time.Time       `json:"began,omitzero"`
	Ended     time.Time       `json:"ended,omitzero"`
}

// Settled reports whether nothing is to be done for the server any more.
func (s *RecoveryServer) Settled() bool {
	return s.Outcome == RecoveryRecovered || s.Outcome == RecoveryFailed || s.Outcome == RecoveryLeft
}

// Settled reports whether every server has its outcome.
func (r *Recovery) Settled() bool {
	for i := range r.Servers {
		if !r.Servers[i].Settled() {
			return false
		}
	}
	return true
}

// RecoveryPermit is an operator's word that a host may be recovered although the brake is on. It ends when the host is heard again.
type RecoveryPermit struct {
	Host HostName  `json:"host"`
	User UserID    `json:"user"`
	At   time.Time `json:"at"`
}

// The keys of server metadata that say what is to become of a server whose host dies. A flavor's extra specs of the same names say it for all its
// servers; the server's own word counts more.
const (
	MetaRecovery         = "godwit:recovery"          // "on" or "off"
	MetaRecoveryPriority = "godwit:recovery_priority" // integer; larger first
	MetaRecoveryAfter    = "godwit:recovery_after"    // ids or names of servers of the same project, separated by commas
	// MetaRecoveryRebuild says with "on" that a root disk lost with its host may be made anew from its image without anybody asking.
	MetaRecoveryRebuild = "godwit:recovery_rebuild"
)

// recoveryPriorityMax bounds priorities; a larger number is read as this.
const recoveryPriorityMax = 1000

// RecoveryPolicy is what one server's owner, or its flavor, wants when its host dies.
type RecoveryPolicy struct {
	// Mode is "on", "off", or empty when nobody said; the cloud's setting counts then.
	Mode     string
	Priority int
	After    []string // ids or names
	Rebuild  bool
}

// Wanted reports whether the server is to be recovered, where byDefault is the cloud's setting for servers that say nothing.
func (p RecoveryPolicy) Wanted(byDefault bool) bool {
	switch p.Mode {
	case "on":
		return true
	case "off":
		return false
	}
	return byDefault
}

// RecoveryPolicy returns what is wanted for the server. Words that make no sense count as unsaid: the edge takes any metadata.
func (s *Server) RecoveryPolicy() RecoveryPolicy {
	said := func(key string) string {
		return strings.ToLower(strings.TrimSpace(cmp.Or(s.Metadata[key], s.Flavor.ExtraSpecs[key])))
	}
	p := RecoveryPolicy{Rebuild: said(MetaRecoveryRebuild) == "on"}
	if mode := said(MetaRecovery); mode == "on" || mode == "off" {
		p.Mode = mode
	}
	if n, err := strconv.Atoi(said(MetaRecoveryPriority)); err == nil {
		p.Priority = max(-recoveryPriorityMax, min(n, recoveryPriorityMax))
	}
	for after := range strings.SplitSeq(s.Metadata[MetaRecoveryAfter], ",") { // of one server, never of a flavor
		if after = strings.TrimSpace(after); after != "" {
			p.After = append(p.After, after)
		}
	}
	return p
}

// Describe says in one line where the recovery stands.
func (r *Recovery) Describe() string {
	done := 0
	for i := range r.Servers {
		if r.Servers[i].Outcome == RecoveryRecovered {
			done++
		}
	}
	line := fmt.Sprintf("%s: %d of %d servers run elsewhere", r.Status, done, len(r.Servers))
	if r.Reason != "" {
		line += ": " + r.Reason
	}
	return line
}

// NotKnownToBeOff is the refusal to start a server a second time while its host, whose agent is silent, may run it: KindConflict, with what an operator can say.
func NotKnownToBeOff(host HostName) error {
	return Errorf(KindConflict, "nothing proves that host %s is off, and it may still run the server: it has no BMC (godwit hosts bmc set). "+
		"If you know that it is off, say so (openstack compute service set --down %s nova-compute) and evacuate again", host, host)
}
