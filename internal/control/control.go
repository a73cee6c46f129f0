package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/flows"
	"github.com/godwit-cloud/godwit/internal/healing"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/recovery"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// electionName is the election that decides which instance acts.
const electionName = "control"

// Budget bounds the migrations that are carried out at a time; further ones stay queued.
type Budget struct {
	Outbound, Inbound int // per host; at least 1
	Cluster           int // in all; 0: no bound
}

// Options are what New needs. Store, Hosts, Volumes and Name are required.
type Options struct {
	Store   *store.Store
	Hosts   flows.Hosts
	Volumes flows.Volumes
	Images  flows.Images // see flows.Options
	Name    string       // of this instance, shown as the leader
	Policy  placement.Policy
	Moves   flows.Moves
	Budget  Budget
	// TimeoutPerGiB and ForceOnTimeout say when a migration takes too long, and whether it is then forced to its end instead of aborted. Zero: never.
	TimeoutPerGiB  time.Duration
	ForceOnTimeout bool
	StopGrace      time.Duration // see flows.Options
	GravesMax      int           // deleted servers that stay visible
	Logger         *slog.Logger
	// Pulses says which hosts are heard, in practice this instance's Sessions. Nil: nobody is judged and nothing is recovered.
	Pulses   Pulses
	Liveness liveness.Policy // zero: liveness.Default
	Recovery recovery.Policy // zero: recovery.Default
	Healing  healing.Policy  // zero: healing.Default
	Metrics  *Metrics        // nil: none
	// SpareHosts is how many hosts may die at once with room for their servers on the rest; 0: it is not judged.
	SpareHosts int
	// Optimising says how the fleet is arranged; zero: hosts sleep and wake when asked, and nothing is planned.
	Optimising Optimising
	// While, if set, runs during each leadership and ends with it: what only the leader may do, such as holding the hosts' connections, which its runs
	// need. Its error ends the term.
	While func(ctx context.Context) error
	// Wrap surrounds every attempt of every step; for tests that kill the leader at a chosen moment.
	Wrap func(ctx context.Context, e workflow.Event, next func(context.Context) error) error
}

// Control leads when elected. Make it with New; Run may be called once.
type Control struct {
	options Options
	log     *slog.Logger
}

// New makes a Control; it does nothing before Run.
func New(o Options) *Control {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Liveness == (liveness.Policy{}) {
		o.Liveness = liveness.Default()
	}
	if o.Recovery == (recovery.Policy{}) {
		o.Recovery = recovery.Default()
	}
	if o.Healing.Window == 0 {
		o.Healing = healing.Default()
	}
	return &Control{options: o, log: o.Logger}
}

// campaignAgainAfter paces elections when the store fails them.
const campaignAgainAfter = time.Second

// Run stands for election again and again, and leads whenever elected, until ctx ends. It returns when everything it started has ended.
func (c *Control) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := c.term(ctx)
		if ctx.Err() != nil {
			break
		}
		c.log.Warn("leadership ended", "error", err)
		_ = pause(ctx, campaignAgainAfter)
	}
	return nil
}

// resignMax bounds the hand-over at the end of a term.
const resignMax = 5 * time.Second

// term is one candidacy with, if elected, one leadership.
func (c *Control) term(ctx context.Context) error {
	leadership, err := c.options.Store.Campaign(ctx, electionName, c.options.Name)
	if err != nil {
		return err
	}
	c.log.Info("leading", "instance", c.options.Name, "term", leadership.Revision())
	err = c.lead(ctx, leadership)
	resign, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignMax)
	defer cancel()
	return errors.Join(err, leadership.Resign(resign))
}

// errDeposed ends a term whose leadership was lost.
var errDeposed = errors.New("the leadership was lost")

