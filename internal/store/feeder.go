package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// progressInterval is how often the feeder asks etcd "have I seen everything?". It bounds how old LastProgress is on a healthy, idle
	// store; shorter costs wake-ups, longer hides a dead connection for longer.
	progressInterval = 2 * time.Second
	// loadPage bounds one range read of a resync: 500 records of some 2 KB stay well below etcd's 1.5 MB request comfort zone.
	loadPage = 500
	// resyncBackoffMin and resyncBackoffMax bound the pause between failed resyncs: soon enough that a leader change in an external cluster is
	// barely seen, slow enough not to hammer a cluster that is down.
	resyncBackoffMin = 50 * time.Millisecond
	resyncBackoffMax = 5 * time.Second
)

// A change is one record's step from old to now; nil means absent.
type change struct {
	def *definition
	key string
	old *entry
	now *entry
}

// feeder keeps the replica: one goroutine (run) follows etcd's watch and publishes snapshots; everybody else only loads the newest one.
type feeder struct {
	client *clientv3.Client
	layout layout
	logger *slog.Logger
	defs   map[string]*definition // by table name; fixed at Open

	// work holds the trees being changed. Only the goroutine inside run (before it starts: Open) may touch it.
	work map[string]*rows

	newest atomic.Pointer[snapshot]
	done   chan struct{} // closed when run has returned
	ask    chan struct{} // asks for progress before the next tick; capacity one, because asking twice is asking once

	mu     sync.Mutex // guards what follows, and orders publishing against subscribing
	subs   map[*subscription]struct{}
	health Health
}

func newFeeder(client *clientv3.Client, l layout, logger *slog.Logger, tables []AnyTable) *feeder {
	f := &feeder{client: client, layout: l, logger: logger, defs: map[string]*definition{}, work: map[string]*rows{},
		done: make(chan struct{}), ask: make(chan struct{}, 1), subs: map[*subscription]struct{}{}}
	empty := &snapshot{tables: map[string]*rows{}, next: make(chan struct{})}
	for _, t := range tables {
		d := t.definition()
		if f.defs[d.name] != nil {
			panic(fmt.Sprintf("store: table %q given to Open twice", d.name))
		}
		f.defs[d.name] = d
		f.work[d.name] = newRows(d)
		empty.tables[d.name] = newRows(d)
	}
	f.newest.Store(empty)
	return f
}

// run follows etcd until ctx ends. rev is the revision that load has brought the replica to.
func (f *feeder) run(ctx context.Context, rev int64) {
	defer close(f.done)
	defer f.closeSubscriptions()
	for {
		err := f.follow(ctx, rev)
		if ctx.Err() != nil {
			return
		}
		f.logger.Warn("store: watch ended, reading everything again", "error", err)
		rev, err = f.loadRetrying(ctx)
		if err != nil {
			return // ctx ended
		}
	}
}

