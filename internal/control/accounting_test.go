package control

import (
	"encoding/pem"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/fence/fencetest"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// redfishMeter is a BMC whose host draws 200 W; a graceful shutdown calls off, unless that is nil.
func redfishMeter(t *testing.T, host cloud.HostName, off func()) cloud.BMC {
	const reset = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"
	files := map[string]string{
		"/redfish/v1/Systems":         `{"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]}`,
		"/redfish/v1/Systems/1":       `{"@odata.id": "/redfish/v1/Systems/1", "PowerState": "On", "Actions": {"#ComputerSystem.Reset": {"target": "` + reset + `"}}, "Links": {"Chassis": [{"@odata.id": "/redfish/v1/Chassis/1"}]}}`,
		"/redfish/v1/Chassis/1":       `{"Power": {"@odata.id": "/redfish/v1/Chassis/1/Power"}}`,
		"/redfish/v1/Chassis/1/Power": `{"PowerControl": [{"PowerConsumedWatts": 200}]}`,
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == reset && off != nil {
			if body, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(body), "GracefulShutdown") {
				t.Errorf("reset with %s, %v", body, err)
			}
			off()
			return
		}
		if user, password, ok := r.BasicAuth(); !ok || user != "u" || password != "p" || files[r.URL.Path] == "" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.Copy(w, strings.NewReader(files[r.URL.Path]))
	}))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return cloud.BMC{Host: host, Protocol: "redfish", Address: s.URL, User: "u", Password: "p", CA: string(ca)}
}

func (w *fleetWorld) account(kind cloud.AccountKind, subject string) cloud.Account {
	var sum cloud.Account // of yesterday too: a test may run over midnight
	for _, a := range store.All(w.store.View(), tables.Accounts) {
		if a.Kind == kind && a.Subject == subject {
			sum.Add(a)
			sum.Project = a.Project
		}
	}
	return sum
}

func TestAccountsSayWhoMeasuredThePower(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3", "h4")
	dcmi := fencetest.Start(t, "u", "p")
	dcmi.Read(&fencetest.Reading{Now: 150, Mean: 140, Least: 100, Most: 200, Period: time.Second})
	w.write(func(tx *store.Tx) error {
		return errors.Join(store.Put(tx, tables.BMCs, "h1", redfishMeter(t, "h1", nil)),
			store.Put(tx, tables.BMCs, "h4", cloud.BMC{Host: "h4", Protocol: "ipmi", Address: dcmi.Address(), User: "u", Password: "p"}))
	})
	w.mu.Lock()
	w.watts["h2"] = 80
	w.mu.Unlock()
	w.use("s1", 3)
	w.use("s2", 1)
	w.arrange(cloud.AutomationManual, nil)
	w.on("h1", "s1", nil)
	w.on("h1", "s2", nil)
	w.on("h2", "s3", nil)
	want := map[cloud.HostName]cloud.PowerSource{"h1": cloud.PowerByBMC, "h2": cloud.PowerByHost, "h3": cloud.PowerByModel, "h4": cloud.PowerByBMC}
	w.until("accounts of every host, each by its source", func(store.View) bool {
		for host, by := range want {
			if a := w.account(cloud.AccountHost, string(host)); a.PowerBy != by || a.Seen == 0 {
				return false
			}
		}
		return w.account(cloud.AccountServer, "s1").Seen > time.Second && w.account(cloud.AccountServer, "s2").Seen > time.Second
	})
	before := w.account(cloud.AccountHost, "h4") // what was added before the first reading was modelled
	w.until("the next account of the host that DCMI measures", func(store.View) bool { return w.account(cloud.AccountHost, "h4").Seen > before.Seen })
	after := w.account(cloud.AccountHost, "h4")
	if watts := (after.Measured - before.Measured) / (after.Seen - before.Seen).Seconds(); math.Abs(watts-140) > 0.5 || dcmi.Readings() == 0 {
		t.Errorf("host whose BMC says 140 W: %g W after %d readings, %+v", watts, dcmi.Readings(), after)
	}
	h2, h3 := w.account(cloud.AccountHost, "h2"), w.account(cloud.AccountHost, "h3")
	if watts := h2.Measured / h2.Seen.Seconds(); math.Abs(watts-80) > 0.5 || h2.Measured != h2.WattSeconds {
		t.Errorf("host that reads 80 W of itself: %+v", h2)
	}
	if h3.Measured != 0 || h3.WattSeconds <= 0 {
		t.Errorf("host that nobody measures: %+v", h3)
	}
	s1, s2 := w.account(cloud.AccountServer, "s1"), w.account(cloud.AccountServer, "s2")
	if s1.PowerBy != cloud.PowerByBMC || s1.Measured <= 0 || s1.WattSeconds <= s2.WattSeconds || s1.Project != "p" || s1.CPUSeconds < 2*s2.CPUSeconds {
		t.Errorf("servers at 3 and 1 CPUs: %+v, %+v", s1, s2)
	}
}

func TestAccountsCountMovesOfHostsAndServersAndTimeAsleep(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	stop := w.arrange(cloud.AutomationManual, nil)
	w.prove("h1", "h2", "h3")
	w.on("h1", "s1", nil)
	w.on("h2", "s2", nil)
	w.on("h3", "s3", nil)
	stop()
	w.arrange(cloud.AutomationFull, nil)
	w.until("a host sleeps, and the accounts say so", func(store.View) bool {
		asleep := w.asleep()
		return len(asleep) == 1 && w.account(cloud.AccountHost, string(asleep[0])).Asleep > 0 && w.account(cloud.AccountHost, string(asleep[0])).Migrations == 1
	})
	moved := 0
	for id, n := range w.movesOf() {
		moved += n
		if a := w.account(cloud.AccountServer, string(id)); a.Migrations != n {
			t.Errorf("server %s moved %d times, its account says %d", id, n, a.Migrations)
		}
	}
	if moved != 1 {
		t.Errorf("%d moves", moved)
	}
}

func TestAHostsBMCPutsItToSleepWhenThatIsTheMode(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2")
	w.arrange(cloud.AutomationManual, nil)
	w.prove("h1")
	pressed := make(chan struct{}, 1)
	bmc := redfishMeter(t, "h1", func() {
		pressed <- struct{}{}
		w.fallAsleep("h1")
	})
	w.write(func(tx *store.Tx) error {
		return errors.Join(store.Put(tx, tables.BMCs, "h1", bmc), hostpower.Ask(tx, hostpower.Wish{Host: "h1", Ask: cloud.AskSleep, Mode: cloud.SleepBMC, Reason: "a test"}, time.Now().UTC()))
	})
	w.until("the host sleeps", func(store.View) bool { return w.state("h1") == cloud.HostAsleep })
	if len(pressed) != 1 {
		t.Error("its BMC was not asked")
	}
	w.sound()
}
