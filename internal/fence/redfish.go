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

// redfish speaks DMTF Redfish (DSP0266) with basic authentication, which leaves no session behind.
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

// do makes one request. Paths come from the BMC too, so they are resolved against the address: the password goes nowhere else.
func (d *redfish) do(ctx context.Context, method, path string, body, into any) error {
	ref, err := url.Parse(path)
	if err != nil || ref.Host != "" || !strings.HasPrefix(ref.Path, "/") {
		return d.fail(method, fmt.Errorf("the BMC refers to %q, which is not on it", path))
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return d.fail(method, err)
	}
	var content io.Reader = http.NoBody
	if body != nil {
		content = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.base.ResolveReference(ref).String(), content)
	if err != nil {
		return d.fail(method, err)
	}
	req.SetBasicAuth(d.user, d.pass)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return d.fail(method+" "+path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, redfishBodyMax))
	if err != nil {
		return d.fail(method+" "+path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return d.fail(method+" "+path, fmt.Errorf("status %s: %s", resp.Status, complaint(answer)))
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return d.fail(method+" "+path, err)
	}
	return nil
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
