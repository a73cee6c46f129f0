package hostagent

import (
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Kind is what a request asks of one server.
type Kind uint8

// The kinds of requests that change a server. Inspect and Console change nothing and do not pass the gate.
const (
	KindPrepare Kind = iota
	KindStart
	KindStop
	KindReboot
	KindMigrate
	KindSteer
	KindAdopt
	KindDiscard
	KindUpdate
	KindAttach
	KindDetach
	KindResize
	KindExport

	kindCount
)

var kindNames = [kindCount]string{"prepare", "start", "stop", "reboot", "migrate", "steer", "adopt", "discard", "update", "attach volume", "detach volume", "resize volume", "export disk"}

// String returns the kind's name.
func (k Kind) String() string {
	if k < kindCount {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Request is what the gate must know of a request.
type Request struct {
	Kind       Kind
	Generation int64
	Migration  cloud.MigrationID // of Migrate and Steer
}

// Action is what becomes of a request.
type Action uint8

// The actions.
const (
	Queue  Action = iota // it is taken; Done must be called when it has been worked off
	Ignore               // there is nothing to do: answer with success
	Deny                 // it is refused; Verdict.Kind and Reason say why
)

// Verdict is the gate's answer.
type Verdict struct {
	Action Action
	Kind   cloud.Kind
	Reason string
}

// Err returns a denial as an error, nil otherwise.
func (v Verdict) Err() error {
	if v.Action != Deny {
		return nil
	}
	return cloud.Errorf(v.Kind, "%s", v.Reason)
}

// queueMax bounds the requests that wait for one server. Its flows are serialised, so more than one waits only after lost connections
// and steering; many waiting ones mean that its loop hangs, and then more of them do not help.
const queueMax = 16

// Gate decides which requests for one server are let in. It is pure: no clock, no lock, no I/O. Its owner serialises calls.
//
// The generation law: a request that was decided before the newest one accepted is refused, whatever it asks, because the decision it
// carries is outdated. The same generation again is a repeat, which the loop carries out idempotently.
type Gate struct {
	accepted int64             // greatest generation let in; never falls
	queued   int               // requests let in and not Done; 0..queueMax
	moving   cloud.MigrationID // migration that is leaving, from MoveBegan to MoveEnded
	last     cloud.MigrationID // the last one that ended
}

// NewGate returns the gate of a server whose greatest accepted generation is known from an earlier life.
func NewGate(accepted int64, last cloud.MigrationID) Gate {
	return Gate{accepted: accepted, last: last}
}

// Restore raises the accepted generation to one that was found elsewhere than in the journal.
func (g *Gate) Restore(accepted int64) { g.accepted = max(g.accepted, accepted) }

// Accepted returns the greatest generation let in.
func (g *Gate) Accepted() int64 { return g.accepted }

// Moving returns the migration that is leaving, empty when there is none.
func (g *Gate) Moving() cloud.MigrationID { return g.moving }

// Offer decides about a request.
func (g *Gate) Offer(r Request) Verdict {
	if r.Generation < g.accepted {
		return deny(cloud.KindStale, "stale generation: have %d, got %d", g.accepted, r.Generation)
	}
	if v := g.fits(r); v.Action != Queue {
		return v
	}
	if g.queued == queueMax {
		return deny(cloud.KindUnavailable, "%d requests are waiting already", queueMax)
	}
	g.queued++
	g.accepted = r.Generation
	return Verdict{Action: Queue}
}

// fits decides by the migration in progress.
func (g *Gate) fits(r Request) Verdict {
	switch r.Kind {
	case KindSteer:
		switch r.Migration {
		case "":
			return deny(cloud.KindInvalid, "steer names no migration")
		case g.moving:
			return Verdict{Action: Queue}
		case g.last:
			return Verdict{Action: Ignore} // it has ended; its outcome is what Migrate returns
		}
		return deny(cloud.KindConflict, "migration %s is not in progress", r.Migration)
	case KindMigrate:
		if r.Migration == "" {
			return deny(cloud.KindInvalid, "migrate names no migration")
		}
		if g.moving != "" && g.moving != r.Migration {
			return deny(cloud.KindConflict, "migration %s is in progress", g.moving)
		}
	case KindPrepare, KindStart, KindStop, KindReboot, KindAdopt, KindAttach, KindDetach, KindResize, KindExport:
		if g.moving != "" {
			return deny(cloud.KindConflict, "cannot %s: migration %s is in progress", r.Kind, g.moving)
		}
	case KindDiscard, KindUpdate: // the loop looks at where the CPUs run
	case kindCount: // no kind
	}
	return Verdict{Action: Queue}
}

// Done tells that a queued request has been worked off, well or not.
func (g *Gate) Done() {
	if g.queued == 0 {
		panic("hostagent: gate: Done without a queued request")
	}
	g.queued--
}

// Idle reports whether nothing is queued and nothing moves.
func (g *Gate) Idle() bool { return g.queued == 0 && g.moving == "" }

// MoveBegan tells that migration id is leaving from now on.
func (g *Gate) MoveBegan(id cloud.MigrationID) { g.moving = id }

// MoveEnded tells that the migration that was leaving has ended, well or not.
func (g *Gate) MoveEnded() {
	if g.moving != "" {
		g.last, g.moving = g.moving, ""
	}
}

func deny(kind cloud.Kind, format string, args ...any) Verdict {
	return Verdict{Action: Deny, Kind: kind, Reason: fmt.Sprintf(format, args...)}
}
