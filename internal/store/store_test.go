package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// guest is the record of these tests.
type guest struct {
	ID     string            `json:"id"`
	Name   string            `json:"name"`
	Host   string            `json:"host"`
	Number int               `json:"number"`
	Tags   map[string]string `json:"tags,omitempty"`
}

var (
	guests = NewTable("guests",
		Index("host", func(g *guest) []string { return []string{g.Host} }),
		Index("number", func(g *guest) []string { return []string{fmt.Sprintf("%08d", g.Number)} }),
		Unique("name", func(g *guest) []string {
			if g.Name == "" {
				return nil
			}
			return []string{g.Name}
		}))
	plain = NewTable[guest]("plain")
)

// testTimeout bounds every wait of these tests; only a bug reaches it.
const testTimeout = 30 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openAt(t testing.TB, dir string, tables ...AnyTable) *Store {
	t.Helper()
	if len(tables) == 0 {
		tables = []AnyTable{guests, plain}
	}
	s, err := Open(testContext(t), Options{DataDir: dir, Tables: tables, Logger: quiet(), LeadershipTTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func open(t testing.TB) *Store {
	t.Helper()
	return openAt(t, t.TempDir())
}

// update commits fn and waits until the replica shows it.
func update(t testing.TB, s *Store, fn func(tx *Tx) error) int64 {
	t.Helper()
	rev, err := s.UpdateVisible(testContext(t), fn)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestReplicaShowsAcknowledgedWritesByKeyAndByIndex(t *testing.T) {
	t.Parallel()
	s := open(t)
	update(t, s, func(tx *Tx) error {
		for i := range 5 {
			g := guest{ID: fmt.Sprint(i), Name: fmt.Sprintf("vm%d", i), Host: fmt.Sprintf("h%d", i%2), Number: 10 - i}
			if err := Put(tx, guests, g.ID, g); err != nil {
				return err
			}
		}
		return nil
	})
	if g, ok := Lookup(s, guests, "3"); !ok || g.Name != "vm3" {
		t.Fatalf("Lookup(3) = %+v, %v", g, ok)
	}
	if got := idsOf(By(s, guests, "host", "h1")); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("on h1: %v", got)
	}
	if g, ok := One(s, guests, "name", "vm4"); !ok || g.ID != "4" {
		t.Errorf("One(name vm4) = %+v, %v", g, ok)
	}
	update(t, s, func(tx *Tx) error {
		g, err := Get(tx, guests, "3")
		g.Host = "h0"
		return errors.Join(err, Put(tx, guests, g.ID, g), Delete(tx, guests, "0"))
	})
	if got := idsOf(By(s, guests, "host", "h0")); !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("on h0 after the move: %v", got)
	}
	if got := idsOf(All(s, guests)); !slices.Equal(got, []string{"1", "2", "3", "4"}) {
		t.Errorf("all: %v", got)
	}
}

func idsOf(gs []*guest) []string {
	var out []string
	for _, g := range gs {
		out = append(out, g.ID)
	}
	return out
}

func TestViewStaysAsItWas(t *testing.T) {
	t.Parallel()
	s := open(t)
	update(t, s, func(tx *Tx) error { return Put(tx, guests, "a", guest{ID: "a", Host: "h1"}) })
	before := s.View()
	update(t, s, func(tx *Tx) error { return Delete(tx, guests, "a") })
	if _, ok := Lookup(before, guests, "a"); !ok || len(By(before, guests, "host", "h1")) != 1 {
		t.Error("the older view lost its record")
	}
	if Count(s, guests) != 0 || s.Revision() <= before.Revision() {
		t.Errorf("the newer view: %d records at revision %d", Count(s, guests), s.Revision())
	}
}

func TestPagesThroughAnIndexSeeEveryRecordOnceInOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	update(t, s, func(tx *Tx) error {
		for i := range 25 {
			g := guest{ID: fmt.Sprintf("%02d", i), Number: i / 3} // ties within the index
			if err := Put(tx, guests, g.ID, g); err != nil {
				return err
			}
		}
		return nil
	})
	page := func(v View, after Cursor) (ids []string, last Cursor) {
		for c, g := range Ascend(v, guests, "number", after) {
			if ids, last = append(ids, g.ID), c; len(ids) == 4 {
				break
			}
		}
		return ids, last
	}
	var all []string
	v, at := s.View(), Cursor{}
	for {
		ids, last := page(v, at)
		if len(ids) == 0 {
			break
		}
		all, at = append(all, ids...), last
	}
	if len(all) != 25 || !slices.IsSorted(all) {
		t.Errorf("ascending pages: %v", all)
	}
	var down []string
	for c, g := range Descend(v, guests, "number", Cursor{}) {
		down = append(down, g.ID)
		if len(down) == 10 {
			for _, g := range Descend(v, guests, "number", c) {
				down = append(down, g.ID)
			}
			break
		}
	}
	slices.Reverse(down)
	if !slices.Equal(down, all) {
		t.Errorf("descending: %v", down)
	}
}

func TestTransactionSeesItsOwnWrites(t *testing.T) {
	t.Parallel()
	s := open(t)
	update(t, s, func(tx *Tx) error {
		return errors.Join(Put(tx, plain, "h/a", guest{ID: "a"}), Put(tx, plain, "h/b", guest{ID: "b"}), Put(tx, plain, "i/c", guest{ID: "c"}))
	})
	for _, base := range []string{"replica", "etcd"} {
		_, err := s.Update(testContext(t), func(tx *Tx) error {
			if base == "etcd" {
				tx.base, tx.rev = nil, 0
			}
			if err := errors.Join(Delete(tx, plain, "h/a"), Put(tx, plain, "h/z", guest{ID: "z"})); err != nil {
				return err
			}
			got, err := List(tx, plain, "h/")
			if diff := cmp.Diff([]guest{{ID: "b"}, {ID: "z"}}, got); diff != "" || err != nil {
				t.Errorf("%s: list: %v %s", base, err, diff)
			}
			if _, err := Get(tx, plain, "h/a"); !cloud.Is(err, cloud.KindNotFound) {
				t.Errorf("%s: deleted record: %v", base, err)
			}
			return errAbandon
		})
		if !errors.Is(err, errAbandon) {
			t.Fatal(err)
		}
	}
	if Count(s, plain) != 3 {
		t.Error("an abandoned transaction wrote")
	}
}

var errAbandon = errors.New("abandon")

func TestValueFromGetIsNotShared(t *testing.T) {
	t.Parallel()
	s := open(t)
	update(t, s, func(tx *Tx) error { return Put(tx, plain, "a", guest{Tags: map[string]string{"k": "v"}}) })
	_, err := s.Update(testContext(t), func(tx *Tx) error {
		g, err := Get(tx, plain, "a")
		g.Tags["k"] = "scribbled"
		return errors.Join(err, errAbandon)
	})
	if !errors.Is(err, errAbandon) {
		t.Fatal(err)
	}
	if g, _ := Lookup(s, plain, "a"); g.Tags["k"] != "v" {
		t.Error("a transaction's copy is the replica's value")
	}
}

func TestBlindPutThenDeleteRemovesTheStoredRecord(t *testing.T) {
	t.Parallel()
	s := open(t)
	update(t, s, func(tx *Tx) error { return Put(tx, plain, "a", guest{ID: "a"}) })
	update(t, s, func(tx *Tx) error { return errors.Join(Put(tx, plain, "a", guest{ID: "b"}), Delete(tx, plain, "a")) })
	if g, ok := Lookup(s, plain, "a"); ok {
		t.Errorf("still there: %+v", g)
	}
}

func TestCreateRefusesAnExistingRecord(t *testing.T) {
	t.Parallel()
	s := open(t)
	create := func(tx *Tx) error { return Create(tx, plain, "a", guest{}) }
	update(t, s, create)
	if _, err := s.Update(testContext(t), create); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("second create: %v", err)
	}
}

