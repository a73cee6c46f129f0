package store

import (
	"fmt"
	"iter"
)

// A Reader is where reads go: a *Store (its newest snapshot, taken anew by each call) or a View (one snapshot for many reads).
type Reader interface{ current() *snapshot }

// A View is the whole replica at one revision. It never changes, costs nothing to take, needs no closing, and is safe for concurrent use.
type View struct{ snap *snapshot }

func (v View) current() *snapshot { return v.snap }

// Revision returns the store revision the view shows.
func (v View) Revision() int64 { return v.snap.rev }

// A Cursor is a place in an index's order, which is by Value and then by Key. The zero Cursor is before the first record when ascending
// and after the last when descending.
type Cursor struct {
	Value string
	Key   string
}

// Meta is what the store knows about a record besides its value.
type Meta struct {
	Key      string
	Modified int64 // revision of the last write
	Created  int64 // revision of the write that made it
}

// tableRows finds the table in the reader's snapshot. Asking for a table the store was not opened with is a bug, not a condition.
func tableRows(r Reader, d *definition) *rows {
	rows := r.current().rows(d)
	if rows == nil {
		panic(fmt.Sprintf("store: table %q was not given to Open", d.name))
	}
	return rows
}

// Lookup returns the record with this key. The value is shared: the caller must not change it.
func Lookup[T any, K ~string](r Reader, t Table[T], key K) (*T, bool) {
	e := tableRows(r, t.def).get(string(key))
	if e == nil {
		return nil, false
	}
	return e.value.(*T), true
}

// Count returns the number of records in the table.
func Count[T any](r Reader, t Table[T]) int { return tableRows(r, t.def).byKey.Len() }

// All returns every record of the table in key order. The values are shared: the caller must not change them; the slice is the caller's.
func All[T any](r Reader, t Table[T]) []*T {
	rows := tableRows(r, t.def)
	out := make([]*T, 0, rows.byKey.Len())
	rows.byKey.Ascend(func(e *entry) bool {
		out = append(out, e.value.(*T))
		return true
	})
	return out
}

// Prefixed returns the records whose key begins with prefix, in key order. The values are shared: the caller must not change them.
func Prefixed[T any, K ~string](r Reader, t Table[T], prefix K) []*T {
	var out []*T
	tableRows(r, t.def).prefixed(string(prefix), func(e *entry) bool {
		out = append(out, e.value.(*T))
		return true
	})
	return out
}

// By returns the records that have this value in the index, in key order. The values are shared: the caller must not change them.
func By[T any, V ~string](r Reader, t Table[T], index string, value V) []*T {
	var out []*T
	for cursor, v := range Ascend(r, t, index, Cursor{Value: string(value)}) {
		if cursor.Value != string(value) {
			break
		}
		out = append(out, v)
	}
	return out
}

// One returns the record that has this value in the index, the one with the least key when several have.
func One[T any, V ~string](r Reader, t Table[T], index string, value V) (*T, bool) {
	e := tableRows(r, t.def).owner(t.def.mustIndex(index), string(value))
	if e == nil {
		return nil, false
	}
	return e.value.(*T), true
}

// Ascend iterates the index in order, starting behind the cursor: pass the last cursor of one page to get the next page.
// The values are shared: the caller must not change them.
func Ascend[T any](r Reader, t Table[T], index string, after Cursor) iter.Seq2[Cursor, *T] {
	tree := tableRows(r, t.def).byIndex[t.def.mustIndex(index)]
	return func(yield func(Cursor, *T) bool) {
		tree.AscendGreaterOrEqual(indexRow{after.Value, &entry{key: after.Key}}, func(row indexRow) bool {
			at := Cursor{row.value, row.entry.key}
			return at == after || yield(at, row.entry.value.(*T))
		})
	}
}

// Descend iterates the index backwards, starting before the cursor; the zero Cursor starts at the end.
// The values are shared: the caller must not change them.
func Descend[T any](r Reader, t Table[T], index string, before Cursor) iter.Seq2[Cursor, *T] {
	tree := tableRows(r, t.def).byIndex[t.def.mustIndex(index)]
	return func(yield func(Cursor, *T) bool) {
		visit := func(row indexRow) bool {
			at := Cursor{row.value, row.entry.key}
			return at == before || yield(at, row.entry.value.(*T))
		}
		if before == (Cursor{}) {
			tree.Descend(visit)
			return
		}
		tree.DescendLessOrEqual(indexRow{before.Value, &entry{key: before.Key}}, visit)
	}
}
