package store

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// The layout under the store's prefix. Tables are lower-case words, so names that begin with an underscore are free for the store itself:
//
//	<table>/<key>                    a record
//	_unique/<table>/<index>/<value>  a guard: the key of the record that owns the value
//	_gone/<table>/<bucket>           a tombstone: written with every delete, so that a range read can notice one
//	_election/<name>/<lease>         candidates, oldest is leader
const (
	guardDir     = "_unique/"
	tombstoneDir = "_gone/"
	electionDir  = "_election/"
)

// tombstoneBuckets bounds the tombstone keys per table. Fewer means false conflicts between range readers and unrelated deletes,
// more means keys that live for ever; nothing else depends on it. Changing it is safe only while no other server runs.
const tombstoneBuckets = 64

// layout builds full etcd keys below one prefix.
type layout struct{ prefix string }

func (l layout) record(d *definition, key string) string { return l.prefix + d.name + "/" + key }

func (l layout) guard(d *definition, i int, value string) string {
	return l.prefix + guardDir + d.name + "/" + d.indexes[i].name + "/" + value
}

func (l layout) tombstones(d *definition) string { return l.prefix + tombstoneDir + d.name + "/" }

// tombstone returns the key that a delete of the record touches: one per bucket of first path elements.
func (l layout) tombstone(d *definition, key string) string {
	first, _, ok := strings.Cut(key, "/")
	if !ok {
		first = ""
	}
	return l.tombstones(d) + bucket(first)
}

// tombstonesOf returns the key or, when whole is true, the key prefix of all tombstones that deletes below the record prefix may touch.
func (l layout) tombstonesOf(d *definition, recordPrefix string) (key string, whole bool) {
	if strings.Contains(recordPrefix, "/") {
		return l.tombstone(d, recordPrefix), false
	}
	return l.tombstones(d), true
}

func (l layout) election(name string) string { return l.prefix + electionDir + name }

func bucket(s string) string {
	h := fnv.New32a()
	h.Write([]byte(s))
	return fmt.Sprintf("%02x", h.Sum32()%tombstoneBuckets)
}