func TestErrorFromStaleReplicaIsConfirmedFirst(t *testing.T) {
	t.Parallel()
	s := open(t)
	stale := s.current()
	update(t, s, func(tx *Tx) error { return Put(tx, plain, "a", guest{}) })
	s.feed.newest.Store(&snapshot{rev: stale.rev, tables: stale.tables, next: make(chan struct{})})
	runs := 0
	_, err := s.Update(testContext(t), func(tx *Tx) error {
		runs++
		_, err := Get(tx, plain, "a")
		return err
	})
	if err != nil || runs != 2 {
		t.Errorf("after %d runs: %v", runs, err)
	}
}

func TestUniqueValueHasOneOwner(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	update(t, s, func(tx *Tx) error { return Put(tx, guests, "1", guest{ID: "1", Name: "web"}) })
	second := func(tx *Tx) error { return Put(tx, guests, "2", guest{ID: "2", Name: "web"}) }
	if _, err := s.Update(ctx, second); !cloud.Is(err, cloud.KindConflict) {
		t.Fatalf("second owner: %v", err)
	}
	// The owner may write itself again, and give the name away; the name may move within one transaction.
	update(t, s, func(tx *Tx) error { return Put(tx, guests, "1", guest{ID: "1", Name: "web", Host: "h"}) })
	update(t, s, func(tx *Tx) error { return errors.Join(Delete(tx, guests, "1"), second(tx)) })
	update(t, s, func(tx *Tx) error {
		g, err := GetBy(tx, guests, "name", "web")
		if g.ID != "2" {
			t.Errorf("owner is %q", g.ID)
		}
		g.Name = "db"
		return errors.Join(err, Put(tx, guests, "2", g))
	})
	update(t, s, func(tx *Tx) error { return Put(tx, guests, "3", guest{ID: "3", Name: "web"}) })
}

