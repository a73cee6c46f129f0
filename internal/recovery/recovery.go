package recovery

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Policy are the operator's settings.
type Policy struct {
	Automatic      bool          // servers that do not say are recovered
	ConcurrencyMax int           // servers that are moved at a time, in all
	AttemptsMax    int           // evacuations tried for one server
	RetryAfter     time.Duration // between two tries
	SelfFenceAfter time.Duration // after this without contact an agent that fences itself has begun to stop its guests; 0: none does
	Margin         time.Duration // what stopping takes, and how far two clocks drift apart in that time
}

// Default are bounds that suit small clouds: each evacuation is mostly its guest's boot, and more at a time than hosts have cores makes all slower.
func Default() Policy {
	return Policy{Automatic: true, ConcurrencyMax: 8, AttemptsMax: 3, RetryAfter: 10 * time.Second, SelfFenceAfter: 20 * time.Second, Margin: 10 * time.Second}
}

// Fence is what is known of the host's power.
type Fence struct {
	Known bool   // the host has a BMC
	Off   bool   // it is off, by the BMC's word
	Proof string // what says so
	Error string // why the last attempt confirmed nothing; empty while none has ended
}

// Life is what is known of the host's life.
type Life struct {
	Verdict  string        // of package liveness: "alive", "suspect", "dead"
	Evidence []string      // for it
	Silent   time.Time     // when it was last heard; zero: it is heard now, or nobody has listened long enough to say
	Silence  time.Duration // how long nothing was heard, by a monotonic clock
	// LeaseAge is how long ago its lease on shared storage was last seen to change; it counts only with HasLease.
	LeaseAge time.Duration
	HasLease bool
	Fencing  bool // its agent fences itself
	// Reported says that it is called dead on a monitor's word alone so far.
	Reported bool
}

// Server is one server of the host, or one that the recovery knows.
type Server struct {
	Record    *cloud.Server    // nil: it is gone
	Migration *cloud.Migration // of its RecoveryServer.Migration; nil: none or pruned
	Guarded   bool             // every disk of it is refused to the old copy when it is opened elsewhere
	Shared    bool             // its root disk is in a directory that another host has too
	Leftover  bool             // the host, which is heard again, still has something of it
}

// Case is all that may be known of one dead host.
type Case struct {
	Recovery cloud.Recovery
	Host     cloud.Host
	Life     Life
	Fence    Fence
	Servers  map[cloud.ServerID]Server // those on the host and those in the record
	Names    func(cloud.ProjectID, string) cloud.ServerID
	Moving   int  // servers of other recoveries that are being moved now
	Told     bool // since it came back the host has said all that it has
	Now      time.Time
}

// Order asks for one server's evacuation.
type Order struct {
	Server  cloud.ServerID
	Proof   string // what keeps the old copy from harm
	Rebuild bool   // its root disk is made anew
	Shared  bool   // its root disk is in a directory that the target must have too
	// Intent is the intent's id and Event the first of the server's action; empty: control makes one, and there is none.
	Intent cloud.IntentID
	Event  *cloud.ActionEvent
}

// Step is what to do now.
type Step struct {
	Recovery cloud.Recovery // as it is to be recorded
	Changed  bool           // it differs from the case's
	Orders   []Order        // to be written together with the record
	Fence    bool           // ask the BMC to turn the host off
	Enable   bool           // the host may take servers again
	Disable  bool           // it must not
	Alarm    string         // what a person must know; empty: nothing
}

// Words of package liveness.
const (
	alive = "alive"
	dead  = "dead"
)

// DisabledReason is what a host says that a recovery has disabled.
const DisabledReason = "it was found dead; it is enabled again when it has returned and cleaned up"

// Next decides the next step of a recovery.
func Next(p Policy, c Case) Step {
	d := decision{Policy: p, Case: c, step: Step{Recovery: c.Recovery}}
	d.step.Recovery.Servers = slices.Clone(c.Recovery.Servers)
	r := &d.step.Recovery
	if r.Status.Final() {
		return d.step
	}
	d.follow()
	switch {
	case c.Life.Verdict == alive:
		d.returned()
	case c.Life.Verdict == dead && r.Status != cloud.RecoveryDone:
		d.recover()
	case r.Status == cloud.RecoveryDone && c.Life.Verdict == dead:
		d.recover() // a server may have come to it since, by a run that was in doubt
	}
	d.step.Changed = !equal(&c.Recovery, r)
	if d.step.Changed {
		r.Updated = c.Now
	}
	return d.step
}

type decision struct {
	Policy
	Case
	step Step
}

