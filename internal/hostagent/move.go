package hostagent

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

const (
	// progressPeriod is how often a migration's figures are read: people watch them, and each reading is a query to QEMU.
	progressPeriod = 500 * time.Millisecond
	// settlePeriod is how often a migration that nobody's call waits for is looked at. libvirt's event for a failed one does not reach us
	// (see package kvm), so this is one of the two places that poll; it runs only while such a migration does.
	settlePeriod = 200 * time.Millisecond
	// settleMax is how long an end that cannot be judged is looked at again before the answer is "unknown": longer than a libvirtd takes to
	// restart, much shorter than anybody's patience.
	settleMax = 20 * time.Second
	// puzzleMax is how long that goes on when libvirt answers and its answer decides nothing, as when it lost its peer, or its own life, at the
	// cut-over: such a state only waits for somebody to ask both hosts, and the guest may stand still meanwhile. States on the way last milliseconds.
	puzzleMax = time.Second
	// lostMax is how long libvirt may take to say how a migration in post-copy ended whose source process has. It needs a fifth of a second when all went well;
	// when the process died it needs half a minute or more, and at times its call never returns. The answer "broken" does no harm when all went well after
	// all: whoever asks looks at the target too.
	lostMax = 10 * time.Second
	// steerMax bounds what the loop asks of libvirt about a running migration.
	steerMax = 10 * time.Second
)

// move is a migration that is leaving. done is closed when reply is final, left when the process that ran the guest here has ended: nothing here can
// run or resume the guest then, and libvirt needs a fifth of a second more to say how it ended.
type move struct {
	id    cloud.MigrationID
	left  chan struct{}
	done  chan struct{}
	reply *hostpb.MigrateReply // set before done is closed
	gone  time.Time            // when left was closed; set before that
}

// lost reports whether the process ended so long ago that libvirt will not say how the migration did.
func (m *move) lost(now time.Time) bool {
	select {
	case <-m.left:
		return now.Sub(m.gone) >= lostMax
	default:
		return false
	}
}

// split reports whether the guest's memory is on two hosts, or was when post-copy broke off.
func split(s kvm.State) bool { return postCopyOf(s) != hostpb.PostCopy_POST_COPY_NONE }

// postCopyOf says how far post-copy from or to this host is.
func postCopyOf(s kvm.State) hostpb.PostCopy {
	switch {
	case s.Run != kvm.Paused && s.Run != kvm.Running:
	case s.Reason == kvm.ReasonPostcopy:
		return hostpb.PostCopy_POST_COPY_ACTIVE
	case s.Reason == kvm.ReasonPostcopyFailed:
		return hostpb.PostCopy_POST_COPY_BROKEN
	}
	return hostpb.PostCopy_POST_COPY_NONE
}

// ending is how a migration ended, from its goroutine to the loop.
type ending struct {
	move    *move
	outcome hostpb.MigrateOutcome
	reason  string
	stats   cloud.MigrationStats
}

func (m *moveRecord) replyOf() *hostpb.MigrateReply {
	return &hostpb.MigrateReply{Outcome: m.Outcome, Error: m.Error, Stats: wireStats(m.Stats)}
}

// startMove begins the migration of req, or finds it: in progress or ended. It runs in the loop.
func (v *vm) startMove(ctx context.Context, req *hostpb.MigrateRequest) (*move, error) {
	id := cloud.MigrationID(req.GetMigrationId())
	if v.move != nil {
		return v.move, nil // the gate, which knows of it from the loop's birth on, has seen that it is the same one
	}
	if last := v.rec.Move; last != nil && last.ID == id {
		if last.decided() {
			m := &move{id: id, done: make(chan struct{}), reply: last.replyOf()}
			close(m.done)
			return m, nil
		}
		return v.attach(), nil // unknown so far: judge again
	}
	s, err := v.state(ctx)
	if err != nil {
		return nil, err
	}
	if v.rec.Role == RoleDeparting {
		v.judgeLate(s)
	}
	if s.Run != kvm.Running && s.Run != kvm.Paused || v.rec.Role != RoleResident {
		return nil, cloud.Errorf(cloud.KindConflict, "cannot leave: it is %s (%s) and %s here", s.Run, s.Reason, or(string(v.rec.Role), "unknown"))
	}
	if err := v.checkShared(ctx, true); err != nil {
		return nil, err
	}
	if stalled(s) {
		return nil, cloud.Errorf(cloud.KindConflict, "cannot leave: it waits for a volume service that is away")
	}
	err = v.save(func(r *record) {
		r.Role = RoleDeparting
		r.Move = &moveRecord{ID: id, Target: cloud.HostName(req.GetTargetHost()), CopyDisks: req.GetCopyDisks(), SharedDir: req.GetSharedDirectory(),
			PostCopy: req.GetPostCopy(), Began: time.Now()}
	})
	if err != nil {
		v.note(func(r *record) { r.Role = RoleResident })
		return nil, err
	}
	order := kvm.Move{
		ID: v.id, TargetAddress: req.GetTargetAddress(), Shallow: true, DowntimeMax: req.GetDowntimeMax().AsDuration(),
		BandwidthMax: req.GetBandwidthBytesPerSecond(), AutoConverge: req.GetAutoConverge(), PostCopy: req.GetPostCopy(),
		Parallel: int(req.GetParallelConnections()), Volumes: waysTo(req.GetTargetVolumes()), AbortOnError: v.a.shared != nil,
	}
	if req.GetCopyDisks() {
		order.CopyDisks = []string{rootTarget}
	}
	return v.beginMove(func(ctx context.Context) error { return v.a.hv.Migrate(ctx, order) }), nil
}

