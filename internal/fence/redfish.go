package fence

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// redfishAnswerMax is how long one request may take; BMCs are slow web servers.
	redfishAnswerMax = 5 * time.Second
	// redfishBodyMax is far more than a ComputerSystem resource has.
	redfishBodyMax = 1 << 20
)

// redfish speaks DMTF Redfish (DSP0266).
//
// Basic authentication comes first, because it leaves no session behind. A service that refuses it, as many do where an administrator has turned it off,
// gets a session for the one request, which is deleted after it: services have few, and hold forgotten ones for half an hour.
//
// A service that wants to be told which state an action was decided on (428) gets the resource's ETag with it. One that answers an action with a task (202)
// is believed no more than any other: what counts is the power state that is read afterwards (Isolate).
type redfish struct {
	base   *url.URL
	user   string
	pass   string
	system string
	client *http.Client
}

func newRedfish(s Settings) (Driver, error) {
	base, err := url.Parse(s.Address)
	if err != nil || base.Scheme != "https" || base.Host == "" || strings.Trim(base.Path, "/") != "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "BMC address %q: it must be https://HOST[:PORT]", s.Address)
	}
	if s.User == "" || s.Password == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "BMC %s: user and password are required", s.Address)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(s.CA)) {
			return nil, cloud.Errorf(cloud.KindInvalid, "BMC %s: the CA holds no certificate in PEM form", s.Address)
		}
	}
	return &redfish{
		base: base, user: s.User, pass: s.Password, system: s.System,
		// No kept connections: between two calls lie days, and a BMC has few sockets.
		client: &http.Client{Timeout: redfishAnswerMax, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}},
	}, nil
}

func (d *redfish) String() string { return "redfish://" + d.user + "@" + d.base.Host }

// computerSystem is the part of a ComputerSystem resource (DSP0268) that power needs.
type computerSystem struct {
	ID         string `json:"@odata.id"`
	ETag       string `json:"-"`          // of the answer
	PowerState string `json:"PowerState"` // On, Off, PoweringOn, PoweringOff, Paused
	Links      struct {
		Chassis []link `json:"Chassis"`
	} `json:"Links"`
	Actions struct {
		Reset struct {
			Target    string   `json:"target"`
			Allowable []string `json:"ResetType@Redfish.AllowableValues"`
		} `json:"#ComputerSystem.Reset"`
	} `json:"Actions"`
}

// State reads PowerState; a host on its way to a state is in none.
func (d *redfish) State(ctx context.Context) (Power, error) {
	s, err := d.find(ctx)
	if err != nil {
		return Unknown, err
	}
	switch s.PowerState {
	case "On", "Paused":
		return On, nil
	case "Off":
		return Off, nil
	case "PoweringOn", "PoweringOff":
		return On, nil // it still has power, or has it already
	default:
		return Unknown, d.fail("read power state", fmt.Errorf("PowerState is %q", s.PowerState))
	}
}

// PowerOff resets with ForceOff.
func (d *redfish) PowerOff(ctx context.Context) error { return d.reset(ctx, "ForceOff") }

// PowerOn resets with On.
func (d *redfish) PowerOn(ctx context.Context) error { return d.reset(ctx, "On") }

func (d *redfish) reset(ctx context.Context, kind string) error {
	s, err := d.find(ctx)
	if err != nil {
		return err
	}
	reset := s.Actions.Reset
	if reset.Target == "" {
		return d.fail(kind, errors.New("the system offers no ComputerSystem.Reset"))
	}
	if len(reset.Allowable) > 0 && !slices.Contains(reset.Allowable, kind) {
		return d.fail(kind, fmt.Errorf("the system allows only the reset types %s", strings.Join(reset.Allowable, ", ")))
	}
	return d.do(ctx, http.MethodPost, reset.Target, map[string]string{"ResetType": kind}, nil)
}

// find returns the system: the one that was named, or the only one.
func (d *redfish) find(ctx context.Context) (computerSystem, error) {
	var s computerSystem
	if d.system != "" {
		return s, d.do(ctx, http.MethodGet, "/redfish/v1/Systems/"+url.PathEscape(d.system), nil, &s)
	}
	var list struct {
		Members []struct {
			ID string `json:"@odata.id"`
		} `json:"Members"`
	}
	if err := d.do(ctx, http.MethodGet, "/redfish/v1/Systems", nil, &list); err != nil {
		return s, err
	}
	if len(list.Members) != 1 {
		return s, d.fail("find system", fmt.Errorf("the BMC has %d systems: name the one that is the host", len(list.Members)))
	}
	return s, d.do(ctx, http.MethodGet, list.Members[0].ID, nil, &s)
}