// follow notes what became of evacuations under way.
func (d *decision) follow() {
	for i := range d.step.Recovery.Servers {
		s := &d.step.Recovery.Servers[i]
		if s.Outcome != cloud.RecoveryMoving {
			continue
		}
		known := d.Servers[s.Server]
		m := known.Migration
		switch {
		case known.Record == nil:
			d.settle(s, cloud.RecoveryLeft, "the server is gone")
		case known.Record.Host != d.Host.Name && known.Record.Task != cloud.TaskRebuilding:
			s.Target = known.Record.Host
			d.settle(s, cloud.RecoveryRecovered, "")
		case m == nil || m.Status.Final() && known.Record.Task != cloud.TaskRebuilding:
			d.failed(s, m)
		case m != nil:
			s.Target = m.Target
		}
	}
}

// failed notes a failed try: another follows, unless there were enough.
func (d *decision) failed(s *cloud.RecoveryServer, m *cloud.Migration) {
	s.Reason = "the evacuation was lost"
	if m != nil {
		s.Reason = cmp.Or(m.Error, "the evacuation ended as "+string(m.Status))
	}
	s.Ended = d.Now
	s.Outcome = cloud.RecoveryWaiting
	if s.Attempts >= d.AttemptsMax {
		s.Outcome = cloud.RecoveryFailed
		d.step.Alarm = fmt.Sprintf("server %s of dead host %s could not be started elsewhere: %s", s.Server, d.Host.Name, s.Reason)
	}
}

func (d *decision) settle(s *cloud.RecoveryServer, o cloud.RecoveryOutcome, reason string) {
	s.Outcome, s.Reason, s.Ended = o, reason, d.Now
}

// returned deals with a host that is heard again.
func (d *decision) returned() {
	r := &d.step.Recovery
	touched, moving, leftover := false, false, false
	for i := range r.Servers {
		s := &r.Servers[i]
		switch s.Outcome {
		case cloud.RecoveryWaiting:
			d.settle(s, cloud.RecoveryLeft, "the host returned first")
		case cloud.RecoveryMoving:
			moving = true
		case cloud.RecoveryRecovered, cloud.RecoveryFailed, cloud.RecoveryLeft: // settled
		}
		touched = touched || s.Attempts > 0
		leftover = leftover || s.Outcome == cloud.RecoveryRecovered && d.Servers[s.Server].Leftover
	}
	switch {
	case moving:
		r.Reason = "the host is back; what was begun is finished first"
	case !touched:
		d.close(cloud.RecoveryCalled, "the host was heard again before anything was started elsewhere")
	case !d.Told || leftover:
		r.Status, r.Reason = cloud.RecoveryDone, "the host is back and has yet to remove what it no longer owns"
	default:
		d.close(cloud.RecoveryReturned, "the host is back and clean")
	}
	if r.Ended.IsZero() && !moving {
		r.Ended = d.Now
	}
}

func (d *decision) close(status cloud.RecoveryStatus, reason string) {
	r := &d.step.Recovery
	r.Status, r.Reason = status, reason
	d.step.Enable = r.Disabled && d.Host.Disabled && d.Host.DisabledReason == DisabledReason
}

// recover goes on with a host that is dead.
func (d *decision) recover() {
	r := &d.step.Recovery
	if !d.Host.Disabled && !r.Disabled {
		r.Disabled, d.step.Disable = true, true
	}
	d.prove()
	d.enlist()
	d.order()
	waiting, why := d.waiting()
	switch {
	case r.Settled():
		r.Status, r.Reason = cloud.RecoveryDone, ""
		if r.Ended.IsZero() {
			r.Ended = d.Now
		}
	case waiting && why != "":
		r.Status, r.Reason = cloud.RecoveryBlocked, why
		d.step.Alarm = cmp.Or(d.step.Alarm, fmt.Sprintf("the recovery of host %s is blocked: %s", d.Host.Name, why))
	case r.Fenced || len(r.Servers) > 0 && r.Fence != "":
		r.Status, r.Reason = cloud.RecoveryRunning, ""
	default:
		r.Status, r.Reason = cloud.RecoveryFencing, ""
	}
	if !r.Settled() {
		r.Ended = time.Time{}
	}
}

// prove notes what is known of the host's being off, and asks the BMC while nothing is.
func (d *decision) prove() {
	r := &d.step.Recovery
	switch {
	case r.Fenced:
		return
	case d.Fence.Off:
		r.Fence, r.Fenced = d.Fence.Proof, true
	case d.Host.ForcedDown:
		r.Fence, r.Fenced = "an operator says that host "+string(d.Host.Name)+" is down", true
	case !d.Fence.Known:
		r.Fence = "the host has no BMC: each server rests on what keeps its own disks"
	default:
		d.step.Fence = true
		r.Fence = ""
		if d.Fence.Error != "" {
			r.Fence = "not off by its BMC's word: " + d.Fence.Error
		}
	}
}

