package fence

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/test/freeport"
)

// quick is patience for BMCs on loopback.
var quick = Patience{Max: 10 * time.Second, Every: 5 * time.Millisecond}

// A machine is what a simulated BMC controls.
type machine interface {
	// read returns the power as the machine itself has it.
	read() Power
	// stick makes power commands be accepted and not carried out.
	stick()
}

// bmcs starts each kind of BMC, with a machine that is on, and returns its driver.
var bmcs = map[string]func(t *testing.T) (Driver, machine){"ipmi": startIPMI, "redfish": startRedfish, "redfish strict": startStrict}

func eachBMC(t *testing.T, test func(t *testing.T, d Driver, m machine)) {
	for name, start := range bmcs {
		t.Run(name, func(t *testing.T) {
			d, m := start(t)
			test(t, d, m)
		})
	}
}

func TestAHostThatIsOnIsTurnedOffAndConfirmed(t *testing.T) {
	eachBMC(t, func(t *testing.T, d Driver, m machine) {
		e, err := Isolate(t.Context(), d, quick)
		if err != nil || e.Power != Off || e.Already || m.read() != Off {
			t.Fatalf("evidence %+v, error %v, machine %s", e, err, m.read())
		}
		steps := slices.Compact(slices.Clone(e.Steps))
		if len(steps) > 3 && steps[2] == "state: on" { // one that takes its time
			steps = slices.Delete(steps, 2, 3)
		}
		if want := []string{"state: on", "turn off: accepted", "state: off"}; !slices.Equal(steps, want) {
			t.Errorf("steps %q, want %q", e.Steps, want)
		}
	})
}

func TestAHostThatIsAlreadyOffIsFencedWithoutACommand(t *testing.T) {
	eachBMC(t, func(t *testing.T, d Driver, _ machine) {
		if _, err := Isolate(t.Context(), d, quick); err != nil {
			t.Fatal(err)
		}
		e, err := Isolate(t.Context(), d, quick)
		if err != nil || !e.Already || !slices.Equal(e.Steps, []string{"state: off"}) {
			t.Errorf("evidence %+v, error %v", e, err)
		}
	})
}

func TestAHostIsWoken(t *testing.T) {
	eachBMC(t, func(t *testing.T, d Driver, m machine) {
		if _, err := Isolate(t.Context(), d, quick); err != nil {
			t.Fatal(err)
		}
		if e, err := Wake(t.Context(), d, quick); err != nil || e.Power != On || m.read() != On {
			t.Errorf("evidence %+v, error %v, machine %s", e, err, m.read())
		}
	})
}

func TestAHostIsAskedToShutItselfDown(t *testing.T) {
	eachBMC(t, func(t *testing.T, d Driver, m machine) {
		if err := d.(Shutdowner).ShutDown(t.Context()); err != nil {
			t.Fatal(err)
		}
		const looksMax = 20 // some turn their machine off by and by, a look at a time
		state := On
		for range looksMax {
			var err error
			if state, err = d.State(t.Context()); err != nil {
				t.Fatal(err)
			}
			if state == Off {
				break
			}
		}
		if state != Off || m.read() != Off {
			t.Errorf("state %s, machine %s", state, m.read())
		}
	})
}

func TestAnAcceptedCommandConfirmsNothing(t *testing.T) {
	eachBMC(t, func(t *testing.T, d Driver, m machine) {
		m.stick()
		e, err := Isolate(t.Context(), d, Patience{Max: time.Second, Every: 5 * time.Millisecond})
		if !cloud.Is(err, cloud.KindUnavailable) || e.Power != On {
			t.Errorf("evidence %+v, error %v: the machine is still on", e, err)
		}
	})
}

func TestAWrongPasswordIsNoProof(t *testing.T) {
	eachBMC(t, func(t *testing.T, d Driver, m machine) {
		switch d := d.(type) {
		case *ipmi:
			d.pass = "wrong"
		case *redfish:
			d.pass = "wrong"
		}
		e, err := Isolate(t.Context(), d, Patience{Max: 500 * time.Millisecond, Every: 5 * time.Millisecond})
		if !cloud.Is(err, cloud.KindUnavailable) || e.Power != Unknown || m.read() != On {
			t.Errorf("evidence %+v, error %v, machine %s", e, err, m.read())
		}
		if strings.Contains(err.Error(), "wrong") {
			t.Errorf("the error shows the password: %v", err)
		}
	})
}

