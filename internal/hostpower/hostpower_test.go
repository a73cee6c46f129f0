package hostpower

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestWhatMayBeAskedOfAHost(t *testing.T) {
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	now := time.Now().UTC()
	proven := cloud.HostPower{Host: "h", State: cloud.HostAwake, WakeProven: now}
	asleep := cloud.HostPower{Host: "h", State: cloud.HostAsleep, WakeProven: now}
	failing := cloud.HostPower{Host: "h", State: cloud.HostAwake, WakeProven: now, WakeFailures: 1}
	for _, tt := range []struct {
		name    string
		power   *cloud.HostPower
		claimed bool
		alone   bool // no other host is awake
		ask     cloud.HostPowerAsk
		refused string
		asked   cloud.HostPowerAsk // afterwards
	}{
		{"sleep, never proven", nil, false, false, cloud.AskSleep, "never seen to wake", ""},
		{"sleep, proven", &proven, false, false, cloud.AskSleep, "", cloud.AskSleep},
		{"sleep, with a server", &proven, true, false, cloud.AskSleep, "move them first", ""},
		{"sleep, failed to wake", &failing, false, false, cloud.AskSleep, "failed to wake", ""},
		{"sleep, the last", &proven, false, true, cloud.AskSleep, "no other host is awake", ""},
		{"sleep, asleep", &asleep, false, false, cloud.AskSleep, "", ""},
		{"test, never proven", nil, false, false, cloud.AskTest, "", cloud.AskTest},
		{"test, failed to wake", &failing, false, false, cloud.AskTest, "", cloud.AskTest},
		{"test, with a server", nil, true, false, cloud.AskTest, "move them first", ""},
		{"test, asleep", &asleep, false, false, cloud.AskTest, "only one that is awake", ""},
		{"wake, awake", &proven, false, false, cloud.AskWake, "", ""},
		{"wake, asleep", &asleep, false, false, cloud.AskWake, "", cloud.AskWake},
	} {
		t.Run(tt.name, func(t *testing.T) {
			usage := cloud.Usage{Host: "h", Claims: map[string]cloud.Claim{}}
			if tt.claimed {
				usage.Claims["s"] = cloud.Claim{Server: "s"}
			}
			update := func(fn func(tx *store.Tx) error) error {
				_, err := s.UpdateVisible(context.WithoutCancel(t.Context()), fn)
				return err
			}
			err := update(func(tx *store.Tx) error {
				if err := store.Put(tx, tables.Hosts, "h", cloud.Host{Name: "h", ID: "1", ServiceID: "2", Number: 1}); err != nil {
					return err
				}
				if err := store.Put(tx, tables.Usages, "h", usage); err != nil {
					return err
				}
				other := cloud.HostPower{Host: "other", State: cloud.HostAwake}
				if tt.alone {
					other.State = cloud.HostAsleep
				}
				if err := errors.Join(store.Put(tx, tables.HostPowers, "other", other), store.Put(tx, tables.HostSessions, "other", cloud.HostSession{Host: "other"})); err != nil {
					return err
				}
				if tt.power == nil {
					return store.Delete(tx, tables.HostPowers, "h")
				}
				return store.Put(tx, tables.HostPowers, "h", *tt.power)
			})
			if err != nil {
				t.Fatal(err)
			}
			err = update(func(tx *store.Tx) error { return Ask(tx, Wish{Host: "h", Ask: tt.ask}, now) })
			if tt.refused == "" && err != nil || tt.refused != "" && (!cloud.Is(err, cloud.KindConflict) || !strings.Contains(err.Error(), tt.refused)) {
				t.Errorf("got %v, want %q", err, tt.refused)
			}
			asked := cloud.AskNothing
			if p, ok := store.Lookup(s, tables.HostPowers, "h"); ok {
				asked = p.Asked
			}
			if asked != tt.asked {
				t.Errorf("asked %q, want %q", asked, tt.asked)
			}
		})
	}
}
