package store

import (
	"strings"

	"github.com/google/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// btreeDegree is the fan-out of the replica's trees: a node copied on write is about 1 KB, and 10,000 records are three levels deep.
const btreeDegree = 32

// An entry is one record as the replica holds it: decoded once, never changed afterwards, shared by every snapshot that contains it.
type entry struct {
	key     string
	value   any // *T of the table's T
	mod     int64
	created int64
	lease   int64
	// values are the record's index values, one list per index of the table, kept so that removal needs no old decode.
	values [][]string
}

// indexRow is one (value, record) pair of an index.
type indexRow struct {
	value string
	entry *entry
}

// rows holds one table's records and indexes as ordered trees.
type rows struct {
	byKey   *btree.BTreeG[*entry]
	byIndex []*btree.BTreeG[indexRow]
}

func newRows(d *definition) *rows {
	r := &rows{byKey: btree.NewG(btreeDegree, func(a, b *entry) bool { return a.key < b.key })}
	for range d.indexes {
		r.byIndex = append(r.byIndex, btree.NewG(btreeDegree, lessIndexRow))
	}
	return r
}

func lessIndexRow(a, b indexRow) bool {
	if a.value != b.value {
		return a.value < b.value
	}
	return a.entry.key < b.entry.key
}

// freeze returns a snapshot of r that later changes to r do not touch. It costs a few small allocations, whatever the size.
func (r *rows) freeze() *rows {
	out := &rows{byKey: r.byKey.Clone(), byIndex: make([]*btree.BTreeG[indexRow], len(r.byIndex))}
	for i, t := range r.byIndex {
		out.byIndex[i] = t.Clone()
	}
	return out
}

func (r *rows) get(key string) *entry {
	e, _ := r.byKey.Get(&entry{key: key})
	return e
}

// put inserts or replaces and returns what was there.
func (r *rows) put(e *entry) (old *entry) {
	old, _ = r.byKey.ReplaceOrInsert(e)
	r.unindex(old)
	for i, values := range e.values {
		for _, v := range values {
			r.byIndex[i].ReplaceOrInsert(indexRow{v, e})
		}
	}
	return old
}

func (r *rows) remove(key string) (old *entry) {
	old, _ = r.byKey.Delete(&entry{key: key})
	r.unindex(old)
	return old
}

func (r *rows) unindex(e *entry) {
	if e == nil {
		return
	}
	for i, values := range e.values {
		for _, v := range values {
			r.byIndex[i].Delete(indexRow{v, e})
		}
	}
}

// owner returns the entry that holds value in index i, nil when none does. With a unique index there is at most one.
func (r *rows) owner(i int, value string) (found *entry) {
	r.byIndex[i].AscendGreaterOrEqual(indexRow{value, &entry{}}, func(row indexRow) bool {
		if row.value == value {
			found = row.entry
		}
		return false
	})
	return found
}

// prefixed calls yield for the entries whose key begins with prefix, in key order, until yield returns false.
func (r *rows) prefixed(prefix string, yield func(*entry) bool) {
	r.byKey.AscendGreaterOrEqual(&entry{key: prefix}, func(e *entry) bool {
		return strings.HasPrefix(e.key, prefix) && yield(e)
	})
}

// newEntry decodes a stored key-value pair.
func newEntry(d *definition, key string, kv *mvccpb.KeyValue) (*entry, error) {
	v, err := d.decode(kv.Value)
	if err != nil {
		return nil, err
	}
	e := &entry{key: key, value: v, mod: kv.ModRevision, created: kv.CreateRevision, lease: kv.Lease}
	for _, ix := range d.indexes {
		e.values = append(e.values, ix.values(v))
	}
	return e, nil
}

// A snapshot is the whole replica at one revision. It is immutable; the feeder publishes a new one for every batch of changes.
type snapshot struct {
	rev    int64
	tables map[string]*rows
	// next is closed when a newer snapshot has been published.
	next chan struct{}
}

func (s *snapshot) rows(d *definition) *rows { return s.tables[d.name] }
