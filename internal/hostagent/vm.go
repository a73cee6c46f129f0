package hostagent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// vm is the loop of one server.
type vm struct {
	a   *Agent
	id  cloud.ServerID
	log *slog.Logger

	queue chan *task    // capacity queueMax: the gate lets no more in
	bell  chan struct{} // capacity 1: notices or a migration's end wait
	stop  chan struct{} // closed by Agent.release
	users int           // guarded by Agent.mu

	// Only the loop writes rec and move, under mu; so the loop reads them without.
	mu      sync.Mutex
	gate    Gate       // guarded by mu
	notices kvm.Notice // not yet looked at; guarded by mu
	ended   *ending    // of the migration that just ended; guarded by mu
	doubted bool       // libvirtd was away while the server was incoming; guarded by mu
	waiting bool       // somebody waits for a volume service, to let the server go on; guarded by mu
	rec     record     // what is, or is about to be, in the journal
	move    *move      // the migration that is leaving, nil when there is none

	signs     failureWatch
	announced bool   // the loop's: an arrived server was announced
	exported  string // the loop's: the name under which another host may read its disk, empty when none may
}

// task is one request in the queue.
type task struct {
	ctx        context.Context // the caller's
	kind       Kind
	generation int64
	do         func(ctx context.Context) error
	done       chan error // capacity 1: the caller may have gone
}

func newVM(a *Agent, r record) *vm {
	v := &vm{
		a: a, id: r.Server, log: a.log.With("server", r.Server), queue: make(chan *task, queueMax), bell: make(chan struct{}, 1),
		stop: make(chan struct{}), rec: r,
	}
	last := cloud.MigrationID("")
	if r.Move != nil && r.Role != RoleDeparting {
		last = r.Move.ID
	}
	v.gate = NewGate(r.Generation, last)
	if r.Role == RoleDeparting && r.Move != nil {
		v.gate.MoveBegan(r.Move.ID) // now, for requests may come before the loop attaches to it
	}
	return v
}

// run is the loop.
func (v *vm) run() {
	if v.rec.Role == RoleDeparting && v.rec.Move != nil {
		v.attach()
	}
	if v.rec.Role == RoleNone {
		v.recall()
	}
	if err := v.thaw(v.a.life); err != nil {
		v.log.Error("stands still since its disk was copied", "error", err)
	}
	for {
		v.digest()
		v.a.retire(v)
		select {
		case <-v.a.life.Done():
			return
		case <-v.stop:
			return
		case <-v.bell:
		case t := <-v.queue:
			v.digest() // events first
			v.perform(t)
		}
	}
}

// recall restores what can be restored of a server that libvirt has and the journal has not: the generation in its definition.
func (v *vm) recall() {
	ctx, cancel := context.WithTimeout(v.a.life, lookMax)
	defer cancel()
	desc, err := v.a.hv.Describe(ctx, v.id)
	if err != nil {
		return // usually: no such domain
	}
	v.log.Warn("domain without a journal", "generation", desc.Meta.Generation)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rec.Generation, v.rec.Role = max(v.rec.Generation, desc.Meta.Generation), RoleResident
	v.gate.Restore(v.rec.Generation)
}

// lookMax bounds a look at libvirt that nobody outside waits for.
const lookMax = 10 * time.Second

// submit offers a request to the gate and, if it is let in, waits until the loop has performed it.
func (v *vm) submit(ctx context.Context, r Request, do func(ctx context.Context) error) error {
	t := &task{ctx: ctx, kind: r.Kind, generation: r.Generation, do: do, done: make(chan error, 1)}
	v.mu.Lock()
	verdict := v.gate.Offer(r)
	if verdict.Action == Queue {
		v.queue <- t // never blocks: the gate counts
	}
	v.mu.Unlock()
	if verdict.Action != Queue {
		if err := verdict.Err(); err != nil {
			v.log.Info("request refused", "request", r.Kind, "generation", r.Generation, "reason", verdict.Reason)
			return cloud.E(verdict.Kind, r.Kind.String(), subject(v.id), err)
		}
		return nil
	}
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
		return cloud.E(cloud.KindCancelled, r.Kind.String(), subject(v.id), ctx.Err())
	case <-v.a.life.Done():
		return cloud.E(cloud.KindUnavailable, r.Kind.String(), subject(v.id), context.Canceled)
	}
}

