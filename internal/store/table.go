package store

import (
	"encoding/json"
	"fmt"
	"strings"
)

// A Table names one kind of record: JSON values of T, each under its own key. It is an immutable value made once, usually a package variable,
// and holds no data: the same Table works with any number of stores. A store serves only the tables given to it in Options.Tables.
type Table[T any] struct{ def *definition }

// AnyTable is a Table of any record type, for lists of tables.
type AnyTable interface{ definition() *definition }

func (t Table[T]) definition() *definition { return t.def }

// Name returns the table's name, the first part of its records' keys in etcd.
func (t Table[T]) Name() string { return t.def.name }

// definition is a Table without its type parameter: all that the replica's feeder and the transaction's commit need.
type definition struct {
	name    string
	indexes []index
	// decode makes a fresh *T, as any, from stored JSON.
	decode func([]byte) (any, error)
}

// index is one secondary order over a table's records.
type index struct {
	name   string
	unique bool
	// values takes a *T, as any, and returns the values under which the record is found; none means not in this index.
	values func(any) []string
}

// An Option adds a property to a table being made.
type Option[T any] func(*definition)

// Index adds a secondary index: the replica finds a record by each value that values returns for it, and iterates records sorted by
// (value, key). values must depend on its argument only and must not keep or change it. Nothing is stored for an index.
func Index[T any](name string, values func(*T) []string) Option[T] {
	return addIndex(name, false, values)
}

// Unique adds an index whose values belong to at most one record each. Transactions enforce it with a guard key per value, so two concurrent
// transactions cannot both claim one value; the second fails with cloud.KindConflict.
func Unique[T any](name string, values func(*T) []string) Option[T] {
	return addIndex(name, true, values)
}

func addIndex[T any](name string, unique bool, values func(*T) []string) Option[T] {
	checkName("index", name)
	return func(d *definition) {
		if d.index(name) >= 0 {
			panic(fmt.Sprintf("store: table %s has two indexes named %q", d.name, name))
		}
		d.indexes = append(d.indexes, index{name: name, unique: unique, values: func(v any) []string { return values(v.(*T)) }})
	}
}

// NewTable makes a table. Names are lower-case words, digits and hyphens; a name is part of the stored data, so renaming one loses its records.
func NewTable[T any](name string, options ...Option[T]) Table[T] {
	checkName("table", name)
	d := &definition{name: name, decode: decode[T]}
	for _, o := range options {
		o(d)
	}
	return Table[T]{def: d}
}

func decode[T any](data []byte) (any, error) {
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		return nil, err
	}
	return v, nil
}

// index returns the position of the named index, -1 when there is none.
func (d *definition) index(name string) int {
	for i, ix := range d.indexes {
		if ix.name == name {
			return i
		}
	}
	return -1
}

// mustIndex is index for callers whose index name is a constant of the program.
func (d *definition) mustIndex(name string) int {
	i := d.index(name)
	if i < 0 {
		panic(fmt.Sprintf("store: table %s has no index %q", d.name, name))
	}
	return i
}

// checkName panics on a table or index name that could not be told from a key's separators: names are constants, a wrong one is a bug.
func checkName(what, name string) {
	ok := name != "" && strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}) < 0
	if !ok {
		panic(fmt.Sprintf("store: bad %s name %q", what, name))
	}
}
