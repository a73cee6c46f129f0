package tables

import (
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// A Counter hands out the small integers that older microversions and VXLAN need.
type Counter struct {
	Name string `json:"name"`
	Last int64  `json:"last"` // the greatest number handed out
}

// Counters holds counters, by name. Written by whoever draws a number, in the transaction that uses it.
var Counters = store.NewTable[Counter]("counters")

// Names of the counters.
const (
	CountHosts      = "hosts"
	CountMigrations = "migrations"
	CountKeypairs   = "keypairs"
	CountAggregates = "aggregates"
	CountVNIs       = "vnis"
	// Of Masakari's nouns.
	CountSegments      = "segments"
	CountSegmentHosts  = "segment-hosts"
	CountNotifications = "notifications"
)

// Next draws the counter's next number, 1 first. Two transactions that draw at once collide and one of them runs again, so no number is
// handed out twice and none is lost unless its transaction is.
func Next(tx *store.Tx, name string) (int, error) {
	c, err := store.Get(tx, Counters, name)
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return 0, fmt.Errorf("counter %s: %w", name, err)
	}
	c.Name = name
	c.Last++
	return int(c.Last), store.Put(tx, Counters, name, c)
}

// A Secret is something a server must remember and never show: the certificate authority's key, the join token.
type Secret struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// Secrets holds secrets, by name, so that several servers on one etcd share them. Written once, by the first server that starts.
var Secrets = store.NewTable[Secret]("secrets")
