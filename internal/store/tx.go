package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A Tx is one attempt of a transaction: it reads one consistent revision of the store, buffers writes, and remembers what it has read so that
// the commit can ask etcd whether any of it has changed since. Tx is for one goroutine and only inside the function given to Update.
type Tx struct {
	ctx   context.Context
	store *Store
	// base is the snapshot read by an attempt that trusts the replica; nil when the attempt reads etcd.
	base *snapshot
	// rev is the revision all reads show; zero until the first read of an attempt that reads etcd.
	rev int64

	reads   map[string]int64  // full record key -> modification revision, zero when absent
	guarded map[string]string // full guard key -> owner's key read, empty when absent
	ranges  []rangeRead

	writes  map[string]*write // full record key
	claims  map[string]string // full guard key -> new owner's key, empty to release
	leaders []*Leadership

	ended bool
}

// rangeRead is a read of all records whose key begins with prefix.
type rangeRead struct {
	def    *definition
	prefix string
}

// write is one buffered record write.
type write struct {
	def    *definition
	key    string
	data   []byte // nil for a delete
	lease  int64
	gone   bool // delete
	absent bool // there was no record before the transaction, so that a delete has nothing to do
}

func newTx(ctx context.Context, s *Store, base *snapshot) *Tx {
	tx := &Tx{ctx: ctx, store: s, base: base, reads: map[string]int64{}, guarded: map[string]string{},
		writes: map[string]*write{}, claims: map[string]string{}}
	if base != nil {
		tx.rev = base.rev
	}
	return tx
}

// Get returns a copy of the record, with this transaction's own writes applied. An absent record is cloud.KindNotFound.
func Get[T any, K ~string](tx *Tx, t Table[T], key K) (T, error) {
	var out T
	v, err := tx.get(t.def, string(key), true)
	if err == nil && v == nil {
		err = cloud.E(cloud.KindNotFound, "", t.def.name+" "+string(key), nil)
	}
	if err != nil {
		return out, err
	}
	return *v.(*T), nil
}

// Peek is Get without the copy: the value may be shared and must not be changed. Nil means absent.
func Peek[T any, K ~string](tx *Tx, t Table[T], key K) (*T, error) {
	v, err := tx.get(t.def, string(key), false)
	if v == nil || err != nil {
		return nil, err
	}
	return v.(*T), nil
}

// GetBy returns a copy of the record that owns value in a unique index. None is cloud.KindNotFound.
func GetBy[T any, V ~string](tx *Tx, t Table[T], unique string, value V) (T, error) {
	i := t.def.mustIndex(unique)
	if !t.def.indexes[i].unique {
		panic(fmt.Sprintf("store: index %s of table %s is not unique", unique, t.def.name))
	}
	var none T
	owner, err := tx.owner(t.def, i, string(value))
	if err != nil {
		return none, err
	}
	if owner == "" {
		return none, cloud.E(cloud.KindNotFound, "", fmt.Sprintf("%s with %s %s", t.def.name, unique, value), nil)
	}
	return Get(tx, t, owner)
}

// Put writes the record, new or not. A value of a unique index that another record owns is cloud.KindConflict.
func Put[T any, K ~string](tx *Tx, t Table[T], key K, v T) error {
	return put(tx, t, string(key), &v, 0)
}

// PutLease is Put of a record that vanishes when the lease ends. Tables with unique indexes cannot hold such records.
func PutLease[T any, K ~string](tx *Tx, t Table[T], key K, v T, l *Lease) error {
	for _, ix := range t.def.indexes {
		if ix.unique {
			panic(fmt.Sprintf("store: leased record in table %s, which has the unique index %s", t.def.name, ix.name))
		}
	}
	return put(tx, t, string(key), &v, int64(l.id))
}

// Create is Put of a record that must not exist yet: cloud.KindConflict when it does.
func Create[T any, K ~string](tx *Tx, t Table[T], key K, v T) error {
	old, err := tx.get(t.def, string(key), false)
	if err != nil {
		return err
	}
	if old != nil {
		return cloud.E(cloud.KindConflict, "create", t.def.name+" "+string(key), fmt.Errorf("already exists"))
	}
	return put(tx, t, string(key), &v, 0)
}

