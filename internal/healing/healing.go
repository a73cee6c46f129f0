package healing

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Rule bounds the attempts for one kind of failure.
type Rule struct {
	InPlaceMax   int // restarts on its own host within the window
	ElsewhereMax int // starts on another host within the window
}

// Policy is what the operator wants.
type Policy struct {
	Automatic    bool // servers that do not say are healed
	Rule         Rule // for failures that By does not name
	By           map[cloud.GuestFailure]Rule
	Window       time.Duration // in which attempts are counted
	BackoffFirst time.Duration // before the second attempt; the first is made at once
	BackoffMax   time.Duration // each pause is twice the one before, up to this
}

// Default restarts three times within an hour and then once elsewhere. A disk that keeps failing is not made better by the second restart.
func Default() Policy {
	return Policy{
		Automatic: true, Rule: Rule{InPlaceMax: 3, ElsewhereMax: 1}, By: map[cloud.GuestFailure]Rule{cloud.FailureIOError: {InPlaceMax: 1, ElsewhereMax: 1}},
		Window: time.Hour, BackoffFirst: 10 * time.Second, BackoffMax: 5 * time.Minute,
	}
}

// rule returns what holds for a failure.
func (p Policy) rule(f cloud.GuestFailure) Rule {
	if r, ok := p.By[f]; ok {
		return r
	}
	return p.Rule
}

// backoff returns the pause before the attempt that follows n others.
func (p Policy) backoff(n int) time.Duration {
	if n == 0 {
		return 0
	}
	pause := p.BackoffFirst
	for range n - 1 {
		if pause *= 2; pause >= p.BackoffMax {
			return p.BackoffMax
		}
	}
	return min(pause, p.BackoffMax)
}

// Case is all that may be known of one server.
type Case struct {
	Server cloud.Server
	// Seen is what the server's host, connected now, says of it; nil: nothing, or it is not connected.
	Seen *cloud.ServerObservation
	// Healing is the record; nil when there is none.
	Healing *cloud.Healing
	// Busy says that an intent or an unfinished migration concerns the server.
	Busy bool
	// Reported is a VM notification from outside that nobody has looked at; nil: none.
	Reported *cloud.Notification
	// Excused says why failures on the server's host are not recovered; empty: they are.
	Excused string
	// Portable says that the server can be started on another host with its disks; Why is the reason when it cannot.
	Portable bool
	Why      string
	Now      time.Time
}

// Act is what to do.
type Act string

// The acts.
const (
	Nothing   Act = ""
	Restart   Act = "restart"   // a hard reboot on its own host
	Elsewhere Act = "elsewhere" // end what is left of it on its host, then start it on another
)

// Step is what to do now.
type Step struct {
	Act     Act
	Healing cloud.Healing // as it is to be recorded; the attempt's intent is to be filled in
	Changed bool          // it differs from the case's
	Again   time.Time     // when to ask again even if nothing changes; zero: when something does
	Alarm   string        // what a person must know; empty: nothing
}

// Next decides.
func Next(p Policy, c Case) Step {
	d := decision{Policy: p, Case: c}
	if c.Healing != nil {
		d.h = *c.Healing
		d.h.Tries = slices.Clone(c.Healing.Tries)
	}
	switch {
	case d.fresh():
		d.begin()
	case c.Healing == nil:
		return Step{}
	}
	switch d.h.Status {
	case cloud.HealRestarting, cloud.HealMoving:
		d.follow()
	case cloud.HealWaiting, cloud.HealGaveUp:
		if d.over() {
			d.settle(cloud.HealDone, "the failure is over without an attempt of the cluster's")
		}
	case cloud.HealLeft:
		if d.h.Failure == cloud.FailureNoSpace && d.over() {
			d.settle(cloud.HealDone, "there is room again, and it goes on")
		}
	case cloud.HealDone:
	}
	if d.h.Status == cloud.HealWaiting {
		d.attempt()
	}
	d.step.Changed = c.Healing == nil || !same(c.Healing, &d.h)
	if d.step.Changed {
		d.h.Updated = c.Now
	}
	d.step.Healing = d.h
	return d.step
}

type decision struct {
	Policy
	Case
	h    cloud.Healing
	step Step
}