// lead runs the engine and the loops until the leadership or ctx ends.
func (c *Control) lead(ctx context.Context, leadership *store.Leadership) error {
	l := newLeader(c.options, leadership)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { // at once: steps should learn that they are interrupted before their hosts' connections end
		<-ctx.Done()
		l.stop()
		return nil
	})
	g.Go(func() error {
		select {
		case <-leadership.Lost():
			return errDeposed
		case <-ctx.Done():
			return nil
		}
	})
	start := func(name string, loop func(context.Context) error) {
		g.Go(func() error {
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	if c.options.While != nil {
		start("while leading", c.options.While) // first: it is what lets hosts connect
	}
	start("decide", func(ctx context.Context) error {
		l.awaitFleet(ctx)
		if err := l.resume(ctx); err != nil {
			return err
		}
		for name, loop := range map[string]func(context.Context) error{
			"intents": l.intents, "steering": l.steering, "pruning": l.pruning, "networks": l.networks, "reconcile": l.reconcile, "recorder": l.recorder.Run,
			"judge": l.judge, "recover": l.recover, "heal": l.heal, "optimise": l.optimise, "meter": l.meter, "rest": l.rest, "spare": l.spare, "checkups": l.checkups,
		} {
			start(name, loop)
		}
		return nil
	})
	return g.Wait()
}

// A leader is one leadership with what it drives.
type leader struct {
	Options
	log      *slog.Logger
	records  fenced
	journal  *store.RunJournal
	engine   *workflow.Engine
	recorder *flows.Recorder
	bmcs     *bmcs
	looks    *looks
	meters   *meters
	began    time.Time // of the leadership
}

func newLeader(o Options, leadership *store.Leadership) *leader {
	l := &leader{Options: o, log: o.Logger, records: fenced{o.Store, leadership}, journal: store.NewRunJournal(o.Store, leadership), began: time.Now()}
	l.recorder = flows.NewRecorder(l.records, o.Logger)
	l.bmcs, l.looks, l.meters = newBMCs(l), newLooks(l), newMeters()
	hooks := l.recorder.Hooks()
	hooks.Wrap = o.Wrap
	tables := flows.New(flows.Options{Records: l.records, Hosts: o.Hosts, Volumes: o.Volumes, Images: o.Images, Policy: o.Policy, Moves: o.Moves, StopGrace: o.StopGrace, Fence: l.bmcs})
	l.engine = workflow.NewEngine(l.journal, tables.Definitions(), workflow.Options{Owner: l.journal.Owner(), Logger: o.Logger, Hooks: hooks})
	return l
}

// resume takes over what the predecessor left. Runs of flows this program does not know are reported and left alone.
func (l *leader) resume(ctx context.Context) error {
	taken, err := l.engine.Resume(ctx)
	switch {
	case cloud.Is(err, cloud.KindUnsupported):
		l.log.Error("some runs cannot be taken over by this version", "error", err)
	case err != nil:
		return err
	}
	if taken > 0 {
		l.log.Info("took over unfinished runs", "runs", taken)
	}
	return nil
}

// engineStopMax bounds how long steps may take to notice that they are interrupted: they wait on calls whose contexts have ended.
const engineStopMax = 30 * time.Second

func (l *leader) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), engineStopMax)
	defer cancel()
	if err := l.engine.Stop(ctx); err != nil {
		l.log.Error("runs did not stop in time", "error", err)
	}
	l.recorder.Flush(ctx)
}

// fenced is a store whose transactions require a leadership.
type fenced struct {
	store      *store.Store
	leadership *store.Leadership
}

// View implements flows.Records.
func (f fenced) View() store.View { return f.store.View() }

// Watch implements flows.Records.
func (f fenced) Watch(ctx context.Context, of ...store.AnyTable) <-chan store.Batch {
	return f.store.Watch(ctx, of...)
}

// UpdateVisible implements flows.Records.
func (f fenced) UpdateVisible(ctx context.Context, fn func(tx *store.Tx) error) (rev int64, err error) {
	return f.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		tx.Require(f.leadership)
		return fn(tx)
	})
}

// pause waits, or returns early with the reason when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loop calls act for each wake-up of batches, and at least once every period, until ctx ends. An error of act is logged and act is called again
// a little later: what it could not do is still to be done.
func (l *leader) loop(ctx context.Context, name string, period time.Duration, batches <-chan store.Batch, act func(context.Context) error) error {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case _, open := <-batches:
			if !open {
				return cloud.Errorf(cloud.KindUnavailable, "the store closed its watch")
			}
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		err := act(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case cloud.Is(err, cloud.KindStale):
			return err // deposed
		case err != nil:
			l.log.Warn(name+" did not get through; trying again", "error", err)
			_ = pause(ctx, loopAgainAfter)
		}
	}
}

// loopAgainAfter paces a loop whose work fails.
const loopAgainAfter = 200 * time.Millisecond