// Delete removes the record. Deleting an absent record is no error and no write.
func Delete[T any, K ~string](tx *Tx, t Table[T], key K) error {
	old, err := tx.get(t.def, string(key), false)
	if err != nil || old == nil {
		return err
	}
	if err := tx.reclaim(t.def, string(key), old, nil); err != nil {
		return err
	}
	full := tx.store.layout.record(t.def, string(key))
	mod, read := tx.reads[full]
	tx.writes[full] = &write{def: t.def, key: string(key), gone: true, absent: read && mod == 0}
	return nil
}

// List returns copies of the records whose key begins with prefix, in key order, with this transaction's own writes applied. The commit
// fails and the transaction runs again if any such record was added, changed or removed meanwhile.
func List[T any, K ~string](tx *Tx, t Table[T], prefix K) ([]T, error) {
	values, err := tx.list(t.def, string(prefix), true)
	out := make([]T, 0, len(values))
	for _, v := range values {
		out = append(out, *v.(*T))
	}
	return out, err
}

// PeekList is List without the copies: the values may be shared and must not be changed.
func PeekList[T any, K ~string](tx *Tx, t Table[T], prefix K) ([]*T, error) {
	values, err := tx.list(t.def, string(prefix), false)
	out := make([]*T, 0, len(values))
	for _, v := range values {
		out = append(out, v.(*T))
	}
	return out, err
}

// Require makes the commit depend on l still being the leader: the writes of a deposed leader fail with cloud.KindStale, however late they
// arrive.
func (tx *Tx) Require(l *Leadership) { tx.leaders = append(tx.leaders, l) }

func put[T any](tx *Tx, t Table[T], key string, v *T, lease int64) error {
	if key == "" {
		return cloud.Errorf(cloud.KindInvalid, "%s: empty key", t.def.name)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return cloud.E(cloud.KindInternal, "encode", t.def.name+" "+key, err)
	}
	if t.def.hasUnique() {
		old, err := tx.get(t.def, key, false)
		if err != nil {
			return err
		}
		if err := tx.reclaim(t.def, key, old, v); err != nil {
			return err
		}
	}
	tx.writes[tx.store.layout.record(t.def, key)] = &write{def: t.def, key: key, data: data, lease: lease}
	return nil
}

func (d *definition) hasUnique() bool {
	return slices.ContainsFunc(d.indexes, func(ix index) bool { return ix.unique })
}

// get returns the record as *T in an any, nil when absent: from the own writes, else from the replica or etcd, remembering the read.
// With own set the value is the caller's to change.
func (tx *Tx) get(d *definition, key string, own bool) (any, error) {
	tx.check()
	full := tx.store.layout.record(d, key)
	if w := tx.writes[full]; w != nil {
		return w.value()
	}
	if tx.base != nil {
		if rows := tx.base.rows(d); rows != nil {
			return tx.fromReplica(d, full, rows.get(key), own)
		}
	}
	kvs, err := tx.fetch(full)
	if err != nil {
		return nil, err
	}
	if len(kvs) == 0 {
		tx.reads[full] = 0
		return nil, nil
	}
	tx.reads[full] = kvs[0].ModRevision
	return tx.decode(d, key, kvs[0].Value)
}

func (tx *Tx) fromReplica(d *definition, full string, e *entry, own bool) (any, error) {
	if e == nil {
		tx.reads[full] = 0
		return nil, nil
	}
	tx.reads[full] = e.mod
	if !own {
		return e.value, nil
	}
	return tx.clone(d, e)
}

// clone copies through JSON: the only copy that is deep for every T, and the same path a read from etcd takes.
func (tx *Tx) clone(d *definition, e *entry) (any, error) {
	data, err := json.Marshal(e.value)
	if err != nil {
		return nil, cloud.E(cloud.KindInternal, "encode", d.name+" "+e.key, err)
	}
	return tx.decode(d, e.key, data)
}

func (tx *Tx) decode(d *definition, key string, data []byte) (any, error) {
	v, err := d.decode(data)
	if err != nil {
		return nil, cloud.E(cloud.KindInternal, "decode", d.name+" "+key, err)
	}
	return v, nil
}

// value returns a fresh copy of the written record, nil for a delete.
func (w *write) value() (any, error) {
	if w.gone {
		return nil, nil
	}
	return w.def.decode(w.data)
}