// A BMC that lost its power together with the host: packets go nowhere.
func TestABMCThatDoesNotAnswerIsNoProof(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d, err := New(Settings{Protocol: "ipmi", Address: silent.LocalAddr().String(), User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Isolate(t.Context(), d, Patience{Max: time.Second, Every: 5 * time.Millisecond})
	if !cloud.Is(err, cloud.KindUnavailable) || e.Power != Unknown {
		t.Errorf("evidence %+v, error %v", e, err)
	}
	if e.Took > 5*time.Second {
		t.Errorf("took %v although it was to take one second", e.Took)
	}
}

// flaky answers nothing a few times, then as its machine is.
type flaky struct {
	mu     sync.Mutex
	deaf   int
	power  Power
	orders int
}

var errDeaf = errors.New("no answer")

func (f *flaky) String() string { return "flaky" }

func (f *flaky) hear() bool {
	f.deaf--
	return f.deaf < 0
}

func (f *flaky) State(context.Context) (Power, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.hear() {
		return Unknown, errDeaf
	}
	return f.power, nil
}

func (f *flaky) PowerOff(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders++
	if !f.hear() {
		return errDeaf
	}
	f.power = Off
	return nil
}

func (f *flaky) PowerOn(context.Context) error { return errDeaf }

func TestACommandThatGotLostIsGivenAgain(t *testing.T) {
	f := &flaky{deaf: 5, power: On}
	e, err := Isolate(t.Context(), f, quick)
	if err != nil || e.Power != Off || f.orders < 2 {
		t.Errorf("evidence %+v, error %v after %d commands", e, err, f.orders)
	}
}

func TestACallerThatGivesUpHasNoProof(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e, err := Isolate(ctx, &flaky{deaf: 1 << 30, power: On}, quick); !cloud.Is(err, cloud.KindUnavailable) || e.Power != Unknown {
		t.Errorf("evidence %+v, error %v", e, err)
	}
}

func TestBadSettingsAreRefusedByName(t *testing.T) {
	for _, tc := range []struct {
		s    Settings
		want string
	}{
		{Settings{Protocol: "ssh"}, "ipmi or redfish"},
		{Settings{Protocol: "ipmi", Address: "bmc.example"}, "must be an IP address"},
		{Settings{Protocol: "ipmi", Address: "127.0.0.1"}, "user and password"},
		{Settings{Protocol: "ipmi", Address: "127.0.0.1", User: "u", Password: "p", Cipher: 99}, "cipher suite 99"},
		{Settings{Protocol: "ipmi", Address: "127.0.0.1", User: strings.Repeat("u", 40), Password: "p"}, ""},
		{Settings{Protocol: "redfish", Address: "http://127.0.0.1", User: "u", Password: "p"}, "must be https://"},
		{Settings{Protocol: "redfish", Address: "https://127.0.0.1/redfish", User: "u", Password: "p"}, "must be https://"},
		{Settings{Protocol: "redfish", Address: "https://127.0.0.1"}, "user and password"},
		{Settings{Protocol: "redfish", Address: "https://127.0.0.1", User: "u", Password: "p", CA: "none"}, "no certificate"},
	} {
		d, err := New(tc.s)
		if err == nil && tc.want == "" {
			_, err = d.State(t.Context()) // the protocol's own bound
		}
		if !cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.s, err, tc.want)
		}
	}
	if d, err := New(Settings{Protocol: "ipmi", Address: "::1", User: "u", Password: "p"}); err != nil || d.String() != "ipmi://u@[::1]:623" {
		t.Errorf("%v, %v", d, err)
	}
}

const user, password = "godwit", "secret"

// simulated is a machine behind ipmi_sim (Debian's openipmi): a file that the simulator's chassis program reads and writes.
type simulated struct {
	t    *testing.T
	file string
}

func (s *simulated) read() Power {
	s.t.Helper()
	data, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.TrimSpace(string(data)) == "0" {
		return Off
	}
	return On
}

