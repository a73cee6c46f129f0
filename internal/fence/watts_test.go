package fence

import (
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/command/dcmi"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/fence/fencetest"
)

// reading is an answer to DCMI's Get Power Reading as it is on the wire: group, four powers, time stamp, period, state, all little-endian.
func reading(current, average byte, state byte) []byte {
	return []byte{0xdc, current, 0, 1, 0, 255, 0, average, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, state}
}

// since has a reading's statistics be those of the last days.
func since(wire []byte) []byte {
	binary.LittleEndian.PutUint32(wire[13:], uint32((48 * time.Hour).Milliseconds()))
	return wire
}

func TestAPowerReadingIsTheMeanOfAnActiveMeter(t *testing.T) {
	const active = 0x40
	for _, tt := range []struct {
		name string
		wire []byte
		want float64
	}{
		{"mean", reading(200, 180, active), 180},
		{"mean of two days", since(reading(200, 180, active)), 200},
		{"nothing but a mean of two days", since(reading(0, 180, active)), 180},
		{"no mean yet", reading(200, 0, active), 200},
		{"not active", reading(200, 180, 0), 0},
		{"active and zero", reading(0, 0, active), 0},
	} {
		var r dcmi.GetDCMIPowerReadingResponse
		if err := r.Unpack(tt.wire); err != nil {
			t.Fatal(err)
		}
		if got, err := wattsOf(&r); got != tt.want || (err == nil) != (tt.want > 0) {
			t.Errorf("%s: %g W, %v; want %g", tt.name, got, err, tt.want)
		}
	}
}

// dcmiBMC is a BMC that speaks the protocol strictly, and the driver for it.
func dcmiBMC(t *testing.T) (*fencetest.BMC, Driver) {
	b := fencetest.Start(t, user, password)
	t.Cleanup(func() {
		if n := b.Open(); n > 0 {
			t.Errorf("%d sessions were left open", n)
		}
	})
	d, err := New(Settings{Protocol: "ipmi", Address: b.Address(), User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return b, d
}

func TestDCMIsPowerReadingIsReadOverTheWire(t *testing.T) {
	b, d := dcmiBMC(t)
	if got, err := d.(Meter).Watts(t.Context()); !cloud.Is(err, cloud.KindUnsupported) || got != 0 {
		t.Errorf("a BMC without DCMI: %g W, %v", got, err)
	}
	now := fencetest.Reading{Now: 217, Least: 90, Most: 480, Mean: 201, At: time.Unix(1_700_000_000, 0), Period: time.Second}
	b.Read(&now)
	if got, err := d.(Meter).Watts(t.Context()); err != nil || got != 201 {
		t.Errorf("%g W, %v; want the mean", got, err)
	}
	long := now
	long.Period = 24 * time.Hour
	b.Read(&long)
	if got, err := d.(Meter).Watts(t.Context()); err != nil || got != 217 {
		t.Errorf("%g W, %v; want what it draws now, not the mean of a day", got, err)
	}
	idle := now
	idle.Inactive = true
	b.Read(&idle)
	if got, err := d.(Meter).Watts(t.Context()); !cloud.Is(err, cloud.KindUnsupported) || got != 0 {
		t.Errorf("a meter that is off: %g W, %v", got, err)
	}
	if b.Readings() != 3 {
		t.Errorf("%d readings were answered", b.Readings())
	}
}

func TestAPowerReadingSurvivesALostAnswer(t *testing.T) {
	b, d := dcmiBMC(t)
	b.Read(&fencetest.Reading{Now: 217, Mean: 201, Period: time.Second})
	b.LoseAnswers(1)
	if got, err := d.(Meter).Watts(t.Context()); err != nil || got != 201 {
		t.Errorf("%g W, %v", got, err)
	}
}

func TestPowerIsControlledAtTheStrictBMC(t *testing.T) {
	_, d := dcmiBMC(t)
	if e, err := Isolate(t.Context(), d, quick); err != nil || e.Power != Off {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := Wake(t.Context(), d, quick); err != nil || e.Power != On {
		t.Errorf("%+v, %v", e, err)
	}
	if err := d.(Shutdowner).ShutDown(t.Context()); err != nil {
		t.Error(err)
	}
	if state, err := d.State(t.Context()); err != nil || state != Off {
		t.Errorf("after a shutdown: %s, %v", state, err)
	}
	d.(*ipmi).pass = "wrong"
	if state, err := d.State(t.Context()); !cloud.Is(err, cloud.KindUnavailable) || state != Unknown {
		t.Errorf("with a wrong password: %s, %v", state, err)
	}
}

// The simulator is a BMC without DCMI: a real one of that kind answers in the same way.
func TestABMCWithoutAMeterSaysThatItHasNone(t *testing.T) {
	eachBMC(t, func(t *testing.T, d Driver, _ machine) {
		if got, err := d.(Meter).Watts(t.Context()); !cloud.Is(err, cloud.KindUnsupported) || got != 0 {
			t.Errorf("%g W, %v", got, err)
		}
		if state, err := d.State(t.Context()); err != nil || state != On {
			t.Errorf("after it: %s, %v", state, err)
		}
	})
}

func TestRedfishPowerIsReadInTheNewWayAndInTheOld(t *testing.T) {
	const system = `{"@odata.id": "/redfish/v1/Systems/1", "PowerState": "On", "Links": {"Chassis": [{"@odata.id": "/redfish/v1/Chassis/1U"}]}}`
	for _, tt := range []struct {
		name, chassis, metrics, power string
		want                          float64
		kind                          cloud.Kind
	}{
		{"new", `{"EnvironmentMetrics": {"@odata.id": "/m"}, "Power": {"@odata.id": "/p"}}`, `{"PowerWatts": {"Reading": 312.5}}`, `{"PowerControl": [{"PowerConsumedWatts": 1}]}`, 312.5, 0},
		{"new without a reading, old with one", `{"EnvironmentMetrics": {"@odata.id": "/m"}, "Power": {"@odata.id": "/p"}}`, `{"PowerWatts": {"Reading": null}}`, `{"PowerControl": [{"PowerConsumedWatts": 344}]}`, 344, 0},
		{"old", `{"Power": {"@odata.id": "/p"}}`, "", `{"PowerControl": [{"PowerConsumedWatts": 344}]}`, 344, 0},
		{"old without a reading", `{"Power": {"@odata.id": "/p"}}`, "", `{"PowerControl": [{"PowerConsumedWatts": null}]}`, 0, cloud.KindUnsupported},
		{"none", `{}`, "", "", 0, cloud.KindUnsupported},
		{"gone", `{"Power": {"@odata.id": "/gone"}}`, "", "", 0, cloud.KindUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{"/redfish/v1/Systems/1": system, "/redfish/v1/Systems": `{"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]}`,
				"/redfish/v1/Chassis/1U": tt.chassis, "/m": tt.metrics, "/p": tt.power}
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if files[r.URL.Path] == "" {
					http.NotFound(w, r)
					return
				}
				_, _ = io.Copy(w, strings.NewReader(files[r.URL.Path]))
			}))
			defer s.Close()
			got, err := redfishAt(t, s).(Meter).Watts(t.Context())
			if got != tt.want || tt.want == 0 && !cloud.Is(err, tt.kind) || tt.want > 0 && err != nil {
				t.Errorf("%g W, %v", got, err)
			}
		})
	}
}
