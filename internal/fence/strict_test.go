package fence

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// strict is a Redfish service as its standard (DSP0266) lets one be: basic authentication is turned off, sessions are few, an action must name the state it was
// decided on, and is answered with a task that takes its time.
type strict struct {
	t *testing.T

	mu       sync.Mutex
	power    Power
	stuck    bool
	turning  int // reads until the task has been carried out; 0: there is none
	want     Power
	version  int             // of the system; its ETag
	sessions map[string]bool // by token
	opened   int
}

const (
	sessionsMax   = 2 // that the service has at a time
	taskPatience  = 2 // reads of the system that a task outlasts
	sessionPrefix = sessionsPath + "/"
)

func startStrict(t *testing.T) (Driver, machine) {
	b := &strict{t: t, power: On, version: 1, sessions: map[string]bool{}}
	s := httptest.NewTLSServer(b)
	t.Cleanup(func() {
		s.Close()
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.sessions) > 0 {
			t.Errorf("%d of %d sessions were left behind", len(b.sessions), b.opened)
		}
	})
	d, err := New(Settings{Protocol: "redfish", Address: s.URL, User: user, Password: password,
		CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))})
	if err != nil {
		t.Fatal(err)
	}
	return d, b
}

func (b *strict) read() Power {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.turning > 0 && b.want == On {
		return On // it has power already
	}
	return b.power
}

func (b *strict) stick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stuck = true
}

// ServeHTTP implements http.Handler.
func (b *strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	token := r.Header.Get("X-Auth-Token")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == sessionsPath:
		b.login(w, r)
	case !b.sessions[token]:
		refuse(w, http.StatusUnauthorized, "There is no valid session established with the implementation.")
	case r.Method == http.MethodDelete && strings.HasPrefix(r.URL.Path, sessionPrefix):
		delete(b.sessions, strings.TrimPrefix(r.URL.Path, sessionPrefix))
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/redfish/v1/Systems":
		reply(w, http.StatusOK, map[string]any{"Members": []any{map[string]string{"@odata.id": systemPath}}})
	case r.Method == http.MethodGet && r.URL.Path == systemPath:
		b.show(w)
	case r.Method == http.MethodPost && r.URL.Path == resetPath:
		b.reset(w, r)
	default:
		refuse(w, http.StatusNotFound, "The resource does not exist.")
	}
}

func (b *strict) login(w http.ResponseWriter, r *http.Request) {
	var body struct{ UserName, Password string }
	switch err := json.NewDecoder(r.Body).Decode(&body); {
	case err != nil || r.Header.Get("Content-Type") != "application/json":
		refuse(w, http.StatusBadRequest, "The request body is malformed.")
	case body.UserName != user || body.Password != password:
		refuse(w, http.StatusUnauthorized, "The credentials are not valid.")
	case len(b.sessions) >= sessionsMax:
		refuse(w, http.StatusServiceUnavailable, "The maximum number of user sessions is reached.")
	default:
		b.opened++
		token := fmt.Sprint("token-", b.opened)
		b.sessions[token] = true
		w.Header().Set("X-Auth-Token", token)
		w.Header().Set("Location", sessionPrefix+token)
		reply(w, http.StatusCreated, map[string]string{"@odata.id": sessionPrefix + token})
	}
}

// show shows the system; a task under way comes one read closer to its end.
func (b *strict) show(w http.ResponseWriter) {
	state := map[Power]string{On: "On", Off: "Off"}[b.power]
	if b.turning > 0 {
		state = map[Power]string{On: "PoweringOn", Off: "PoweringOff"}[b.want]
		if b.turning--; b.turning == 0 {
			b.power = b.want
			b.version++
		}
	}
	w.Header().Set("ETag", b.etag())
	reply(w, http.StatusOK, map[string]any{"@odata.id": systemPath, "PowerState": state,
		"Actions": map[string]any{"#ComputerSystem.Reset": map[string]any{"target": resetPath}}})
}

func (b *strict) etag() string { return fmt.Sprintf(`W/"%d"`, b.version) }

func (b *strict) reset(w http.ResponseWriter, r *http.Request) {
	var body struct{ ResetType string }
	want := Unknown
	if json.NewDecoder(r.Body).Decode(&body) == nil {
		want = map[string]Power{"On": On, "ForceOff": Off, "GracefulShutdown": Off}[body.ResetType]
	}
	switch match := r.Header.Get("If-Match"); {
	case want == Unknown:
		refuse(w, http.StatusBadRequest, "The value is not in the list of acceptable values.")
	case match == "":
		refuse(w, http.StatusPreconditionRequired, "The request did not provide the required precondition.")
	case match != b.etag():
		refuse(w, http.StatusPreconditionFailed, "The ETag supplied did not match.")
	default:
		if !b.stuck {
			b.want, b.turning = want, taskPatience
		}
		w.Header().Set("Location", "/redfish/v1/TaskService/Tasks/1/Monitor")
		reply(w, http.StatusAccepted, map[string]string{"TaskState": "New"})
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that left sees nothing either way
}

func refuse(w http.ResponseWriter, status int, message string) {
	reply(w, status, map[string]any{"error": map[string]any{"code": "Base.1.0.GeneralError", "message": message}})
}