func (s *simulated) stick() {
	if err := os.WriteFile(s.file+".stuck", nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// chassis is what ipmi_sim runs: MC get|set NAME [VALUE] ... (ipmi_lan(5), chassis_control).
const chassisProgram = `#!/bin/sh
power=$(dirname "$0")/power
shift
verb=$1
shift
while [ $# -gt 0 ]; do
	case "$verb $1" in
	"get power") echo "power:$(cat "$power")"; shift ;;
	"get "*) echo "$1:0"; shift ;;
	"set shutdown") [ -e "$power.stuck" ] || echo 0 >"$power"; shift 2 ;;
	"set power") [ -e "$power.stuck" ] || echo "$2" >"$power"; shift 2 ;;
	*) shift 2 ;;
	esac
done
`

const commands = `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
`

// startIPMI runs a real IPMI BMC on loopback.
func startIPMI(t *testing.T) (Driver, machine) {
	dir := t.TempDir()
	port := freeport.Find(t)
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m := &simulated{t: t, file: write("power", "1", 0o600)}
	auths := ""
	for _, level := range []string{"callback", "user", "operator", "admin"} {
		auths += "    allowed_auths_" + level + " none md2 md5 straight\n"
	}
	config := write("lan.conf", `name "bmc"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 `+strconv.Itoa(port)+`
    priv_limit admin
`+auths+`    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "`+write("chassis", chassisProgram, 0o700)+` 0x20"
  user 1 false "" "unused" user 10 none md2 md5 straight
  user 2 true "`+user+`" "`+password+`" admin 10 none md2 md5 straight
`, 0o600)
	cmd := exec.Command("ipmi_sim", "-n", "-c", config, "-f", write("commands", commands, 0o600), "-s", dir)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: ipmi_sim is in package openipmi", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	d, err := New(Settings{Protocol: "ipmi", Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	// It has no sign of being ready but that it answers; each try waits for an answer.
	for ctx := t.Context(); ; {
		if state, err := d.State(ctx); err == nil {
			if state != On {
				t.Fatalf("the machine is %s at first", state)
			}
			return d, m
		}
		if ctx.Err() != nil {
			t.Fatal("ipmi_sim does not answer")
		}
	}
}

// bmc is a Redfish service that refuses what the standard refuses.
type bmc struct {
	t     *testing.T
	mu    sync.Mutex
	power Power
	stuck bool
}

func (b *bmc) read() Power {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.power
}

func (b *bmc) stick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stuck = true
}

const systemPath, resetPath = "/redfish/v1/Systems/1", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"

func startRedfish(t *testing.T) (Driver, machine) {
	b := &bmc{t: t, power: On}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /redfish/v1/Systems", func(w http.ResponseWriter, _ *http.Request) {
		b.answer(w, http.StatusOK, map[string]any{"Members": []any{map[string]string{"@odata.id": systemPath}}})
	})
	mux.HandleFunc("GET "+systemPath, b.show)
	mux.HandleFunc("POST "+resetPath, b.reset)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			b.refuse(w, http.StatusUnauthorized, "The credentials are not valid.")
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	d, err := New(Settings{Protocol: "redfish", Address: s.URL, User: user, Password: password, CA: string(ca)})
	if err != nil {
		t.Fatal(err)
	}
	return d, b
}

func (b *bmc) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		b.t.Error(err)
	}
}

func (b *bmc) refuse(w http.ResponseWriter, status int, message string) {
	b.answer(w, status, map[string]any{"error": map[string]any{"code": "Base.1.0.GeneralError", "message": message}})
}

func (b *bmc) show(w http.ResponseWriter, _ *http.Request) {
	state := "On"
	if b.read() == Off {
		state = "Off"
	}
	b.answer(w, http.StatusOK, map[string]any{
		"@odata.id": systemPath, "PowerState": state,
		"Actions": map[string]any{"#ComputerSystem.Reset": map[string]any{"target": resetPath, "ResetType@Redfish.AllowableValues": []string{"On", "ForceOff", "GracefulShutdown", "ForceRestart"}}},
	})
}

func (b *bmc) reset(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ResetType string `json:"ResetType"`
	}
	data, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Content-Type") != "application/json" || json.Unmarshal(data, &body) != nil {
		b.refuse(w, http.StatusBadRequest, "The request body is malformed.")
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	want := map[string]Power{"On": On, "ForceOff": Off, "GracefulShutdown": Off}[body.ResetType]
	switch want {
	case Unknown:
		b.refuse(w, http.StatusBadRequest, "The value is not in the list of acceptable values.")
	case b.power:
		b.refuse(w, http.StatusConflict, "The system is already in that state.") // as several vendors do
	default:
		if !b.stuck {
			b.power = want
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func TestABMCWithSeveralSystemsWantsOneNamed(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"Members": [{"@odata.id": "/redfish/v1/Systems/1"}, {"@odata.id": "/redfish/v1/Systems/2"}]}`)
	}))
	defer s.Close()
	d := redfishAt(t, s)
	if _, err := d.State(t.Context()); err == nil || !strings.Contains(err.Error(), "name the one that is the host") {
		t.Errorf("got %v", err)
	}
}

// The password must not follow a reference to another host.
func TestABMCCannotSendUsElsewhere(t *testing.T) {
	asked := make(chan struct{}, 1)
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} }))
	defer other.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"Members": [{"@odata.id": "`+other.URL+`/redfish/v1/Systems/1"}]}`)
	}))
	defer s.Close()
	if _, err := redfishAt(t, s).State(t.Context()); err == nil || !strings.Contains(err.Error(), "is not on it") {
		t.Errorf("got %v", err)
	}
	if len(asked) > 0 {
		t.Error("the other server was asked")
	}
}

func redfishAt(t *testing.T, s *httptest.Server) Driver {
	t.Helper()
	d, err := New(Settings{Protocol: "redfish", Address: s.URL, User: user, Password: password,
		CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