// loadRetrying loads until it works or ctx ends.
func (f *feeder) loadRetrying(ctx context.Context) (rev int64, err error) {
	for pause := resyncBackoffMin; ; pause = min(2*pause, resyncBackoffMax) {
		rev, err = f.load(ctx)
		if err == nil || ctx.Err() != nil {
			return rev, err
		}
		f.note(func(h *Health) { h.LastError = err.Error() })
		f.logger.Warn("store: cannot read all records", "error", err, "retry", pause)
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// load reads every table at one revision and publishes the difference to what the replica holds. Unchanged records are not decoded again.
func (f *feeder) load(ctx context.Context) (rev int64, err error) {
	head, err := f.client.Get(ctx, f.layout.prefix)
	if err != nil {
		return 0, err
	}
	rev = head.Header.Revision
	fresh := map[string]*rows{}
	var changes []change
	for name, d := range f.defs {
		if fresh[name], err = f.loadTable(ctx, d, rev); err != nil {
			return 0, fmt.Errorf("table %s: %w", name, err)
		}
		changes = append(changes, difference(d, f.work[name], fresh[name])...)
	}
	f.work = fresh
	f.note(func(h *Health) { h.Loads++; h.LastError = "" })
	f.publish(rev, changes)
	return rev, nil
}

func (f *feeder) loadTable(ctx context.Context, d *definition, rev int64) (*rows, error) {
	out, old := newRows(d), f.work[d.name]
	prefix := f.layout.record(d, "")
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		resp, err := f.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(loadPage))
		if err != nil {
			return nil, err
		}
		for _, kv := range resp.Kvs {
			key := strings.TrimPrefix(string(kv.Key), prefix)
			e := old.get(key)
			if e == nil || e.mod != kv.ModRevision {
				e = f.decodeOrSkip(d, key, kv)
			}
			if e != nil {
				out.put(e)
			}
		}
		if !resp.More {
			return out, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// decodeOrSkip decodes a record; one that cannot be decoded is logged, counted and left out, so that one bad record does not blind the
// replica to all others. Transactions that touch it meet the error (the absent record fails their compare, the direct read fails to decode).
func (f *feeder) decodeOrSkip(d *definition, key string, kv *mvccpb.KeyValue) *entry {
	e, err := newEntry(d, key, kv)
	if err != nil {
		f.logger.Error("store: record does not decode", "table", d.name, "key", key, "revision", kv.ModRevision, "error", err)
		f.note(func(h *Health) { h.Undecodable++ })
		return nil
	}
	return e
}

// difference lists the steps that lead from old to now.
func difference(d *definition, old, now *rows) []change {
	var out []change
	now.byKey.Ascend(func(e *entry) bool {
		if was := old.get(e.key); was != e {
			out = append(out, change{d, e.key, was, e})
		}
		return true
	})
	old.byKey.Ascend(func(e *entry) bool {
		if now.get(e.key) == nil {
			out = append(out, change{d, e.key, e, nil})
		}
		return true
	})
	return out
}

// follow applies the watch's events from behind rev on, until the watch fails or ctx ends.
func (f *feeder) follow(ctx context.Context, rev int64) error {
	// Require a leader: a member cut off from its cluster must end the watch rather than keep it silent.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := f.client.Watch(ctx, f.layout.prefix, clientv3.WithPrefix(), clientv3.WithRev(rev+1))
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case resp, ok := <-events:
			if !ok {
				return errors.New("watch channel closed")
			}
			if err := resp.Err(); err != nil {
				return err
			}
			f.receive(&resp)
			continue
		case <-tick.C:
		case <-f.ask:
		}
		if err := f.client.RequestProgress(ctx); err != nil {
			return fmt.Errorf("request progress: %w", err)
		}
	}
}

// receive applies one response. etcd never splits a revision over two responses, so every published snapshot shows whole transactions.
func (f *feeder) receive(resp *clientv3.WatchResponse) {
	if resp.IsProgressNotify() {
		f.publish(resp.Header.Revision, nil)
		return
	}
	var changes []change
	rev := int64(0)
	for _, ev := range resp.Events {
		rev = max(rev, ev.Kv.ModRevision)
		if c, ok := f.apply(ev); ok {
			changes = append(changes, c)
		}
	}
	if rev > 0 {
		f.publish(rev, changes)
	}
}

// apply puts one event into the working trees. Events of tables this store was not opened with are not changes.
func (f *feeder) apply(ev *clientv3.Event) (change, bool) {
	name, key, ok := strings.Cut(strings.TrimPrefix(string(ev.Kv.Key), f.layout.prefix), "/")
	d := f.defs[name]
	if !ok || d == nil {
		return change{}, false
	}
	var now *entry
	if ev.Type == clientv3.EventTypePut {
		now = f.decodeOrSkip(d, key, ev.Kv)
	}
	var old *entry
	if now != nil {
		old = f.work[name].put(now)
	} else {
		old = f.work[name].remove(key)
	}
	return change{d, key, old, now}, old != nil || now != nil
}

// publish makes the working trees visible as the snapshot of rev and tells the subscribers. A revision already published is only noted as
// progress.
func (f *feeder) publish(rev int64, changes []change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health.LastProgress = time.Now()
	was := f.newest.Load()
	if rev <= was.rev && len(changes) == 0 {
		return
	}
	now := &snapshot{rev: max(rev, was.rev), tables: was.tables, next: make(chan struct{})}
	if len(changes) > 0 {
		now.tables = maps.Clone(was.tables)
		frozen := map[string]bool{}
		for _, c := range changes {
			if !frozen[c.def.name] {
				frozen[c.def.name] = true
				now.tables[c.def.name] = f.work[c.def.name].freeze()
			}
		}
	}
	f.newest.Store(now)
	close(was.next)
	for sub := range f.subs {
		sub.offer(now.rev, changes)
	}
}

// askProgress makes the feeder ask etcd now whether there is anything it has not seen.
func (f *feeder) askProgress() {
	select {
	case f.ask <- struct{}{}:
	default:
	}
}

func (f *feeder) note(set func(*Health)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set(&f.health)
}

// waitRevision returns when the newest snapshot shows rev or later.
func (f *feeder) waitRevision(ctx context.Context, rev int64) error {
	for {
		snap := f.newest.Load()
		if snap.rev >= rev {
			return nil
		}
		select {
		case <-snap.next:
		case <-ctx.Done():
			return ctx.Err()
		case <-f.done:
			return errClosed
		}
	}
}
