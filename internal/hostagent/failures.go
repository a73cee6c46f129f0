package hostagent

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// A guest fails in ways that its host sees and nobody has asked for:
//
//	QEMU ended                     libvirt's state is "crashed", by event or found later
//	its kernel panicked            pvpanic, by event; its domain ends with it
//	its watchdog expired           by event; what the device then did was its owner's choice
//	a disk keeps failing           it stands still, was told to go on while everything it needs listens, and stands still again
//	there is no room               likewise, and QEMU says so
//	its agent fell silent          somebody in the guest has the channel open, answered before, and answers no more
//
// A guest that shuts itself down has not failed, nor has one whose agent ended in order. The agent repairs none of it: it reports, and the server
// decides. Failures are counted in the journal, so that each is told as itself however often, and one that happened while the agent was away is found
// when it comes back. What a call then does about the server (start, stop, reboot, discard) ends the failure; its number stays.

// Failures says when guests count as failed.
type Failures struct {
	// SilenceMax is how long a guest's agent that answered before may be silent. Default SilenceMaxDefault.
	SilenceMax time.Duration
	// IOErrorAfter is how long a guest's disk must keep failing while its services listen. Default IOErrorAfterDefault.
	IOErrorAfter time.Duration
	// SettledAfter is how long a guest that went on must not stand still again for its disks to be believed. Default SettledAfterDefault.
	SettledAfter time.Duration
}

const (
	// SilenceMaxDefault is longer than a guest is held up by a loaded host or a migration's end, and as long as people wait before they look.
	SilenceMaxDefault = time.Minute
	// IOErrorAfterDefault is longer than a volume service that listens again needs to open its volumes.
	IOErrorAfterDefault = 15 * time.Second
	// SettledAfterDefault is longer than guests leave their disks alone: their kernels write back what has changed every five seconds.
	SettledAfterDefault = 10 * time.Second

	// pingsPerSilence is how often a guest is pinged within SilenceMax: one lost answer must not matter.
	pingsPerSilence = 6
	// pingsAtOnceMax bounds the connections to libvirtd that pings take.
	pingsAtOnceMax = 8
)

func (f Failures) withDefaults() Failures {
	if f.SilenceMax <= 0 {
		f.SilenceMax = SilenceMaxDefault
	}
	if f.IOErrorAfter <= 0 {
		f.IOErrorAfter = IOErrorAfterDefault
	}
	if f.SettledAfter <= 0 {
		f.SettledAfter = SettledAfterDefault
	}
	return f
}

// failureRecord is a server's last failure on this host, in the journal.
type failureRecord struct {
	Number int64               `json:"number"`
	Kind   hostpb.GuestFailure `json:"kind"` // none once it is over
	Detail string              `json:"detail,omitempty"`
	At     time.Time           `json:"at,omitzero"`
	// Ended says that the end of the last QEMU process was counted; false again once there is another.
	Ended bool `json:"ended,omitempty"`
}

// tell puts the failure into a report.
func (f failureRecord) tell(out *hostpb.ServerState) {
	if f.Number == 0 {
		return
	}
	out.Failure, out.FailureDetail, out.FailureNumber, out.FailureAt = f.Kind, f.Detail, f.Number, timestamppb.New(f.At)
}

// failureWatch is what is noticed between two looks at a guest. The zero value is ready.
type failureWatch struct {
	mu       sync.Mutex
	panicked bool // guarded by mu, as all below
	watchdog bool
	answered bool      // the guest's agent has answered since the guest began
	heard    time.Time // when it last did
	silent   bool
	since    time.Time // when a guest that stands still was first told to go on, in vain so far
	stands   time.Time // when it was last seen to stand still
	full     bool      // the last disk error was that there is no room
}

// take notes what libvirt told.
func (w *failureWatch) take(n kvm.Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.panicked = w.panicked || n.Has(kvm.Panicked)
	w.watchdog = w.watchdog || n.Has(kvm.WatchdogFired)
	if n.Has(kvm.DiskFailed) {
		w.full = n.Has(kvm.DiskFull)
	}
	if n.Has(kvm.Resumed) && !n.Has(kvm.Panicked) {
		w.panicked = false // told after its consequences were judged
	}
	if n.Has(kvm.Rebooted) || n.Has(kvm.Stopped) || n.Has(kvm.Arrived) {
		w.answered, w.silent = false, false // another life of the guest
	}
}