func TestListIsPhantomSafe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		prior []string
		other func(tx *Tx) error
		runs  int
	}{
		{"insert", []string{"h1/a"}, func(tx *Tx) error { return Put(tx, plain, "h1/b", guest{}) }, 2},
		{"change", []string{"h1/a"}, func(tx *Tx) error { return Put(tx, plain, "h1/a", guest{ID: "new"}) }, 2},
		{"delete", []string{"h1/a"}, func(tx *Tx) error { return Delete(tx, plain, "h1/a") }, 2},
		{"insert elsewhere", []string{"h1/a"}, func(tx *Tx) error { return Put(tx, plain, "h2/a", guest{}) }, 1},
		{"delete elsewhere", []string{"h1/a", "h2/a"}, func(tx *Tx) error { return Delete(tx, plain, "h2/a") }, 1},
	} {
		for _, prefix := range []string{"h1/", "h1"} {
			runs := c.runs
			if c.name == "delete elsewhere" && prefix == "h1" {
				runs = 2 // a prefix without a path element watches all tombstones of the table
			}
			t.Run(c.name+" below "+prefix, func(t *testing.T) {
				s := open(t)
				for _, key := range c.prior {
					update(t, s, func(tx *Tx) error { return Put(tx, plain, key, guest{}) })
				}
				got := 0
				_, err := s.Update(testContext(t), func(tx *Tx) error {
					got++
					if _, err := List(tx, plain, prefix); err != nil {
						return err
					}
					if got == 1 {
						update(t, s, c.other)
					}
					return Put(tx, plain, "sum", guest{})
				})
				if err != nil || got != runs {
					t.Errorf("%d runs, want %d; %v", got, runs, err)
				}
			})
		}
	}
}

func TestTooLargeTransactionIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, err := s.Update(testContext(t), func(tx *Tx) error {
		for i := range operationsMax + 1 {
			if err := Put(tx, plain, fmt.Sprint(i), guest{}); err != nil {
				return err
			}
		}
		return nil
	})
	if !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestDataDirectoryHasOneUser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openAt(t, dir)
	if _, err := Open(testContext(t), Options{DataDir: dir, Logger: quiet()}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("second Open: %v", err)
	}
}

func TestReopenedStoreHasEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openAt(t, dir)
	update(t, s, func(tx *Tx) error { return Put(tx, guests, "a", guest{ID: "a", Name: "n"}) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir)
	if g, ok := One(s, guests, "name", "n"); !ok || g.ID != "a" {
		t.Errorf("after reopening: %+v", g)
	}
}

// Whoever loses every race has met no state that forbids what he wants, as a conflict would say: workflows try again what is unavailable.
func TestWhoLosesEveryRaceIsToldToTryAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	tries := 0
	_, err := s.Update(ctx, func(tx *Tx) error {
		tries++
		g, err := Peek(tx, plain, "hot")
		if err != nil {
			return err
		}
		if _, err := s.Update(ctx, func(tx *Tx) error { return Put(tx, plain, "hot", guest{Number: tries}) }); err != nil { // somebody is always faster
			return err
		}
		next := guest{Number: -1}
		if g != nil {
			next.Number = -g.Number
		}
		return Put(tx, plain, "hot", next)
	})
	if !cloud.Is(err, cloud.KindUnavailable) || tries != txnAttemptsMax {
		t.Errorf("after %d tries: %v", tries, err)
	}
}
