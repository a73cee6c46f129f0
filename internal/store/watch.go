package store

import (
	"context"
	"maps"
	"slices"
)

// A Batch says that something changed, not what: the receiver looks at the newest View.
type Batch struct {
	Revision int64    // the newest revision this batch speaks of; a View taken now shows at least it
	Tables   []string // names of the tables that changed, sorted
}

// A subscription is one consumer's bounded mailbox. The feeder never waits for a consumer: what is not yet taken is merged with what is new.
// All fields are guarded by feeder.mu.
type subscription struct {
	tables map[string]bool // the tables of interest
	// ready has capacity one: it holds "there is something", which needs no second copy.
	ready chan struct{}
	// batches is set for Watch. Capacity one: the feeder, the only sender, takes back an untaken batch and puts in the merged one.
	batches chan Batch
	// pending is set for a Feed: the record each changed key had when the consumer last looked. Bounded by the number of keys.
	pending map[string]*entry
}

// offer gives the subscription a published change set. Called by the feeder with feeder.mu held; never blocks.
func (sub *subscription) offer(rev int64, changes []change) {
	touched := map[string]bool{}
	for _, c := range changes {
		if !sub.tables[c.def.name] {
			continue
		}
		touched[c.def.name] = true
		if sub.pending != nil {
			if _, known := sub.pending[c.key]; !known {
				sub.pending[c.key] = c.old
			}
		}
	}
	if len(touched) > 0 {
		sub.wake(rev, touched)
	}
}

func (sub *subscription) wake(rev int64, touched map[string]bool) {
	if sub.batches == nil {
		select {
		case sub.ready <- struct{}{}:
		default:
		}
		return
	}
	select {
	case untaken := <-sub.batches:
		for _, name := range untaken.Tables {
			touched[name] = true
		}
	default:
	}
	sub.batches <- Batch{Revision: rev, Tables: slices.Sorted(maps.Keys(touched))}
}

func (sub *subscription) close() {
	if sub.batches != nil {
		close(sub.batches)
		return
	}
	close(sub.ready)
}

// Watch returns a channel that receives a Batch after any of the tables changed; none means all tables. The first batch comes at once, so a
// loop that acts on each batch needs no separate start. Batches not yet received are merged: a slow receiver sees fewer, never blocks the
// store, and never misses the last one. The channel closes when ctx ends or the store closes.
func (s *Store) Watch(ctx context.Context, tables ...AnyTable) <-chan Batch {
	sub := &subscription{tables: map[string]bool{}, batches: make(chan Batch, 1)}
	for _, t := range tables {
		sub.tables[t.definition().name] = true
	}
	if len(tables) == 0 {
		for name := range s.feed.defs {
			sub.tables[name] = true
		}
	}
	s.feed.subscribe(ctx, sub, func(snap *snapshot) { sub.wake(snap.rev, maps.Clone(sub.tables)) })
	return sub.batches
}

// A Change is one record's step between two looks. Old is nil when the record was created, New when it was deleted. The values are shared:
// the receiver must not change them.
type Change[T any] struct {
	Key string
	Old *T
	New *T
}

// A Feed is a stream of one table's changes for one consumer, merged per key: a record changed five times between two calls of Take shows
// once, with the value before the first and after the last. The first Take returns every record as created.
type Feed[T any] struct {
	feed *feeder
	sub  *subscription
	def  *definition
}

// WatchRecords starts a Feed of the table. It ends when ctx ends or the store closes.
func WatchRecords[T any](ctx context.Context, s *Store, t Table[T]) *Feed[T] {
	tableRows(s, t.def)
	sub := &subscription{tables: map[string]bool{t.def.name: true}, ready: make(chan struct{}, 1), pending: map[string]*entry{}}
	s.feed.subscribe(ctx, sub, func(snap *snapshot) {
		snap.rows(t.def).byKey.Ascend(func(e *entry) bool {
			sub.pending[e.key] = nil
			return true
		})
		sub.wake(snap.rev, nil)
	})
	return &Feed[T]{feed: s.feed, sub: sub, def: t.def}
}

// Ready receives a value when Take has something to return (once at the start, even for an empty table) and is closed at the end.
func (f *Feed[T]) Ready() <-chan struct{} { return f.sub.ready }

// Take returns the changes since the last Take in key order, and the view they lead to.
func (f *Feed[T]) Take() (View, []Change[T]) {
	f.feed.mu.Lock()
	pending := f.sub.pending
	f.sub.pending = map[string]*entry{}
	snap := f.feed.newest.Load()
	f.feed.mu.Unlock()

	var out []Change[T]
	for _, key := range slices.Sorted(maps.Keys(pending)) {
		old, now := pending[key], snap.rows(f.def).get(key)
		if old == now {
			continue // created and deleted again
		}
		c := Change[T]{Key: key}
		if old != nil {
			c.Old = old.value.(*T)
		}
		if now != nil {
			c.New = now.value.(*T)
		}
		out = append(out, c)
	}
	return View{snap}, out
}

// subscribe adds sub after calling begin with the snapshot from which on sub will hear of every change. The subscription ends with ctx.
func (f *feeder) subscribe(ctx context.Context, sub *subscription, begin func(*snapshot)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subs == nil { // the feeder has ended
		sub.close()
		return
	}
	begin(f.newest.Load())
	f.subs[sub] = struct{}{}
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, on := f.subs[sub]; on {
			delete(f.subs, sub)
			sub.close()
		}
	})
}

func (f *feeder) closeSubscriptions() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for sub := range f.subs {
		sub.close()
	}
	f.subs = nil
}
