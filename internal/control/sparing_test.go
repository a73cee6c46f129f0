package control

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// The leader keeps one record of whether the fleet could lose its largest host: short as soon as a server that would be recovered finds no room elsewhere,
// and not any more when there is another host.
func TestTheLeaderKeepsARecordOfTheFleetsSpareRoom(t *testing.T) {
	w := newWorld(t, "h1", "h2")
	w.control(func(o *Options) { o.SpareHosts = 1 })
	short := func(want bool) func(v store.View) bool {
		return func(v store.View) bool {
			r, ok := store.Lookup(v, tables.SpareRooms, tables.SpareRoomKey)
			return ok && r.Hosts == 1 && r.Short() == want && !r.Since.IsZero()
		}
	}
	w.until("nothing is without room", short(false))
	w.boot("s1", 512)
	w.idle()
	on := w.running("s1")
	other := map[cloud.HostName]cloud.HostName{"h1": "h2", "h2": "h1"}[on]
	disable := func(name cloud.HostName, disabled bool) {
		w.write(func(tx *store.Tx) error {
			h, err := store.Get(tx, tables.Hosts, name)
			if err != nil {
				return err
			}
			h.Disabled = disabled
			return store.Put(tx, tables.Hosts, name, h)
		})
	}
	w.write(func(tx *store.Tx) error {
		s, err := store.Get(tx, tables.Servers, cloud.ServerID("s1"))
		if err != nil {
			return err
		}
		s.Metadata = map[string]string{cloud.MetaRecoveryRebuild: "on"}
		return store.Put(tx, tables.Servers, s.ID, s)
	})
	disable(other, true)
	w.until("the server is without room", short(true))
	r, _ := store.Lookup(w.store, tables.SpareRooms, tables.SpareRoomKey)
	if r.Homeless != 1 || len(r.Named) != 1 || r.Named[0].Server != "s1" || r.Named[0].Host != on || len(r.Lost) != 1 || r.Lost[0] != on {
		t.Errorf("%+v", r)
	}
	disable(other, false)
	w.until("there is room again", short(false))
}