// perform does one request. Its context ends with its caller's and with the agent's.
func (v *vm) perform(t *task) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	stop := context.AfterFunc(v.a.life, cancel)
	defer stop()
	began := time.Now()
	err := ctx.Err() // nobody waits any more
	if err == nil {
		err = v.accept(t.generation)
	}
	if err == nil {
		v.decided(t.kind)
		err = t.do(ctx)
	}
	v.mu.Lock()
	v.gate.Done()
	v.mu.Unlock()
	if err != nil {
		v.log.Warn("request failed", "request", t.kind, "generation", t.generation, "took", time.Since(began), "error", err)
		err = cloud.E(kindOf(err), t.kind.String(), subject(v.id), err)
	} else {
		v.begun(t.kind)
		v.log.Info("request done", "request", t.kind, "generation", t.generation, "took", time.Since(began))
	}
	t.done <- err
}

// kindOf keeps a classified error's kind and calls the end of a caller's patience what it is.
func kindOf(err error) cloud.Kind {
	kind := cloud.KindOf(err)
	if kind == cloud.KindInternal && (isContext(err)) {
		return cloud.KindCancelled
	}
	return kind
}

// accept makes a greater generation durable before anything is done in its name.
func (v *vm) accept(generation int64) error {
	if generation <= v.rec.Generation {
		return nil
	}
	return v.save(func(r *record) { r.Generation = generation })
}

// save changes the record and makes it durable. The change is kept in memory even when the disk refuses it.
func (v *vm) save(change func(*record)) error {
	v.mu.Lock()
	change(&v.rec)
	v.rec.Updated = time.Now()
	r := v.rec
	v.mu.Unlock()
	return v.a.journal.save(r)
}

// note changes the record in memory; the next save makes it durable.
func (v *vm) note(change func(*record)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.rec)
}

// snapshot returns the record for readers outside the loop.
func (v *vm) snapshot() record {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.rec
	if r.Move != nil {
		m := *r.Move
		r.Move = &m
	}
	return r
}

// forgettable reports whether nothing of the server is left to look after. Called with Agent.mu held.
func (v *vm) forgettable() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return (v.rec.Role == RoleNone || v.rec.Role == RoleGone) && v.gate.Idle() && v.notices == 0 && v.ended == nil && len(v.bell) == 0
}

// distrust notes that libvirtd was away. If the server was arriving, the source's libvirt may have lost its answer and taken the guest back.
func (v *vm) distrust() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doubted = v.rec.Role == RoleIncoming
}

// notify adds notices and wakes the loop.
func (v *vm) notify(n kvm.Notice) {
	v.mu.Lock()
	v.notices |= n
	v.mu.Unlock()
	v.ring()
}

func (v *vm) ring() {
	select {
	case v.bell <- struct{}{}:
	default:
	}
}

// digest looks at what has happened since the last time.
func (v *vm) digest() kvm.Notice {
	v.mu.Lock()
	n, ended := v.notices, v.ended
	v.notices, v.ended = 0, nil
	v.mu.Unlock()
	v.signs.take(n)
	if n.Has(kvm.Arrived) && v.rec.Role == RoleIncoming {
		v.announce() // before anything else: every millisecond of this is an outage
	}
	if n.Has(kvm.Departed) && v.move != nil {
		v.note(func(r *record) { r.Move.Departed = true })
	}
	if n.Has(kvm.PostCopied) {
		v.postCopied()
	}
	if ended != nil {
		v.concludeMove(ended)
	}
	if n.Has(kvm.Changed) || ended != nil {
		v.observe()
		v.a.ringFacts()
	}
	return n
}

// observe reports the server's state, and announces a server that arrived while nobody looked.
func (v *vm) observe() {
	ctx, cancel := context.WithTimeout(v.a.life, lookMax)
	defer cancel()
	s, err := v.a.hv.State(ctx, v.id)
	if err != nil {
		v.log.Warn("state unknown", "error", err) // a resync follows libvirtd's return
		return
	}
	if v.rec.Role == RoleIncoming && s.Run == kvm.Running {
		s = v.arrive(ctx, s)
	}
	if s.Run == kvm.Paused && split(s) {
		v.postCopied() // the event was missed
	}
	if v.rec.Role == RoleDeparting && v.move == nil {
		v.judgeLate(s)
	}
	if stalled(s) {
		v.goOnWhenReachable()
	}
	v.judgeFailure(s)
	v.a.o.Outbox.PutObservation(v.a.wireState(v, s))
}