// enlist adds the host's servers to the record.
func (d *decision) enlist() {
	r := &d.step.Recovery
	known := map[cloud.ServerID]int{}
	for i := range r.Servers {
		known[r.Servers[i].Server] = i
	}
	ids := make([]cloud.ServerID, 0, len(d.Servers))
	for id := range d.Servers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		s := d.Servers[id].Record
		if _, listed := known[id]; listed || s == nil || s.Host != d.Host.Name {
			continue
		}
		entry := cloud.RecoveryServer{Server: id, Outcome: cloud.RecoveryWaiting}
		policy := s.RecoveryPolicy()
		entry.Priority = policy.Priority
		if why := Unwanted(s, d.Servers[id].Shared, d.Automatic); why != "" {
			d.settle(&entry, cloud.RecoveryLeft, why)
		}
		r.Servers = append(r.Servers, entry)
	}
}

// Unwanted returns why a server is not started elsewhere when its host dies: its owner, or the cloud's setting for owners who say nothing, does not want
// it, or its root disk is on that host alone. Empty: it is recovered. shared says that its root disk is in a directory that another host has too.
func Unwanted(s *cloud.Server, shared, automatic bool) string {
	policy := s.RecoveryPolicy()
	switch {
	case !policy.Wanted(automatic):
		return "it is not to be recovered"
	case s.RootDevice() == nil && !shared && (!policy.Rebuild || s.Image == ""):
		return "its root disk is on the dead host alone, and nobody said that it may be made anew from its image (" + cloud.MetaRecoveryRebuild + "=on)"
	}
	return ""
}

// order picks the servers to be moved now.
func (d *decision) order() {
	r := &d.step.Recovery
	moving := d.Moving
	queue := make([]*cloud.RecoveryServer, 0, len(r.Servers))
	for i := range r.Servers {
		switch r.Servers[i].Outcome {
		case cloud.RecoveryMoving:
			moving++
		case cloud.RecoveryWaiting:
			queue = append(queue, &r.Servers[i])
		case cloud.RecoveryRecovered, cloud.RecoveryFailed, cloud.RecoveryLeft: // settled
		}
	}
	slices.SortStableFunc(queue, d.before)
	for _, s := range queue {
		known := d.Servers[s.Server]
		if known.Record == nil {
			d.settle(s, cloud.RecoveryLeft, "the server is gone")
			continue
		}
		if known.Record.Host != d.Host.Name {
			s.Target = known.Record.Host
			d.settle(s, cloud.RecoveryRecovered, "it was moved by somebody else")
			continue
		}
		proof, why := d.proofFor(known)
		why = cmp.Or(d.unfit(s, known.Record), why, d.awaited(known.Record))
		if why == "" && moving >= d.ConcurrencyMax {
			why = waitTurn
		}
		if s.Reason = cmp.Or(why, s.Reason); why != "" {
			continue
		}
		moving++
		s.Outcome, s.Reason, s.Attempts, s.Ended, s.Migration = cloud.RecoveryMoving, "", s.Attempts+1, time.Time{}, ""
		if s.Began.IsZero() {
			s.Began = d.Now
		}
		local := known.Record.RootDevice() == nil
		d.step.Orders = append(d.step.Orders, Order{Server: s.Server, Proof: proof, Rebuild: local && !known.Shared, Shared: local && known.Shared})
	}
}

// lookedMax is how long the cluster's own evidence is waited for after a monitor's word; it is whole after 3 to 5 s unless nobody can look.
const lookedMax = 10 * time.Second

// The reasons to wait that pass by themselves; any other blocks.
const (
	waitTurn  = "others are being moved"
	waitTask  = "something else is being done to it"
	waitAfter = "it waits for "
	waitRetry = "it is tried again soon"
	waitLease = "the host's own stopping of it is waited for"
	waitFence = "the host is being turned off"
	waitLook  = "a monitor says that the host stopped, and the cluster looks for itself"
	waitState = "it is in a state from which it cannot be recovered now: "
)

func (d *decision) before(a, b *cloud.RecoveryServer) int {
	x, y := d.Servers[a.Server].Record, d.Servers[b.Server].Record
	if x == nil || y == nil {
		return 0
	}
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), Compare(x, y))
}