// failing reports whether the server's host tells of a failure now.
func (d *decision) failing() bool {
	return d.Seen != nil && d.Seen.Host == d.Server.Host && d.Seen.Failure != cloud.FailureNone && d.Seen.FailureNumber > 0
}

// fresh reports whether there is a failure that the record does not know, and nothing under way about an older one.
func (d *decision) fresh() bool {
	if d.h.Status == cloud.HealRestarting || d.h.Status == cloud.HealMoving {
		return false
	}
	if d.failing() && (d.h.Host != d.Seen.Host || d.h.Number != d.Seen.FailureNumber) {
		return true
	}
	return d.Reported != nil && d.Reported.ID != d.h.Notification
}

// begin makes the record about the new failure.
func (d *decision) begin() {
	tries := slices.DeleteFunc(d.h.Tries, func(t cloud.HealAttempt) bool { return d.Now.Sub(t.At) > d.Window })
	h := cloud.Healing{Server: d.Server.ID, Host: d.Server.Host, Seen: d.Now, Tries: tries, Status: cloud.HealWaiting}
	if d.Seen != nil && d.Seen.Host == d.Server.Host {
		h.Number = d.Seen.FailureNumber
	}
	switch {
	case d.failing():
		h.Failure, h.Detail = d.Seen.Failure, d.Seen.FailureDetail
		if !d.Seen.FailureAt.IsZero() {
			h.Seen = d.Seen.FailureAt
		}
	default:
		h.Failure, h.Detail = cloud.FailureReported, "a monitor reported it"
	}
	if d.Reported != nil {
		h.Notification = d.Reported.ID
	}
	d.h = h
	if wanted, said := d.Server.HealWanted(d.Automatic); !wanted {
		d.settle(cloud.HealLeft, "it is not to be healed: "+said)
	} else if d.Excused != "" {
		d.settle(cloud.HealLeft, d.Excused)
	} else if d.h.Failure == cloud.FailureNoSpace {
		d.settle(cloud.HealLeft, "it stands still for want of room and goes on when there is some: a restart would make none and lose what it holds")
		d.step.Alarm = fmt.Sprintf("server %s on host %s stands still: there is no room for what it writes", d.Server.ID, d.Server.Host)
	} else if why := d.needless(); why != "" {
		d.settle(cloud.HealLeft, why)
	}
}

// needless returns why there is nothing to do about the new failure, empty when there is.
func (d *decision) needless() string {
	switch d.Server.VMState {
	case cloud.VMActive, cloud.VMStopped, cloud.VMPaused, cloud.VMError:
	default:
		return "it is " + string(d.Server.VMState) + ": its owner decides"
	}
	switch {
	case d.h.Failure == cloud.FailureWatchdog && d.Seen.Power == cloud.PowerRunning:
		return "its watchdog device has already done what its owner asked for, and it runs"
	case d.h.Failure == cloud.FailureReported && d.Server.VMState == cloud.VMStopped:
		return "it was shut down, and its host knows of no failure"
	case d.h.Failure == cloud.FailureReported && d.Server.VMState == cloud.VMPaused:
		return "it is paused, and its host knows of no failure"
	}
	return ""
}

// over reports whether the failure ended, by the host's word: somebody has decided about the server, or it goes on by itself.
func (d *decision) over() bool {
	if d.Busy || d.Seen == nil || d.h.Failure == cloud.FailureReported {
		return false
	}
	return d.Server.Host != d.h.Host || d.Seen.Host == d.h.Host && (d.Seen.FailureNumber != d.h.Number || d.Seen.Failure == cloud.FailureNone)
}