// list returns the records under prefix in key order, own writes applied.
func (tx *Tx) list(d *definition, prefix string, own bool) ([]any, error) {
	tx.check()
	found, err := tx.scan(d, prefix, own)
	if err != nil {
		return nil, err
	}
	tx.ranges = append(tx.ranges, rangeRead{d, prefix})
	for _, w := range tx.writes {
		if w.def != d || !strings.HasPrefix(w.key, prefix) {
			continue
		}
		delete(found, w.key)
		if !w.gone {
			if found[w.key], err = w.value(); err != nil {
				return nil, err
			}
		}
	}
	out := make([]any, 0, len(found))
	for _, key := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[key])
	}
	return out, nil
}

// scan reads the stored records under prefix. Leased records are remembered one by one: they may vanish without a delete of ours.
func (tx *Tx) scan(d *definition, prefix string, own bool) (map[string]any, error) {
	found := map[string]any{}
	if tx.base != nil {
		if rows := tx.base.rows(d); rows != nil {
			return found, tx.scanReplica(d, rows, prefix, own, found)
		}
	}
	kvs, err := tx.fetch(tx.store.layout.record(d, prefix), clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	start := len(tx.store.layout.record(d, ""))
	for _, kv := range kvs {
		key := string(kv.Key[start:])
		if found[key], err = tx.decode(d, key, kv.Value); err != nil {
			return nil, err
		}
		if kv.Lease != 0 {
			tx.reads[string(kv.Key)] = kv.ModRevision
		}
	}
	return found, nil
}

func (tx *Tx) scanReplica(d *definition, rows *rows, prefix string, own bool, found map[string]any) (err error) {
	rows.prefixed(prefix, func(e *entry) bool {
		found[e.key] = e.value
		if own {
			found[e.key], err = tx.clone(d, e)
		}
		if e.lease != 0 {
			tx.reads[tx.store.layout.record(d, e.key)] = e.mod
		}
		return err == nil
	})
	return err
}

// owner returns the key of the record that owns a unique value, empty when none does, own writes applied.
func (tx *Tx) owner(d *definition, i int, value string) (string, error) {
	tx.check()
	guard := tx.store.layout.guard(d, i, value)
	if owner, claimed := tx.claims[guard]; claimed {
		return owner, nil
	}
	if owner, known := tx.guarded[guard]; known {
		return owner, nil
	}
	if tx.base != nil {
		if rows := tx.base.rows(d); rows != nil {
			owner := ""
			if e := rows.owner(i, value); e != nil {
				owner = e.key
			}
			tx.guarded[guard] = owner
			return owner, nil
		}
	}
	kvs, err := tx.fetch(guard)
	if err != nil {
		return "", err
	}
	if len(kvs) == 0 {
		tx.guarded[guard] = ""
		return "", nil
	}
	tx.guarded[guard] = string(kvs[0].Value)
	return tx.guarded[guard], nil
}

// reclaim moves the unique values of a record from old to now (each a *T in an any, nil when absent).
func (tx *Tx) reclaim(d *definition, key string, old, now any) error {
	for i, ix := range d.indexes {
		if !ix.unique {
			continue
		}
		var had, wants []string
		if old != nil {
			had = ix.values(old)
		}
		if now != nil {
			wants = ix.values(now)
		}
		for _, value := range wants {
			if slices.Contains(had, value) {
				continue
			}
			owner, err := tx.owner(d, i, value)
			if err != nil {
				return err
			}
			if owner != "" && owner != key {
				return cloud.E(cloud.KindConflict, "", d.name+" "+key, fmt.Errorf("%s %q is already used by %s", ix.name, value, owner))
			}
			tx.claims[tx.store.layout.guard(d, i, value)] = key
		}
		for _, value := range had {
			if !slices.Contains(wants, value) {
				tx.claims[tx.store.layout.guard(d, i, value)] = ""
			}
		}
	}
	return nil
}

// fetch reads from etcd at the transaction's revision; the first read of a transaction chooses it.
func (tx *Tx) fetch(key string, options ...clientv3.OpOption) ([]*mvccpb.KeyValue, error) {
	if tx.rev > 0 {
		options = append(options, clientv3.WithRev(tx.rev))
	}
	resp, err := tx.store.client.Get(tx.ctx, key, options...)
	if err != nil {
		return nil, classify("read", err)
	}
	if tx.rev == 0 {
		tx.rev = resp.Header.Revision
	}
	return resp.Kvs, nil
}

// check panics when the transaction is used after its function returned: the write would be lost without a trace.
func (tx *Tx) check() {
	if tx.ended {
		panic("store: transaction used after its function returned")
	}
}
