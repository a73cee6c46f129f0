package control

import (
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestHostsAreLookedAtWhenTheyConnectAndAClockThatIsWrongIsSeen(t *testing.T) {
	w := newWorld(t, "compute-1", "compute-2", "compute-3")
	w.fleet.Host("compute-2").SetClock(time.Hour)
	w.control(nil)
	w.until("every host was looked at", func(v store.View) bool {
		for _, name := range []cloud.HostName{"compute-1", "compute-2", "compute-3"} {
			c, ok := store.Lookup(v, tables.Checkups, name)
			if !ok || len(c.Looked) != 2 || len(c.Closed) != 0 || c.CertificateEnd.IsZero() {
				return false
			}
		}
		return true
	})
	one, _ := store.Lookup(w.store, tables.Checkups, cloud.HostName("compute-1"))
	two, _ := store.Lookup(w.store, tables.Checkups, cloud.HostName("compute-2"))
	if apart := two.ClockAhead - one.ClockAhead - time.Hour; apart.Abs() > one.ClockMargin+two.ClockMargin {
		t.Errorf("clocks an hour apart: %v and %v, margins %v and %v", one.ClockAhead, two.ClockAhead, one.ClockMargin, two.ClockMargin)
	}
}