// follow looks whether the attempt under way has ended, and how.
func (d *decision) follow() {
	if d.Busy || d.Server.Task != cloud.TaskNone || len(d.h.Tries) == 0 {
		return
	}
	try := &d.h.Tries[len(d.h.Tries)-1]
	try.Ended, d.h.Intent = d.Now, ""
	moved := d.h.Status == cloud.HealMoving
	failed := d.Server.Fault != nil && !d.Server.Fault.Created.Before(try.At) || moved && d.Server.Host == d.h.Host || d.Server.VMState != cloud.VMActive
	switch {
	case !failed && moved:
		d.settle(cloud.HealDone, fmt.Sprintf("it runs on host %s", d.Server.Host))
	case !failed:
		d.settle(cloud.HealDone, "it was restarted")
	default:
		try.Error = "the attempt failed"
		if f := d.Server.Fault; f != nil && !f.Created.Before(try.At) {
			try.Error = f.Message
		}
		d.h.Status = cloud.HealWaiting
		if d.failing() { // what the attempt left behind is this failure still
			d.h.Number = d.Seen.FailureNumber
		}
	}
}

// attempt makes the next attempt if it is time, or gives up.
func (d *decision) attempt() {
	inPlace, elsewhere, last := d.tries()
	rule := d.rule(d.h.Failure)
	act := Restart
	switch {
	case inPlace < rule.InPlaceMax:
	case elsewhere < rule.ElsewhereMax && d.Portable:
		act = Elsewhere
	default:
		d.giveUp(inPlace, elsewhere)
		return
	}
	d.h.Next = later(d.h.Seen, last.Add(d.backoff(inPlace+elsewhere)))
	switch {
	case d.Busy || d.Server.Task != cloud.TaskNone:
		d.h.Reason = "somebody works on it; that comes first"
	case d.Seen == nil:
		d.h.Reason = "its host is not connected"
	case d.Now.Before(d.h.Next):
		d.h.Reason = fmt.Sprintf("attempt %d follows after a pause of %s", inPlace+elsewhere+1, d.backoff(inPlace+elsewhere))
		d.step.Again = d.h.Next
	default:
		d.do(act, inPlace+elsewhere+1)
	}
}

func (d *decision) do(act Act, number int) {
	d.step.Act = act
	d.h.Tries = append(d.h.Tries, cloud.HealAttempt{At: d.Now, Failure: d.h.Failure, Elsewhere: act == Elsewhere, Host: d.Server.Host})
	if over := len(d.h.Tries) - cloud.HealTriesMax; over > 0 {
		d.h.Tries = slices.Delete(d.h.Tries, 0, over)
	}
	d.h.Next = time.Time{}
	d.h.Status, d.h.Reason = cloud.HealRestarting, fmt.Sprintf("attempt %d: it is restarted on host %s", number, d.Server.Host)
	if act == Elsewhere {
		d.h.Status, d.h.Reason = cloud.HealMoving, fmt.Sprintf("attempt %d: it is started on another host than %s", number, d.Server.Host)
	}
}

// tries counts the attempts in the window, and says when the last one ended; zero time when there was none.
func (d *decision) tries() (inPlace, elsewhere int, last time.Time) {
	for _, t := range d.h.Tries {
		if d.Now.Sub(t.At) > d.Window {
			continue
		}
		if t.Elsewhere {
			elsewhere++
		} else {
			inPlace++
		}
		last = later(last, later(t.At, t.Ended))
	}
	return inPlace, elsewhere, last
}

func (d *decision) giveUp(inPlace, elsewhere int) {
	why := fmt.Sprintf("it failed again after %d restarts on its host and %d starts elsewhere within %s", inPlace, elsewhere, d.Window)
	if !d.Portable && elsewhere < d.rule(d.h.Failure).ElsewhereMax {
		why += ", and cannot be started elsewhere: " + cmp.Or(d.Why, "its disks do not allow it")
	}
	d.settle(cloud.HealGaveUp, why)
	d.step.Alarm = fmt.Sprintf("server %s on host %s is not healed (%s): %s", d.Server.ID, d.Server.Host, d.h.Failure, why)
}

func (d *decision) settle(status cloud.HealStatus, reason string) {
	d.h.Status, d.h.Reason, d.h.Next, d.h.Intent = status, reason, time.Time{}, ""
}

// same reports whether a record needs no new writing.
func same(a, b *cloud.Healing) bool {
	return a.Host == b.Host && a.Number == b.Number && a.Failure == b.Failure && a.Status == b.Status && a.Reason == b.Reason && a.Next.Equal(b.Next) &&
		a.Intent == b.Intent && a.Notification == b.Notification && slices.Equal(a.Tries, b.Tries)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