// stood notes that the guest was found standing still at now.
func (w *failureWatch) stood(f Failures, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.stands) > f.SettledAfter {
		w.since = time.Time{} // it ran well in between
	}
	w.stands = now
}

// still notes that the guest stands still although somebody tries to let it go on, and whether the services of its disks listen. It reports whether
// that has just become a failure.
func (w *failureWatch) still(listens bool, f Failures, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.hard(f, now)
	w.stands = now
	switch {
	case !listens:
		w.since = time.Time{}
	case w.since.IsZero():
		w.since = now
	}
	return !before && w.hard(f, now)
}

// hard reports whether the disk error does not go away by itself. A guest that has gone on is believed when it has not stood still again for a while.
// Call with mu held.
func (w *failureWatch) hard(f Failures, now time.Time) bool {
	return !w.since.IsZero() && w.stands.Sub(w.since) >= f.IOErrorAfter && now.Sub(w.stands) <= f.SettledAfter
}

// pong notes an answer, or none, of the guest's agent, and reports whether its silence has begun or ended.
func (w *failureWatch) pong(p kvm.Pong, silenceMax time.Duration, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.silent
	switch p {
	case kvm.AgentAnswered:
		w.answered, w.silent, w.heard = true, false, now
	case kvm.AgentAbsent:
		w.answered, w.silent = false, false
	case kvm.AgentSilent:
		w.silent = w.answered && now.Sub(w.heard) >= silenceMax
	}
	return w.silent != before
}

func (w *failureWatch) isPanicked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.panicked
}

// reset forgets what was noticed of a guest about which somebody has decided.
func (w *failureWatch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since, w.answered, w.silent = time.Time{}, false, false
}

// noticed is a failureWatch as one look finds it.
type noticed struct{ panicked, watchdog, silent, hard, full bool }

// look returns what was noticed, and forgets a watchdog's expiry: it is told once. A panic is kept until the end of the process that it announces.
func (w *failureWatch) look(ended bool, f Failures, now time.Time) noticed {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := noticed{w.panicked, w.watchdog, w.silent, w.hard(f, now), w.full}
	w.watchdog = false
	w.panicked = w.panicked && !ended
	return n
}

// judgeFailure compares the server's state with what was noticed and writes down a failure, or that one is over. It runs in the loop.
func (v *vm) judgeFailure(s kvm.State) {
	if s.Run == kvm.Crashed && !v.rec.Failure.Ended && v.rec.Role == RoleResident {
		v.awaitPanic()
	}
	now := time.Now()
	n := v.signs.look(!s.HasProcess(), v.a.o.Failures, now)
	if v.rec.Role != RoleResident {
		return // a guest that comes or goes is its migration's
	}
	was := v.rec.Failure
	next := was.after(s, n, now)
	if next == was {
		return
	}
	if next.Number != was.Number {
		v.log.Error("guest failed", "failure", next.Kind, "detail", next.Detail, "number", next.Number)
	}
	if err := v.save(func(r *record) { r.Failure = next }); err != nil {
		v.log.Error("failure not in the journal", "error", err)
	}
}

// panicToldWithin is how much later than a panic's consequences libvirt may tell of the panic itself: its state changes first, its events follow.
const panicToldWithin = 500 * time.Millisecond

// awaitPanic waits a little for the news that the guest's kernel panicked, for which QEMU has just ended. It runs in the loop.
func (v *vm) awaitPanic() {
	if v.signs.isPanicked() {
		return
	}
	timer := time.NewTimer(panicToldWithin)
	defer timer.Stop()
	defer v.ring() // what else came is looked at afterwards
	for {
		v.mu.Lock()
		told := v.notices.Has(kvm.Panicked)
		v.notices &^= kvm.Panicked
		v.mu.Unlock()
		if told {
			v.signs.take(kvm.Panicked)
			return
		}
		select {
		case <-v.bell:
		case <-timer.C:
			return
		case <-v.a.life.Done():
			return
		}
	}
}

const (
	failedNone     = hostpb.GuestFailure_GUEST_FAILURE_NONE
	failedCrashed  = hostpb.GuestFailure_GUEST_FAILURE_CRASHED
	failedPanicked = hostpb.GuestFailure_GUEST_FAILURE_PANICKED
	failedWatchdog = hostpb.GuestFailure_GUEST_FAILURE_WATCHDOG
	failedIOError  = hostpb.GuestFailure_GUEST_FAILURE_IO_ERROR
	failedSilent   = hostpb.GuestFailure_GUEST_FAILURE_SILENT
	failedNoSpace  = hostpb.GuestFailure_GUEST_FAILURE_NO_SPACE
)

