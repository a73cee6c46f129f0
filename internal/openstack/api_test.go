package openstack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// oneToken is an Authenticator that knows one token.
type oneToken struct{ caller *openstack.Caller }

func (o oneToken) Authenticate(_ context.Context, token string) (*openstack.Caller, error) {
	if token != "good" {
		return nil, cloud.Errorf(cloud.KindUnauthenticated, "no such token")
	}
	return o.caller, nil
}

type routesFunc func(*openstack.API)

func (f routesFunc) Mount(a *openstack.API) { f(a) }

func serve(t *testing.T, log io.Writer, mount routesFunc) *httptest.Server {
	t.Helper()
	api := openstack.New(openstack.Options{
		PublicURL: "http://cloud.test/",
		Auth:      oneToken{&openstack.Caller{User: "u1", Project: "p1", Roles: openstack.ExpandRoles([]string{"member"})}},
		Logger:    slog.New(slog.NewJSONHandler(log, nil)),
	})
	api.Mount(mount)
	srv := httptest.NewServer(api)
	t.Cleanup(srv.Close)
	return srv
}

func call(t *testing.T, srv *httptest.Server, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", "good")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func TestFaultsHaveTheDialectsShape(t *testing.T) {
	fail := func(_ http.ResponseWriter, r *openstack.Request) error {
		switch r.PathValue("how") {
		case "policy":
			return r.Caller.RequireAdmin("the:rule")
		case "panic":
			panic("secret detail")
		case "internal":
			return fmt.Errorf("secret detail")
		}
		return cloud.Errorf(cloud.KindConflict, "busy")
	}
	srv := serve(t, io.Discard, func(a *openstack.API) {
		for _, d := range []*openstack.Dialect{openstack.Nova, openstack.Keystone, openstack.Glance, openstack.Neutron} {
			a.Routes(d).Handle("GET /x/{how}", fail)
		}
	})
	for _, c := range []struct {
		path, token string
		code        int
		body        string
	}{
		{"/compute/x/busy", "good", 409, `{"conflictingRequest":{"code":409,"message":"busy"}}`},
		{"/compute/x/policy", "good", 403, `{"forbidden":{"code":403,"message":"Policy doesn't allow the:rule to be performed."}}`},
		{"/compute/nothing", "good", 404, `{"itemNotFound":{"code":404,"message":"The resource could not be found."}}`},
		{"/identity/x/busy", "good", 409, `{"error":{"code":409,"message":"busy","title":"Conflict"}}`},
		{"/image/x/busy", "good", 409, `{"code":"409 Conflict","message":"busy","title":"Conflict"}`},
		{"/network/x/busy", "good", 409, `{"NeutronError":{"detail":"","message":"busy","type":"Conflict"}}`},
		{"/network/x/policy", "good", 403, `{"NeutronError":{"detail":"","message":"rule:the:rule is disallowed by policy","type":"PolicyNotAuthorized"}}`},
		{"/compute/x/busy", "bad", 401, `{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}`},
		{"/network/x/busy", "", 401, `{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}`},
		{"/nobody", "good", 404, `{"error":{"code":404,"message":"The resource could not be found.","title":"Not Found"}}`},
	} {
		resp, body := call(t, srv, "GET", c.path, "", "X-Auth-Token", c.token)
		if resp.StatusCode != c.code || body != c.body {
			t.Errorf("%s: got %d %s\nwant %d %s", c.path, resp.StatusCode, body, c.code, c.body)
		}
		if c.code == 401 && resp.Header.Get("WWW-Authenticate") != `Keystone uri="http://cloud.test/identity"` {
			t.Errorf("%s: WWW-Authenticate is %q", c.path, resp.Header.Get("WWW-Authenticate"))
		}
	}
	for _, how := range []string{"panic", "internal"} {
		resp, body := call(t, srv, "GET", "/compute/x/"+how, "")
		if resp.StatusCode != 500 || strings.Contains(body, "secret") || !strings.Contains(body, "computeFault") {
			t.Errorf("%s: got %d %s", how, resp.StatusCode, body)
		}
	}
}

