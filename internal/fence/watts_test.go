package fence

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/bougou/go-ipmi/pkg/command/dcmi"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// reading is an answer to DCMI's Get Power Reading as it is on the wire: group, four powers, time stamp, period, state, all little-endian.
func reading(current, average byte, state byte) []byte {
	return []byte{0xdc, current, 0, 1, 0, 255, 0, average, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, state}
}

func TestAPowerReadingIsTheMeanOfAnActiveMeter(t *testing.T) {
	const active = 0x40
	for _, tt := range []struct {
		name string
		wire []byte
		want float64
	}{
		{"mean", reading(200, 180, active), 180},
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