// attach follows a migration that an earlier life of the agent, or an earlier call, began.
func (v *vm) attach() *move {
	v.log.Info("attaching to a migration", "migration", v.rec.Move.ID)
	return v.beginMove(func(context.Context) error { return errAttached })
}

// errAttached stands for the result of a call to libvirt that somebody else made.
var errAttached = errors.New("the call that began the migration was lost")

// beginMove runs a migration beside the loop.
func (v *vm) beginMove(perform func(ctx context.Context) error) *move {
	m := &move{id: v.rec.Move.ID, left: make(chan struct{}), done: make(chan struct{})}
	v.mu.Lock()
	v.move = m
	v.gate.MoveBegan(m.id)
	v.mu.Unlock()
	v.a.background(func(ctx context.Context) { v.carry(ctx, m, perform) })
	return m
}

// carry performs a migration to its end, reporting progress, and hands the end to the loop. When the agent stops, it just returns: the next agent
// attaches.
func (v *vm) carry(ctx context.Context, m *move, perform func(ctx context.Context) error) {
	watching, stopWatching := context.WithCancel(ctx)
	performing, stopPerforming := context.WithCancel(ctx)
	defer stopPerforming()
	watched := make(chan cloud.MigrationStats, 1)
	go func() { watched <- v.watch(watching) }()
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		if v.a.hv.AwaitExit(watching, v.id) == nil {
			m.gone = time.Now()
			close(m.left)
			v.giveUp(watching, stopPerforming)
		}
	}()
	err := perform(performing)
	e := &ending{move: m}
	e.outcome, e.reason = v.settle(ctx, m, err)
	stopWatching()
	e.stats = <-watched
	<-waited
	if ctx.Err() != nil {
		return
	}
	if stats, ok := v.finalStats(ctx); ok {
		e.stats = stats
		v.putProgress(stats)
	}
	v.mu.Lock()
	v.ended = e
	v.mu.Unlock()
	v.ring()
}

// giveUp ends the call to libvirt when the guest's process here has ended in post-copy and the call does not: its libvirt may never return.
func (v *vm) giveUp(ctx context.Context, stop context.CancelFunc) {
	select {
	case <-time.After(lostMax):
	case <-ctx.Done():
		return // it has ended
	}
	if v.snapshot().Move.Split {
		v.log.Error("the guest's process ended in post-copy, and libvirt does not say how the migration did", "for", lostMax)
		stop()
	}
}

// watch reports progress until ctx ends and returns the last figures.
func (v *vm) watch(ctx context.Context) cloud.MigrationStats {
	var last cloud.MigrationStats
	tick := time.NewTicker(progressPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
		if stats, ok := v.figures(ctx); ok {
			last = stats
			v.putProgress(last)
		}
	}
}

// figures are those of the migration in progress; ok is false when it has not begun, is just over, or libvirtd is away.
func (v *vm) figures(ctx context.Context) (stats cloud.MigrationStats, ok bool) {
	job, err := v.a.hv.Job(ctx, v.id)
	ok = err == nil && job.Active && job.Outgoing
	if !ok {
		v.log.Debug("no figures of the migration", "active", job.Active, "outgoing", job.Outgoing, "error", err)
	}
	return job.Stats, ok
}