func TestTheLogHasWhatTheClientMustNotSee(t *testing.T) {
	var log bytes.Buffer
	srv := serve(t, &log, func(a *openstack.API) {
		a.Routes(openstack.Nova).Handle("GET /x", func(http.ResponseWriter, *openstack.Request) error { panic("secret detail") })
	})
	resp, _ := call(t, srv, "GET", "/compute/x?password=hunter2", "")
	srv.Close()
	text := log.String()
	id := resp.Header.Get("X-Openstack-Request-Id")
	if !strings.HasPrefix(id, "req-") || id != resp.Header.Get("X-Compute-Request-Id") {
		t.Errorf("request ids %q and %q", id, resp.Header.Get("X-Compute-Request-Id"))
	}
	for _, want := range []string{"secret detail", "api_test.go", id, `"user":"u1"`, `"status":500`} {
		if !strings.Contains(text, want) {
			t.Errorf("log lacks %q:\n%s", want, text)
		}
	}
	for _, secret := range []string{"hunter2", "good"} {
		if strings.Contains(text, secret) {
			t.Errorf("log shows %q:\n%s", secret, text)
		}
	}
}

func TestWrongMethodIs405AndNamesTheRightOnes(t *testing.T) {
	ok := func(w http.ResponseWriter, _ *openstack.Request) error { return openstack.NoContent(w) }
	srv := serve(t, io.Discard, func(a *openstack.API) {
		a.Routes(openstack.Nova).Handle("GET /x/{id}", ok)
		a.Routes(openstack.Nova).Handle("DELETE /x/{id}", ok)
	})
	resp, body := call(t, srv, "POST", "/compute/x/1", "")
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD, DELETE" || !strings.Contains(body, "badMethod") {
		t.Errorf("got %d, Allow %q, %s", resp.StatusCode, resp.Header.Get("Allow"), body)
	}
	if resp, _ := call(t, srv, "GET", "/compute/x/1/", ""); resp.StatusCode != 204 {
		t.Errorf("trailing slash: %d", resp.StatusCode)
	}
}

func TestMicroversionIsNegotiatedAsNovaDoes(t *testing.T) {
	srv := serve(t, io.Discard, func(a *openstack.API) {
		a.Routes(openstack.Nova).Handle("GET /v", func(w http.ResponseWriter, r *openstack.Request) error {
			return openstack.WriteJSON(w, 200, r.Version.String())
		})
	})
	const current, legacy = "OpenStack-API-Version", "X-OpenStack-Nova-API-Version"
	for _, c := range []struct {
		header []string
		code   int
		want   string
	}{
		{nil, 200, `"2.1"`},
		{[]string{current, "compute 2.79"}, 200, `"2.79"`},
		{[]string{current, "compute latest"}, 200, `"2.95"`},
		{[]string{current, "volume 3.50, compute 2.30"}, 200, `"2.30"`},
		{[]string{current, "volume 3.50"}, 200, `"2.1"`},
		{[]string{legacy, "2.25"}, 200, `"2.25"`},
		{[]string{legacy, "2.25", current, "compute 2.30"}, 200, `"2.30"`},
		{[]string{legacy, "latest"}, 200, `"2.95"`},
		{[]string{current, "compute 2.96"}, 406, `{"computeFault":{"code":406,"message":"Version 2.96 is not supported by the API. Minimum is 2.1 and maximum is 2.95."}}`},
		{[]string{legacy, "1.9"}, 406, `{"computeFault":{"code":406,"message":"Version 1.9 is not supported by the API. Minimum is 2.1 and maximum is 2.95."}}`},
		{[]string{legacy, "2.x"}, 400, `{"badRequest":{"code":400,"message":"API Version String 2.x is of invalid format. Must be of format MajorNum.MinorNum."}}`},
		{[]string{legacy, "2.01"}, 400, `{"badRequest":{"code":400,"message":"API Version String 2.01 is of invalid format. Must be of format MajorNum.MinorNum."}}`},
	} {
		resp, body := call(t, srv, "GET", "/compute/v", "", c.header...)
		if resp.StatusCode != c.code || body != c.want {
			t.Errorf("%v: got %d %s, want %d %s", c.header, resp.StatusCode, body, c.code, c.want)
		}
		if c.code == 200 {
			v := strings.Trim(c.want, `"`)
			if resp.Header.Get(current) != "compute "+v || resp.Header.Get(legacy) != v {
				t.Errorf("%v: announced %q and %q", c.header, resp.Header.Get(current), resp.Header.Get(legacy))
			}
			if vary := strings.Join(resp.Header.Values("Vary"), ","); vary != current+","+legacy {
				t.Errorf("%v: Vary is %q", c.header, vary)
			}
		}
	}
}

