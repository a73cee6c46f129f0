package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// checkReplica compares the replica, records and indexes, with what etcd holds.
func checkReplica(ctx context.Context, s *Store) error {
	if err := s.Sync(ctx); err != nil {
		return err
	}
	v := s.View()
	prefix := s.layout.record(guests.def, "")
	resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(v.Revision()))
	if err != nil {
		return err
	}
	if err := s.Verify(ctx); err != nil {
		return err
	}
	byHost, names := map[string][]string{}, map[string]string{}
	for _, kv := range resp.Kvs {
		key := strings.TrimPrefix(string(kv.Key), prefix)
		e, err := newEntry(guests.def, key, kv)
		if err != nil {
			return err
		}
		g := e.value.(*guest)
		byHost[g.Host] = append(byHost[g.Host], key)
		if g.Name != "" {
			names[g.Name] = key
		}
	}
	indexed, last := map[string][]string{}, Cursor{}
	for at := range Ascend(v, guests, "host", Cursor{}) {
		if at.Value < last.Value {
			return fmt.Errorf("index out of order at %v", at)
		}
		indexed[at.Value], last = append(indexed[at.Value], at.Key), at
	}
	if diff := cmp.Diff(byHost, indexed); diff != "" {
		return fmt.Errorf("index differs from etcd: %s", diff)
	}
	return checkGuards(ctx, s, names)
}