// arrive takes note of an incoming server whose CPUs run. If libvirtd died meanwhile, the other one may have resumed the guest too, so this one is
// stopped until Adopt says that it is the one: a pause in a rare case, against two copies in a rarer one.
func (v *vm) arrive(ctx context.Context, s kvm.State) kvm.State {
	v.mu.Lock()
	doubted := v.doubted
	v.mu.Unlock()
	if !doubted || split(s) { // once post-copy has begun, no source can resume
		if !v.announced {
			v.announce()
		}
		return s
	}
	v.log.Warn("arrived while libvirtd was away: stopped until it is adopted")
	if err := v.a.hv.Suspend(ctx, v.id); err != nil {
		v.log.Error("not stopped", "error", err)
		return s
	}
	if now, err := v.state(ctx); err == nil {
		s = now
	}
	return s
}

// judgeLate takes note of how a migration ended whose end could not be told at the time.
func (v *vm) judgeLate(s kvm.State) {
	j := judge(s, *v.rec.Move, errAttached)
	if j.outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNSPECIFIED {
		return
	}
	v.log.Info("migration judged late", "migration", v.rec.Move.ID, "outcome", j.outcome)
	if err := v.save(func(r *record) { r.end(j.outcome, j.reason) }); err != nil {
		v.log.Error("outcome not in the journal", "error", err)
	}
}

// announce tells the network in the background; it must not hold up the loop.
func (v *vm) announce() {
	v.announced = true
	v.a.background(func(ctx context.Context) {
		if err := v.a.o.Networks.Announce(ctx, v.id); err != nil && ctx.Err() == nil {
			v.log.Error("not announced", "error", err)
		}
	})
}

// until digests events until met holds or the time is over. It is for the loop's own tasks.
func (v *vm) until(ctx context.Context, limit time.Duration, met func(kvm.Notice) (bool, error)) (bool, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for n := kvm.Notice(0); ; n = v.digest() {
		if ok, err := met(n); ok || err != nil {
			return ok, err
		}
		select {
		case <-v.bell:
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// state asks libvirt.
func (v *vm) state(ctx context.Context) (kvm.State, error) { return v.a.hv.State(ctx, v.id) }

// background runs f in the agent's care.
func (a *Agent) background(f func(ctx context.Context)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.work.Go(func() { f(a.life) })
	}
}

// wireState is a server's state as it is reported. Observations are put by the server's loop alone, so their numbers follow their order.
func (a *Agent) wireState(v *vm, s kvm.State) *hostpb.ServerState {
	r := v.snapshot()
	out := &hostpb.ServerState{
		ServerId: string(v.id), Domain: wireDomain[s.Run], Reason: s.Reason, Generation: r.Generation, DisksPresent: a.hasDisks(v.id, r),
		Epoch: a.epoch, Seq: a.seq.Add(1), PostCopy: postCopyOf(s),
	}
	r.Failure.tell(out)
	if r.Move != nil {
		out.MigrationId, out.MigrationOutcome = string(r.Move.ID), r.Move.Outcome
		if r.Role == RoleDeparted && r.Move.broke() {
			out.PostCopy = hostpb.PostCopy_POST_COPY_BROKEN // also when its half here died
		}
	}
	return out
}

// hasDisks reports whether this host has the server's disks. In a shared directory they are there for all; those of another host are not this one's, once
// it has given the server up.
func (a *Agent) hasDisks(id cloud.ServerID, r record) bool {
	if !a.o.Disk.Present(id) {
		return false
	}
	if r.Role != RoleNone && r.Role != RoleGone {
		return true
	}
	owned, err := a.o.Disk.Owned(id)
	return owned || err != nil // what cannot be read may be ours
}

var wireDomain = map[kvm.Run]hostpb.DomainState{
	kvm.Absent:   hostpb.DomainState_DOMAIN_STATE_ABSENT,
	kvm.Running:  hostpb.DomainState_DOMAIN_STATE_RUNNING,
	kvm.Paused:   hostpb.DomainState_DOMAIN_STATE_PAUSED,
	kvm.Shutoff:  hostpb.DomainState_DOMAIN_STATE_SHUTOFF,
	kvm.Crashed:  hostpb.DomainState_DOMAIN_STATE_CRASHED,
	kvm.Incoming: hostpb.DomainState_DOMAIN_STATE_INCOMING,
	kvm.Outgoing: hostpb.DomainState_DOMAIN_STATE_OUTGOING,
}