// do makes one request, and what it takes to have it accepted.
func (d *redfish) do(ctx context.Context, method, path string, body, into any) error {
	err := d.send(ctx, method, path, body, into, "")
	if status(err) != http.StatusPreconditionRequired {
		return err
	}
	s, err := d.find(ctx)
	if err != nil {
		return err
	}
	return d.send(ctx, method, path, body, into, s.ETag)
}

// send makes one request with basic authentication, or in a session of its own.
func (d *redfish) send(ctx context.Context, method, path string, body, into any, etag string) error {
	basic := func(r *http.Request) { r.SetBasicAuth(d.user, d.pass) }
	matching := func(authenticate func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			authenticate(r)
			if etag != "" {
				r.Header.Set("If-Match", etag)
			}
		}
	}
	_, err := d.exchange(ctx, method, path, body, into, matching(basic))
	if status(err) != http.StatusUnauthorized {
		return err
	}
	// To its end, whoever gives up meanwhile: a session that was made and not heard of could not be deleted.
	header, loginErr := d.exchange(context.WithoutCancel(ctx), http.MethodPost, sessionsPath, map[string]string{"UserName": d.user, "Password": d.pass}, nil, func(*http.Request) {})
	token := header.Get("X-Auth-Token")
	if loginErr != nil || token == "" {
		return err // the first refusal says what is wrong
	}
	inSession := func(r *http.Request) { r.Header.Set("X-Auth-Token", token) }
	defer func() {
		if at, parseErr := url.Parse(header.Get("Location")); parseErr == nil && at.Path != "" {
			_, _ = d.exchange(context.WithoutCancel(ctx), http.MethodDelete, at.Path, nil, nil, inSession) // one that stays ends by itself
		}
	}()
	_, err = d.exchange(ctx, method, path, body, into, matching(inSession))
	return err
}

// sessionsPath is where sessions are made; DSP0266, section 13.3.4.2, has it fixed so that it can be found without authentication.
const sessionsPath = "/redfish/v1/SessionService/Sessions"

// exchange makes one request as it is. Paths come from the BMC too, so they are resolved against the address: the password goes nowhere else.
func (d *redfish) exchange(ctx context.Context, method, path string, body, into any, authenticate func(*http.Request)) (http.Header, error) {
	ref, err := url.Parse(path)
	if err != nil || ref.Host != "" || !strings.HasPrefix(ref.Path, "/") {
		return nil, d.fail(method, fmt.Errorf("the BMC refers to %q, which is not on it", path))
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, d.fail(method, err)
	}
	var content io.Reader = http.NoBody
	if body != nil {
		content = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.base.ResolveReference(ref).String(), content)
	if err != nil {
		return nil, d.fail(method, err)
	}
	authenticate(req)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, d.fail(method+" "+path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, redfishBodyMax))
	if err != nil {
		return nil, d.fail(method+" "+path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, d.fail(method+" "+path, &refusal{resp.StatusCode, fmt.Sprintf("status %s: %s", resp.Status, complaint(answer))})
	}
	if into == nil {
		return resp.Header, nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return nil, d.fail(method+" "+path, err)
	}
	if s, ok := into.(*computerSystem); ok {
		s.ETag = resp.Header.Get("ETag")
	}
	return resp.Header, nil
}

// refusal is an answer that is no success.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// status returns the HTTP status of a refusal, 0 of any other error.
func status(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return 0
}

// complaint returns the message of a Redfish error (DSP0266, section 8.6), or the beginning of whatever was sent instead.
func complaint(body []byte) string {
	var e struct {
		Error struct {
			Message  string `json:"message"`
			Extended []struct {
				Message string `json:"Message"`
			} `json:"@Message.ExtendedInfo"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) == nil && e.Error.Message != "" {
		if len(e.Error.Extended) > 0 {
			return e.Error.Extended[0].Message
		}
		return e.Error.Message
	}
	const shown = 200
	return string(body[:min(len(body), shown)])
}

func (d *redfish) fail(op string, err error) error {
	return cloud.E(cloud.KindUnavailable, op, d.String(), err)
}