// Compare orders the servers of a dead host as they are recovered: by priority, larger first; running ones before stopped ones; older ones first.
func Compare(a, b *cloud.Server) int {
	stopped := func(s *cloud.Server) int {
		if s.VMState == cloud.VMActive {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(b.RecoveryPolicy().Priority, a.RecoveryPolicy().Priority), cmp.Compare(stopped(a), stopped(b)), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
}

// unfit returns why nothing may be begun with the server now.
func (d *decision) unfit(s *cloud.RecoveryServer, record *cloud.Server) string {
	switch {
	case record.Task != cloud.TaskNone:
		return waitTask
	case record.VMState != cloud.VMActive && record.VMState != cloud.VMStopped && record.VMState != cloud.VMError:
		return waitState + string(record.VMState)
	case s.Attempts > 0 && d.Now.Sub(s.Ended) < d.RetryAfter:
		return waitRetry
	}
	return ""
}

// proofFor returns what keeps the server's old copy from harm, or why nothing does yet.
func (d *decision) proofFor(s Server) (proof, why string) {
	r := &d.step.Recovery
	since := min(d.Life.Silence, d.Life.LeaseAge)
	stopsItself := d.Life.Fencing && d.Life.HasLease && d.SelfFenceAfter > 0 && s.Shared
	switch {
	case r.Fenced:
		return r.Fence, ""
	case s.Guarded && !d.Life.Reported:
		return "its volumes refuse all writers but the newest", ""
	case stopsItself && since >= d.SelfFenceAfter+d.Margin:
		return fmt.Sprintf("host %s was not heard, and did not renew its lease, for %.0f s, and stops such servers itself after %.0f s", d.Host.Name, since.Seconds(), d.SelfFenceAfter.Seconds()), ""
	case stopsItself:
		return "", waitLease
	case d.Fence.Known && d.Fence.Error == "":
		return "", waitFence
	case d.Fence.Known:
		return "", "nothing proves that the host is off: " + d.Fence.Error
	case d.Life.Reported && d.Life.Silence < lookedMax:
		return "", waitLook
	}
	return "", "nothing proves that the host is off: it has no BMC (godwit hosts bmc set), and nobody said that it is down (forced down)"
}

// awaited names a server that this one is to come after and that has no outcome yet.
func (d *decision) awaited(s *cloud.Server) string {
	for _, name := range s.RecoveryPolicy().After {
		id := d.resolve(s.Project, name)
		if d.pending(id) && !d.waitsFor(id, s.ID, map[cloud.ServerID]bool{}) {
			return waitAfter + name
		}
	}
	return ""
}

func (d *decision) resolve(project cloud.ProjectID, name string) cloud.ServerID {
	if _, ok := d.Servers[cloud.ServerID(name)]; ok || d.Names == nil {
		return cloud.ServerID(name)
	}
	return d.Names(project, name)
}

// pending reports whether the server is part of this recovery and has no outcome.
func (d *decision) pending(id cloud.ServerID) bool {
	return slices.ContainsFunc(d.step.Recovery.Servers, func(s cloud.RecoveryServer) bool { return s.Server == id && !s.Settled() })
}

// waitsFor reports whether server id comes, by any number of steps, after the other: then neither waits for the other.
func (d *decision) waitsFor(id, other cloud.ServerID, seen map[cloud.ServerID]bool) bool {
	if id == other {
		return true
	}
	s := d.Servers[id].Record
	if s == nil || seen[id] {
		return false
	}
	seen[id] = true
	for _, name := range s.RecoveryPolicy().After {
		if d.waitsFor(d.resolve(s.Project, name), other, seen) {
			return true
		}
	}
	return false
}

// waiting reports whether servers wait while none is being moved, and for what a person would have to see to; nothing when it passes by itself.
func (d *decision) waiting() (waiting bool, why string) {
	for i := range d.step.Recovery.Servers {
		s := &d.step.Recovery.Servers[i]
		if s.Outcome == cloud.RecoveryMoving {
			return false, ""
		}
		if s.Outcome != cloud.RecoveryWaiting {
			continue
		}
		waiting = true
		if !passes(s.Reason) && why == "" {
			why = s.Reason
		}
	}
	return waiting, why
}

func passes(reason string) bool {
	for _, prefix := range []string{waitTurn, waitTask, waitAfter, waitRetry, waitLease, waitFence, waitLook, waitState} {
		if len(reason) >= len(prefix) && reason[:len(prefix)] == prefix {
			return true
		}
	}
	return reason == ""
}

// equal compares two records but for when they were written.
func equal(a, b *cloud.Recovery) bool {
	return a.Status == b.Status && a.Fence == b.Fence && a.Fenced == b.Fenced && a.Reason == b.Reason && a.Allowed == b.Allowed && a.Disabled == b.Disabled &&
		a.Ended.Equal(b.Ended) && slices.EqualFunc(a.Servers, b.Servers, func(x, y cloud.RecoveryServer) bool {
		return x.Outcome == y.Outcome && x.Reason == y.Reason && x.Migration == y.Migration && x.Target == y.Target && x.Attempts == y.Attempts && x.Priority == y.Priority &&
			x.Server == y.Server && x.Began.Equal(y.Began) && x.Ended.Equal(y.Ended)
	})
}