// postCopied takes note that the guest's CPUs went to the target while memory is still here. From now on there is no way back: not by an abort, and not
// by a failure. It runs in the loop.
func (v *vm) postCopied() {
	if v.move == nil || v.rec.Move.Split {
		return
	}
	v.log.Info("post-copy has begun", "migration", v.move.id)
	if err := v.save(func(r *record) { r.Move.Split = true }); err != nil {
		v.log.Error("post-copy not in the journal", "error", err)
	}
	ctx, cancel := context.WithTimeout(v.a.life, lookMax)
	defer cancel()
	stats, _ := v.figures(ctx)
	v.putProgress(stats) // at once: until the server knows, it accepts aborts
}

// finalStats are QEMU's own figures of the migration that just ended, from here or to here.
func (v *vm) finalStats(ctx context.Context) (cloud.MigrationStats, bool) {
	ctx, cancel := context.WithTimeout(ctx, steerMax)
	defer cancel()
	stats, ok, err := v.a.hv.CompletedJob(ctx, v.id)
	return stats, ok && err == nil
}

// settle finds out how a migration ended, given what the call to libvirt returned. It looks until there is an answer: while the job is not over for
// as long as that takes, while libvirt does not answer for settleMax, and when its answer decides nothing for puzzleMax.
func (v *vm) settle(ctx context.Context, m *move, callErr error) (hostpb.MigrateOutcome, string) {
	deadline := time.Now().Add(settleMax)
	puzzled := false // since deadline was set anew
	tick := time.NewTicker(settlePeriod)
	defer tick.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, lookMax)
		s, err := v.state(look)
		cancel()
		r := v.snapshot()
		lost := r.Move.Split && m.lost(time.Now())
		if err == nil {
			verdict := judge(s, *r.Move, callErr)
			switch {
			case verdict.resume:
				err = v.a.hv.Resume(ctx, v.id)
			case verdict.goingOn && lost:
				return hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN, lostReason
			case verdict.goingOn:
				deadline, puzzled = time.Now().Add(settleMax), false
			case verdict.outcome != hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNSPECIFIED:
				return verdict.outcome, verdict.reason
			case !puzzled:
				deadline, puzzled = time.Now().Add(puzzleMax), true
			}
		}
		if time.Now().After(deadline) && lost {
			return hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN, lostReason
		}
		if time.Now().After(deadline) {
			return hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNKNOWN, unknownReason(s, callErr, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNKNOWN, "the agent is stopping"
		}
	}
}

// lostReason is what is known of a migration whose process ended without libvirt's noticing.
const lostReason = "post-copy broke off: the process that held the rest of the guest's memory has ended"

func unknownReason(s kvm.State, errs ...error) string {
	reason := "domain is " + s.Run.String()
	if s.Reason != "" {
		reason += " (" + s.Reason + ")"
	}
	if err := errors.Join(errs...); err != nil {
		reason += ": " + err.Error()
	}
	return reason
}

// judgement is what a look at the source says about a migration.
type judgement struct {
	outcome hostpb.MigrateOutcome // unspecified: look again
	reason  string
	goingOn bool // the job is not over
	resume  bool // the guest stands still only because we paused it: let it run, then look again
}

// judge says how a migration ended, by the state of the source's domain, what is remembered of the migration, and the result of
// the call to libvirt. Pure.
func judge(s kvm.State, m moveRecord, callErr error) judgement {
	stayed := func() judgement {
		text := "the migration ended without leaving"
		if callErr != nil && !errors.Is(callErr, errAttached) {
			text = callErr.Error()
		}
		if m.Abort {
			return judgement{outcome: hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED, reason: text}
		}
		return judgement{outcome: hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED, reason: text}
	}
	completed := judgement{outcome: hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED}
	broken := func() judgement {
		text := "post-copy broke off: the domain is " + s.Run.String() + " (" + s.Reason + ") on the source"
		if callErr != nil && !errors.Is(callErr, errAttached) {
			text += ": " + callErr.Error()
		}
		return judgement{outcome: hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN, reason: text}
	}
	switch s.Run {
	case kvm.Outgoing:
		return judgement{goingOn: true}
	case kvm.Running:
		return stayed()
	case kvm.Paused:
		switch {
		case s.Reason == kvm.ReasonPostcopy:
			return judgement{goingOn: true}
		case s.Reason == kvm.ReasonPostcopyFailed:
			return broken()
		case s.Reason == kvm.ReasonMigration || m.Split:
			return judgement{} // the CPUs may run on the target: only both hosts together can tell
		case m.Suspended:
			return judgement{resume: true}
		}
		return stayed() // it was paused before, and still is
	case kvm.Shutoff, kvm.Crashed, kvm.Absent:
		switch {
		case callErr == nil, m.Departed, s.Reason == kvm.ReasonMigrated:
			return completed
		case m.Split:
			return broken()
		case m.Switching:
			return judgement{} // post-copy may have begun, and the event that says so be on its way
		case s.Run == kvm.Crashed, s.Reason == "shutdown", s.Reason == "destroyed":
			j := stayed() // it ended here, by itself or by its user, while it was being copied
			j.reason = "the guest ended during the migration (" + s.Reason + "): " + j.reason
			return j
		}
	case kvm.Incoming: // not what a source is: nobody here can tell
	}
	return judgement{}
}