// after returns what a look at the guest makes of its last failure.
func (f failureRecord) after(s kvm.State, n noticed, now time.Time) failureRecord {
	fail := func(kind hostpb.GuestFailure, detail string) failureRecord {
		return failureRecord{Number: f.Number + 1, Kind: kind, Detail: detail, At: now.UTC(), Ended: s.Run == kvm.Crashed}
	}
	pausedByWatchdog := s.Run == kvm.Paused && s.Reason == kvm.ReasonWatchdog
	switch {
	case s.Run == kvm.Crashed && !f.Ended && (n.panicked || s.Reason == "panicked"):
		return fail(failedPanicked, "the guest's kernel panicked")
	case s.Run == kvm.Crashed && !f.Ended:
		return fail(failedCrashed, "its QEMU process ended without having been asked to")
	case pausedByWatchdog && f.Kind != failedWatchdog:
		return fail(failedWatchdog, "its watchdog expired and paused it")
	case pausedByWatchdog:
		return f
	case n.watchdog && s.HasProcess():
		return fail(failedWatchdog, "its watchdog expired; it was reset, or goes on")
	case n.watchdog:
		return fail(failedWatchdog, "its watchdog expired and powered it off")
	case stalled(s) && n.hard && n.full && f.Kind != failedNoSpace:
		return fail(failedNoSpace, "it stands still: there is no room for what it writes")
	case stalled(s) && n.hard && !n.full && f.Kind != failedIOError:
		return fail(failedIOError, "it stands still: a disk keeps failing though everything it needs answers")
	case s.Run == kvm.Running && n.silent && f.Kind != failedSilent:
		return fail(failedSilent, "its guest agent, which answered before, answers no more")
	case s.Run == kvm.Running && f.over(n):
		f.Kind, f.Ended = failedNone, false
	case s.HasProcess():
		f.Ended = false
	}
	return f
}

// over reports whether a guest that runs has left its failure behind.
func (f failureRecord) over(n noticed) bool {
	switch f.Kind {
	case failedCrashed, failedPanicked:
		return true
	case failedIOError, failedNoSpace:
		return !n.hard
	case failedSilent:
		return !n.silent
	default:
		return false
	}
}

// decided notes that somebody has decided what becomes of the server, which ends its failure. It runs in the loop.
func (v *vm) decided(kind Kind) {
	if kind == KindStart || kind == KindStop || kind == KindReboot || kind == KindDiscard {
		v.note(func(r *record) { r.Failure.Kind = failedNone })
		v.signs.reset()
	}
}

// begun notes that there is another process, whose end will be news even if it comes before anybody has looked at it. It runs in the loop.
func (v *vm) begun(kind Kind) {
	if kind == KindStart || kind == KindReboot {
		v.note(func(r *record) { r.Failure.Ended = false })
	}
}

// keepPinging asks the guests that have an agent, again and again, whether they are there.
func (a *Agent) keepPinging() {
	ticker := time.NewTicker(max(a.o.Failures.SilenceMax/pingsPerSilence, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-a.life.Done():
			return
		case <-ticker.C:
			a.pingGuests()
		}
	}
}

// pingGuests asks each guest once, some at a time.
func (a *Agent) pingGuests() {
	a.mu.Lock()
	asked := make([]*vm, 0, len(a.vms))
	for _, v := range a.vms {
		asked = append(asked, v)
	}
	a.mu.Unlock()
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, pingsAtOnceMax)
	for _, v := range asked {
		if r := v.snapshot(); r.Role != RoleResident || !r.GuestAgent {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-a.life.Done():
			return
		}
		work.Go(func() {
			defer func() { <-slots }()
			v.ping(a.life)
		})
	}
}

// ping asks the guest's agent once and notes what came of it. That libvirt cannot be asked says nothing of the guest.
func (v *vm) ping(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	pong, err := v.a.hv.PingGuest(ctx, v.id)
	if err == nil && v.signs.pong(pong, v.a.o.Failures.SilenceMax, time.Now()) {
		v.notify(kvm.Changed)
	}
}
