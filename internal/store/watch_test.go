package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// receive takes one value or fails.
func receive[T any](t *testing.T, ch <-chan T) (v T, ok bool) {
	t.Helper()
	select {
	case v, ok = <-ch:
		return v, ok
	case <-testContext(t).Done():
		t.Fatal("nothing came")
		return v, false
	}
}

func TestWatchKicksAtOnceThenMergesForASlowReceiver(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx, cancel := context.WithCancel(testContext(t))
	batches := s.Watch(ctx, guests, plain)
	if b, _ := receive(t, batches); !slices.Equal(b.Tables, []string{"guests", "plain"}) {
		t.Errorf("first batch: %+v", b)
	}
	var last int64
	for i := range 5 {
		update(t, s, func(tx *Tx) error { return Put(tx, guests, fmt.Sprint(i), guest{}) })
		last = update(t, s, func(tx *Tx) error { return Put(tx, plain, fmt.Sprint(i), guest{}) })
	}
	if b, _ := receive(t, batches); b.Revision != last || len(b.Tables) != 2 {
		t.Errorf("merged batch: %+v, last revision %d", b, last)
	}
	select {
	case b := <-batches:
		t.Errorf("one more batch: %+v", b)
	default:
	}
	cancel()
	if b, ok := receive(t, batches); ok {
		t.Errorf("after its context ended: %+v", b)
	}
}

func TestWatchIsSilentAboutOtherTables(t *testing.T) {
	t.Parallel()
	s := open(t)
	batches := s.Watch(testContext(t), plain)
	receive(t, batches)
	update(t, s, func(tx *Tx) error { return Put(tx, guests, "a", guest{}) })
	select {
	case b := <-batches:
		t.Errorf("got %+v", b)
	default:
	}
}

func TestFeedShowsEachKeyOnceWithItsFirstOldAndLastNewValue(t *testing.T) {
	t.Parallel()
	s := open(t)
	set := func(key string, n int) {
		update(t, s, func(tx *Tx) error { return Put(tx, plain, key, guest{Number: n}) })
	}
	remove := func(key string) { update(t, s, func(tx *Tx) error { return Delete(tx, plain, key) }) }
	set("a", 1)
	set("b", 1)
	feed := WatchRecords(testContext(t), s, plain)
	take := func() (out []string) {
		receive(t, feed.Ready())
		view, changes := feed.Take()
		for _, c := range changes {
			out = append(out, fmt.Sprintf("%s %s->%s", c.Key, number(c.Old), number(c.New)))
			if now, _ := Lookup(view, plain, c.Key); now != c.New {
				t.Errorf("%s: the view has another value than the change", c.Key)
			}
		}
		return out
	}
	if got, want := take(), []string{"a -->1", "b -->1"}; !slices.Equal(got, want) {
		t.Errorf("at the start: %q", got)
	}
	set("a", 2)
	set("a", 3)
	remove("b")
	set("c", 1)
	set("d", 1)
	remove("d")
	if got, want := take(), []string{"a 1->3", "b 1->-", "c -->1"}; !slices.Equal(got, want) {
		t.Errorf("merged: %q", got)
	}
}

func number(g *guest) string {
	if g == nil {
		return "-"
	}
	return fmt.Sprint(g.Number)
}

func TestCloseEndsWatchesAndWaits(t *testing.T) {
	t.Parallel()
	s := open(t)
	batches := s.Watch(context.Background(), plain)
	receive(t, batches)
	feed := WatchRecords(context.Background(), s, plain)
	receive(t, feed.Ready())
	waited := make(chan error, 1)
	go func() { waited <- s.WaitRevision(context.Background(), 1<<60) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := receive(t, batches); ok {
		t.Error("watch still open")
	}
	if _, ok := receive(t, feed.Ready()); ok {
		t.Error("feed still open")
	}
	if err, _ := receive(t, waited); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("wait ended with %v", err)
	}
	if _, ok := receive(t, s.Watch(context.Background())); ok {
		t.Error("a watch of a closed store is open")
	}
}

func TestRecordsOfALeaseVanishWithItAndListNoticesIt(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	lease, err := s.Lease(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *Tx) error { return PutLease(tx, plain, "here", guest{}, lease) })
	feed := WatchRecords(ctx, s, plain)
	receive(t, feed.Ready())
	feed.Take()
	runs := 0
	_, err = s.Update(ctx, func(tx *Tx) error {
		runs++
		all, err := List(tx, plain, "")
		if runs == 1 {
			err = errors.Join(err, lease.Release(ctx))
		} else if len(all) != 0 {
			t.Errorf("second run sees %v", all)
		}
		return errors.Join(err, Put(tx, guests, "seen", guest{}))
	})
	if err != nil || runs != 2 {
		t.Errorf("%d runs: %v", runs, err)
	}
	receive(t, lease.Lost())
	receive(t, feed.Ready())
	if _, changes := feed.Take(); len(changes) != 1 || changes[0].New != nil {
		t.Errorf("changes: %+v", changes)
	}
	if _, err := s.Update(ctx, func(tx *Tx) error { return PutLease(tx, plain, "again", guest{}, lease) }); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("write under an ended lease: %v", err)
	}
}

func TestLeadersFollowOneAnotherAndADeposedOneCannotWrite(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	first, err := s.Campaign(ctx, "control", "one")
	if err != nil {
		t.Fatal(err)
	}
	write := func(l *Leadership) error {
		_, err := s.Update(ctx, func(tx *Tx) error {
			tx.Require(l)
			return Put(tx, plain, "by", guest{ID: l.Name()})
		})
		return err
	}
	if err := write(first); err != nil {
		t.Fatal(err)
	}
	elected := make(chan *Leadership, 1)
	go func() {
		l, err := s.Campaign(ctx, "control", "two")
		if err != nil {
			t.Error(err)
		}
		elected <- l
	}()
	if id, ok, err := s.Leader(ctx, "control"); id != "one" || !ok || err != nil {
		t.Errorf("leader is %q, %v, %v", id, ok, err)
	}
	// The first leader is cut off: its session ends without its doing.
	if _, err := s.client.Revoke(ctx, first.session.Lease()); err != nil {
		t.Fatal(err)
	}
	second, _ := receive(t, elected)
	receive(t, first.Lost())
	if err := write(first); !errors.Is(err, ErrDeposed) || !cloud.Is(err, cloud.KindStale) {
		t.Errorf("write of the deposed leader: %v", err)
	}
	if err := write(second); err != nil || second.Revision() <= first.Revision() {
		t.Errorf("write of the new leader: %v; fencing revisions %d, %d", err, first.Revision(), second.Revision())
	}
	if err := second.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Leader(ctx, "control"); ok || err != nil {
		t.Errorf("there is a leader after the resignation: %v", err)
	}
}

func TestCandidateWhoGivesUpLeavesNoTrace(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	leader, err := s.Campaign(ctx, "control", "one")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := s.Campaign(short, "control", "two"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("campaign: %v", err)
	}
	if err := leader.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if id, ok, err := s.Leader(ctx, "control"); ok || err != nil {
		t.Errorf("leader is %q: %v", id, err)
	}
}

func TestEmbeddedStoreForgetsTheCandidatesOfItsFormerLife(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openAt(t, dir)
	if _, err := s.Campaign(testContext(t), "control", "before"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir)
	if id, ok, err := s.Leader(testContext(t), "control"); ok || err != nil {
		t.Errorf("leader is %q: %v", id, err)
	}
}
