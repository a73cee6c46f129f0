package control

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A host falls silent and no other reaches it. Its server has a disk of the host's own that may be made anew: it waits for somebody to say that the host is
// off, and then starts elsewhere without being asked for.
func TestADeadHostsServerWaitsForAProofAndThenStartsElsewhere(t *testing.T) {
	w := newWorld(t, "h1", "h2", "h3")
	w.control(func(o *Options) { o.Pulses = w.heard })
	w.boot("s1", 512)
	w.idle()
	from := w.running("s1")
	w.write(func(tx *store.Tx) error {
		s, err := store.Get(tx, tables.Servers, cloud.ServerID("s1"))
		if err != nil {
			return err
		}
		s.Metadata = map[string]string{cloud.MetaRecoveryRebuild: "on"}
		return store.Put(tx, tables.Servers, s.ID, s)
	})
	w.fleet.Host(from).PowerOff()
	w.mute[from]()
	w.until("the recovery is blocked", func(v store.View) bool {
		all := store.By(v, tables.Recoveries, tables.ByHost, from)
		return len(all) == 1 && all[0].Status == cloud.RecoveryBlocked
	})
	if verdict, ok := store.Lookup(w.store, tables.HostVerdicts, from); !ok || verdict.Verdict != "dead" || len(verdict.Evidence) < 2 {
		t.Errorf("verdict %+v", verdict)
	}
	if tables.Connected(w.store, from) {
		t.Error("a dead host counts as connected")
	}
	if s := w.server("s1"); s.Host != from || s.Task != cloud.TaskNone {
		t.Errorf("without a proof the server was touched: %+v", s)
	}
	w.write(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, from)
		if err != nil {
			return err
		}
		h.ForcedDown = true
		return store.Put(tx, tables.Hosts, from, h)
	})
	w.until("the server runs elsewhere", func(v store.View) bool {
		all := store.By(v, tables.Recoveries, tables.ByHost, from)
		return len(all) == 1 && all[0].Status == cloud.RecoveryDone && all[0].Servers[0].Outcome == cloud.RecoveryRecovered
	})
	w.idle()
	if on := w.running("s1"); on == from {
		t.Errorf("it still runs on %s", on)
	}
	if h, _ := store.Lookup(w.store, tables.Hosts, from); !h.Disabled {
		t.Error("the dead host was not disabled")
	}
	w.sound()
}