// checkGuards compares the guard keys with the names that records have.
func checkGuards(ctx context.Context, s *Store, names map[string]string) error {
	prefix := s.layout.guard(guests.def, guests.def.mustIndex("name"), "")
	resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	guards := map[string]string{}
	for _, kv := range resp.Kvs {
		guards[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	if diff := cmp.Diff(names, guards); diff != "" {
		return fmt.Errorf("guards differ from records: %s", diff)
	}
	return nil
}

// model is the store as a map: what any sequence of transactions must amount to.
type model map[string]guest

func (m model) nameOwner(name string) string {
	for key, g := range m {
		if name != "" && g.Name == name {
			return key
		}
	}
	return ""
}

// operation is one random step inside a transaction. It returns whether the model refuses it.
type operation struct {
	kind string
	key  string
	g    guest
}

func drawOperation(t *rapid.T) operation {
	key := fmt.Sprintf("%d/%d", rapid.IntRange(0, 2).Draw(t, "dir"), rapid.IntRange(0, 3).Draw(t, "id"))
	return operation{
		kind: rapid.SampledFrom([]string{"put", "put", "create", "delete", "get", "list"}).Draw(t, "kind"),
		key:  key,
		g: guest{ID: key, Name: rapid.SampledFrom([]string{"", "n1", "n2", "n3"}).Draw(t, "name"),
			Host: rapid.SampledFrom([]string{"h1", "h2"}).Draw(t, "host"), Number: rapid.IntRange(0, 9).Draw(t, "number")},
	}
}

// apply does the operation to the model; an error means that the transaction must refuse it with that kind.
func (o operation) apply(m model) (kind cloud.Kind, refused bool) {
	_, exists := m[o.key]
	owner := m.nameOwner(o.g.Name)
	switch o.kind {
	case "create", "put":
		if o.kind == "create" && exists || owner != "" && owner != o.key {
			return cloud.KindConflict, true
		}
		m[o.key] = o.g
	case "delete":
		delete(m, o.key)
	case "get":
		if !exists {
			return cloud.KindNotFound, true
		}
	}
	return 0, false
}

// perform does the operation to the store and compares what it reads with the model before the operation.
func (o operation) perform(tx *Tx, before model) error {
	switch o.kind {
	case "put":
		return Put(tx, guests, o.key, o.g)
	case "create":
		return Create(tx, guests, o.key, o.g)
	case "delete":
		return Delete(tx, guests, o.key)
	case "get":
		g, err := Get(tx, guests, o.key)
		if err == nil && !cmp.Equal(g, before[o.key]) {
			return fmt.Errorf("get %s: %+v, want %+v", o.key, g, before[o.key])
		}
		return err
	}
	dir := o.key[:2]
	got, err := List(tx, guests, dir)
	want := []guest{}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if strings.HasPrefix(key, dir) {
			want = append(want, before[key])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("list %s: %s", dir, diff)
	}
	return err
}

func TestAnySequenceOfTransactionsAmountsToTheModel(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	rapid.Check(t, func(rt *rapid.T) {
		committed := model{}
		for _, g := range All(s, guests) {
			committed[g.ID] = *g
		}
		for range rapid.IntRange(1, 6).Draw(rt, "transactions") {
			operations := rapid.SliceOfN(rapid.Custom(drawOperation), 1, 6).Draw(rt, "operations")
			fromEtcd := rapid.Bool().Draw(rt, "read etcd")
			scratch := maps.Clone(committed)
			var want error
			rev, err := s.Update(ctx, func(tx *Tx) error {
				if fromEtcd {
					tx.base, tx.rev = nil, 0
				}
				scratch, want = maps.Clone(committed), nil
				for _, o := range operations {
					before := maps.Clone(scratch)
					kind, refused := o.apply(scratch)
					err := o.perform(tx, before)
					if refused {
						want = cloud.Errorf(kind, "refused")
					}
					if refused != (err != nil) || refused && !cloud.Is(err, kind) {
						return fmt.Errorf("%+v on %v: %w, refused by the model: %v", o, before, err, refused)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			if (err != nil) != (want != nil) || err != nil && cloud.KindOf(err) != cloud.KindOf(want) {
				rt.Fatalf("transaction: %v, want %v", err, want)
			}
			if err == nil {
				committed = scratch
				if err := s.WaitRevision(ctx, rev); err != nil {
					rt.Fatal(err)
				}
			}
		}
		shown := model{}
		for _, g := range All(s, guests) {
			shown[g.ID] = *g
		}
		if diff := cmp.Diff(committed, shown); diff != "" {
			rt.Fatal(diff)
		}
		if err := checkReplica(ctx, s); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestConcurrentClaimsNeverOversubscribe(t *testing.T) {
	t.Parallel()
	const hosts, room, workers, claimsEach = 3, 5, 8, 6
	s := open(t)
	ctx := testContext(t)
	errFull := errors.New("all hosts are full")
	claim := func(name string, first int) error {
		_, err := s.Update(ctx, func(tx *Tx) error {
			for i := range hosts {
				host := fmt.Sprintf("h%d/", (first+i)%hosts)
				taken, err := List(tx, plain, host)
				if err != nil {
					return err
				}
				if len(taken) < room {
					return Create(tx, plain, host+name, guest{ID: name})
				}
			}
			return errFull
		})
		return err
	}
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		accepted int
	)
	for w := range workers {
		wg.Go(func() {
			for i := range claimsEach {
				err := claim(fmt.Sprintf("vm-%d-%d", w, i), w+i)
				if err != nil && !errors.Is(err, errFull) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for h := range hosts {
		if n := len(Prefixed(s, plain, fmt.Sprintf("h%d/", h))); n != room {
			t.Errorf("host %d holds %d, want %d", h, n, room)
		}
	}
	if accepted != hosts*room {
		t.Errorf("%d claims accepted, room for %d", accepted, hosts*room)
	}
}

func TestConcurrentTransfersKeepTheSum(t *testing.T) {
	t.Parallel()
	const accounts, workers, transfersEach = 4, 6, 25
	s := open(t)
	ctx := testContext(t)
	update(t, s, func(tx *Tx) error {
		for i := range accounts {
			if err := Put(tx, plain, fmt.Sprint(i), guest{Number: 100}); err != nil {
				return err
			}
		}
		return nil
	})
	sum := func(gs []guest) (n int) {
		for _, g := range gs {
			n += g.Number
		}
		return n
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range transfersEach {
				from, to := fmt.Sprint((w+i)%accounts), fmt.Sprint((w+2*i+1)%accounts)
				_, err := s.Update(ctx, func(tx *Tx) error {
					all, err := List(tx, plain, "")
					if n := sum(all); err == nil && n != 100*accounts {
						return cloud.Errorf(cloud.KindInvalid, "a transaction sees the sum %d", n)
					}
					a, errA := Get(tx, plain, from)
					a.Number--
					errA = errors.Join(err, errA, Put(tx, plain, from, a))
					b, errB := Get(tx, plain, to)
					b.Number++
					return errors.Join(errA, errB, Put(tx, plain, to, b))
				})
				// With six writers on four records, losing every race is possible and says so; anything else is wrong.
				if err != nil && !cloud.Is(err, cloud.KindUnavailable) {
					t.Error(err)
				}
				total := 0
				for _, g := range All(s, plain) {
					total += g.Number
				}
				if total != 100*accounts {
					t.Errorf("a view shows the sum %d", total)
				}
			}
		})
	}
	wg.Wait()
}