func decodeRoute(a *openstack.API) {
	a.Routes(openstack.Nova).Handle("POST /x", func(w http.ResponseWriter, r *openstack.Request) error {
		var in struct {
			Name string `json:"name" api:"required"`
		}
		if err := r.Decode(w, &in); err != nil {
			return err
		}
		return openstack.WriteJSON(w, 200, in)
	})
}

func TestTenMegabyteBodyIs413WithoutBeingRead(t *testing.T) {
	srv := serve(t, io.Discard, decodeRoute)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// Only the head is sent: an answer proves that the server did not wait for the body.
	fmt.Fprintf(conn, "POST /compute/x HTTP/1.1\r\nHost: x\r\nX-Auth-Token: good\r\nContent-Length: %d\r\n\r\n", 10<<20)
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	text := string(answer)
	for _, want := range []string{"HTTP/1.1 413", `{"overLimit":{"code":413,"message":"Request is too large."}}`, "Connection: close"} {
		if !strings.Contains(text, want) {
			t.Errorf("answer lacks %q:\n%s", want, text)
		}
	}
}

func TestEndlessChunkedBodyIs413(t *testing.T) {
	srv := serve(t, io.Discard, decodeRoute)
	req, err := http.NewRequest("POST", srv.URL+"/compute/x", io.LimitReader(zeros{}, 10<<20))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", "good")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestMalformedBodiesAre400(t *testing.T) {
	srv := serve(t, io.Discard, decodeRoute)
	for body, message := range map[string]string{
		"":                                  "cannot understand JSON",
		"{":                                 "cannot understand JSON",
		`{"name":"a"} x`:                    "cannot understand JSON",
		`{"name":"a","name":"b"}`:           "property 'name' is given twice",
		`[]`:                                "[] is not of type 'object'",
		`{}`:                                "'name' is a required property",
		`{"name":5}`:                        "Invalid input for field/attribute name. Value: 5. 5 is not of type 'string'",
		`{"name":"a","z":1}`:                "Additional properties are not allowed ('z' was unexpected)",
		strings.Repeat(`{"name":`, 100):     "JSON is nested deeper than 32 levels",
		strings.Repeat(`[`, 1000):           "JSON is nested deeper than 32 levels",
		`{"name":"a"` + "\x00" + `,"b":"c"`: "cannot understand JSON",
	} {
		resp, text := call(t, srv, "POST", "/compute/x", body)
		var got struct {
			BadRequest struct {
				Code    int
				Message string
			}
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 400 || got.BadRequest.Code != 400 || got.BadRequest.Message != message {
			t.Errorf("%.40q: got %d %s, want message %q", body, resp.StatusCode, text, message)
		}
	}
}

func TestMetricsCountByRouteAndHealthIsReported(t *testing.T) {
	srv := serve(t, io.Discard, decodeRoute)
	call(t, srv, "POST", "/compute/x", `{"name":"a"}`)
	call(t, srv, "BREW", "/compute/some/random/path", "")
	_, text := call(t, srv, "GET", "/metrics", "")
	for _, want := range []string{
		`godwit_http_requests_total{code="200",method="POST",route="/compute/x",service="compute"} 1`,
		`godwit_http_requests_total{code="404",method="other",route="unmatched",service="compute"} 1`,
		`godwit_http_request_duration_seconds_count{service="compute"} 2`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if resp, text := call(t, srv, "GET", "/healthz", ""); resp.StatusCode != 200 || text != "ok\n" {
		t.Errorf("healthz: %d %q", resp.StatusCode, text)
	}
}