// concludeMove takes the end of a migration into the record. It runs in the loop.
func (v *vm) concludeMove(e *ending) {
	v.mu.Lock()
	v.rec.Move.Stats = e.stats
	v.rec.end(e.outcome, e.reason)
	v.move = nil
	v.gate.MoveEnded()
	v.mu.Unlock()
	// The caller need not wait for our disk: a crash before the record is durable finds the same answer again.
	e.move.reply = v.rec.Move.replyOf()
	close(e.move.done)
	v.log.Info("migration ended", "migration", e.move.id, "outcome", e.outcome, "reason", e.reason, "took", time.Since(v.rec.Move.Began),
		"downtime", e.stats.Downtime)
	if v.rec.Move.stayed() {
		v.announce() // the target may have told the network that the guest is there
	}
	if err := v.save(func(*record) {}); err != nil {
		v.log.Error("outcome not in the journal", "error", err)
	}
}

// steer passes an order on to libvirt. It runs in the loop.
func (v *vm) steer(ctx context.Context, req *hostpb.SteerRequest) error {
	if v.move == nil {
		return nil // it ended while the order was queued
	}
	ctx, cancel := context.WithTimeout(ctx, steerMax)
	defer cancel()
	switch {
	case v.rec.Move.Split && req.GetAbort():
		return cloud.Errorf(cloud.KindConflict, "it is in post-copy: neither host alone has the guest")
	case v.rec.Move.Split:
		return nil // it is being completed
	case req.GetAbort():
		if err := v.save(func(r *record) { r.Move.Abort = true }); err != nil {
			return err
		}
		return v.a.hv.AbortJob(ctx, v.id)
	case req.GetForceComplete() && v.rec.Move.PostCopy:
		if err := v.save(func(r *record) { r.Move.Switching = true }); err != nil {
			return err
		}
		return v.a.hv.StartPostCopy(ctx, v.id)
	case req.GetForceComplete():
		// A paused guest dirties nothing, so the copy ends; libvirt lets it run on the target. If the copy fails, settle lets it run here.
		if err := v.save(func(r *record) { r.Move.Suspended = true }); err != nil {
			return err
		}
		return v.a.hv.Suspend(ctx, v.id)
	}
	return cloud.Errorf(cloud.KindInvalid, "neither abort nor force_complete")
}

// putProgress reports figures of the migration. The number grows across restarts of the agent too.
func (v *vm) putProgress(stats cloud.MigrationStats) {
	const seqBits = 32 // of each epoch
	r := v.snapshot()
	v.a.o.Outbox.PutProgress(&hostpb.MigrationUpdate{
		MigrationId: string(r.Move.ID), ServerId: string(v.id), Stats: wireStats(stats), Seq: v.a.epoch<<seqBits + v.a.seq.Add(1), PostCopy: r.Move.Split,
	})
}

func wireStats(s cloud.MigrationStats) *hostpb.MigrationStats {
	return &hostpb.MigrationStats{
		MemoryTotal: s.MemoryTotal, MemoryProcessed: s.MemoryProcessed, MemoryRemaining: s.MemoryRemaining, MemoryPageSize: s.MemoryPageSize,
		DirtyBytesPerSecond: s.DirtyBytesPerSecond, MemoryBytesPerSecond: s.MemoryBytesPerSecond, MemoryIterations: s.MemoryIterations,
		DiskTotal: s.DiskTotal, DiskProcessed: s.DiskProcessed, DiskRemaining: s.DiskRemaining, DiskBytesPerSecond: s.DiskBytesPerSecond,
		Downtime: durationpb.New(s.Downtime), Setup: durationpb.New(s.Setup), Elapsed: durationpb.New(s.Elapsed),
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
