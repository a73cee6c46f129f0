package compute

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

var update = flag.Bool("update", false, "write golden files and docs/microversions.md anew")

func TestEveryMicroversionOnOfferIsInTheTableOnceWithAStance(t *testing.T) {
	if got, want := len(Changes), openstack.Nova.Versions.Max.Minor; got != want {
		t.Fatalf("%d changes for 2.1..2.%d", got, want)
	}
	for i, c := range Changes {
		if c.Minor != i+1 {
			t.Errorf("change %d is about 2.%d", i+1, c.Minor)
		}
		switch c.Stance {
		case openstack.Honoured, openstack.Refused, openstack.Shared:
		default:
			t.Errorf("2.%d: stance %q", c.Minor, c.Stance)
		}
		if c.What == "" || c.How == "" {
			t.Errorf("2.%d: says neither what nor how", c.Minor)
		}
		if c.Stance == openstack.Refused && !strings.ContainsAny(c.How, "0123456789") && c.Minor != 49 && c.Minor != 72 && c.Minor != 89 {
			t.Errorf("2.%d is refused, and %q names no answer", c.Minor, c.How)
		}
	}
}

func TestMicroversionDocument(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "microversions.md")
	want := MicroversionDocument()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("docs/microversions.md is not what the table says (%v); run go test ./internal/openstack/compute -run TestMicroversionDocument -update", err)
	}
}

// pathOf fills a pattern's wildcards with ids that name nothing.
func pathOf(pattern string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") {
			parts[i] = "0e0e0e0e-0000-4000-8000-00000000000e"
		}
	}
	return method, strings.Join(parts, "/")
}

// TestRoutesExistExactlyAtTheirMicroversions asks for every route at the edges of its range: outside, it is Nova's 404 for unknown resources.
func TestRoutesExistExactlyAtTheirMicroversions(t *testing.T) {
	w := newSite(t)
	for _, one := range (&Service{}).routes() {
		method, path := pathOf(one.pattern)
		for _, at := range []struct {
			minor int
			there bool
		}{{one.from - 1, false}, {max(one.from, 1), true}, {one.to, true}, {one.to + 1, false}} {
			if at.minor < 1 || one.to == 0 && at.minor == one.to+1 {
				continue
			}
			r := w.send("admin", at.minor, method, path, map[bool]any{true: "{}"}[method == http.MethodPost || method == http.MethodPut])
			unknown := r.status == http.StatusNotFound && r.fault() == openstack.Nova.NotFound
			if unknown == at.there {
				t.Errorf("%s at 2.%d: %d %s, should be known: %v", one.pattern, at.minor, r.status, r.text, at.there)
			}
			if r.status >= 500 && r.status != http.StatusNotImplemented {
				t.Errorf("%s at 2.%d: %d %s", one.pattern, at.minor, r.status, r.text)
			}
		}
	}
}

func TestRefusedActionsNeverSucceedAndUnknownOnesAreNamed(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	for _, name := range RefusedActions() {
		for _, minor := range []int{1, 5, 6, 16, 17, 43, 44, 95} {
			r := w.send("admin", minor, "POST", "/servers/"+string(s.ID)+"/action", m{name: m{}})
			known := refusedActions[name].known(minor)
			switch {
			case !known && r.status != http.StatusNotFound:
				t.Errorf("%s at 2.%d: %d, want 404", name, minor, r.status)
			case known && r.status != 400 && r.status != 410 && r.status != 501:
				t.Errorf("%s at 2.%d: %d %s, want a refusal", name, minor, r.status, r.text)
			}
		}
	}
	w.refused(400, "There is no such action: dance", "admin", 95, "POST", "/servers/"+string(s.ID)+"/action", m{"dance": nil})
	w.refused(400, "Malformed request body", "admin", 95, "POST", "/servers/"+string(s.ID)+"/action", m{"os-start": nil, "os-stop": nil})
}

func TestVersionNegotiation(t *testing.T) {
	w := newSite(t)
	ask := func(header, value string) reply {
		req, _ := http.NewRequest("GET", w.url+"/compute/v2.1/flavors", nil)
		req.Header.Set("X-Auth-Token", "ann")
		req.Header.Set(header, value)
		return w.do(req)
	}
	for _, c := range []struct {
		header, value string
		status        int
		answered      string
	}{
		{"X-OpenStack-Nova-API-Version", "2.55", 200, "2.55"},
		{"OpenStack-API-Version", "compute 2.61", 200, "2.61"},
		{"OpenStack-API-Version", "volume 3.1", 200, "2.1"},
		{"OpenStack-API-Version", "compute latest", 200, "2.95"},
		{"OpenStack-API-Version", "compute 2.96", 406, "2.96"},
		{"OpenStack-API-Version", "compute 3.0", 406, "3.0"},
		{"OpenStack-API-Version", "compute two", 400, "2.1"},
	} {
		r := ask(c.header, c.value)
		if r.status != c.status || r.header.Get("X-OpenStack-Nova-API-Version") != c.answered {
			t.Errorf("%s: %s: %d, announced %q, want %d and %q: %s", c.header, c.value, r.status, r.header.Get("X-OpenStack-Nova-API-Version"), c.status, c.answered, r.text)
		}
	}
	if r := ask("OpenStack-API-Version", "compute 2.96"); r.fault() != "Version 2.96 is not supported by the API. Minimum is 2.1 and maximum is 2.95." {
		t.Errorf("406 says %q", r.fault())
	}
}

func TestVersionDocumentsNeedNoToken(t *testing.T) {
	w := newSite(t)
	for path, name := range map[string]string{"/compute": "versions", "/compute/": "versions", "/compute/v2.1": "version", "/compute/v2.1/": "version"} {
		req, _ := http.NewRequest("GET", w.url+path, nil)
		r := w.do(req)
		if r.status != 200 || r.body[name] == nil || !strings.Contains(string(r.text), `"2.95"`) {
			t.Errorf("GET %s: %d %s", path, r.status, r.text)
		}
	}
}

// TestProjectInURLIsAcceptedWhenItIsTheCallers is 2.18: both forms are served, at any microversion.
func TestProjectInURLIsAcceptedWhenItIsTheCallers(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	for _, minor := range []int{1, 17, 18, 95} {
		plain := w.want(200, "ann", minor, "GET", "/servers/"+string(s.ID), nil)
		prefixed := w.want(200, "ann", minor, "GET", "/"+annProject+"/servers/"+string(s.ID), nil)
		if string(plain.text) != string(prefixed.text) {
			t.Errorf("at 2.%d the answers differ:\n%s\n%s", minor, plain.text, prefixed.text)
		}
	}
	w.refused(400, "Malformed request URL", "ann", 1, "GET", "/"+bobProject+"/servers", nil)
	w.refused(404, "could not be found", "ann", 1, "GET", "/"+annProject+"/nothing", nil)
	w.refused(404, "could not be found", "ann", 1, "GET", "/nothing/at/all", nil)
	w.want(202, "ann", 1, "POST", "/"+annProject+"/servers/"+string(s.ID)+"/action", m{"os-stop": nil})
	if r := w.send("ann", 1, "PATCH", "/servers", nil); r.status != http.StatusMethodNotAllowed {
		t.Errorf("PATCH: %d", r.status)
	}
}

func TestUnknownQueryParametersAreErrorsFrom275(t *testing.T) {
	w := newSite(t)
	for path, strict := range map[string]int{
		"/servers": 75, "/servers/detail": 75, "/flavors": 75, "/os-keypairs": 75, "/os-services": 75, "/limits": 75, "/os-server-groups": 75,
		"/os-migrations": 59, "/os-hypervisors": 53, "/os-quota-sets/" + annProject: 75, "/os-simple-tenant-usage": 75,
	} {
		extra := ""
		if strings.Contains(path, "usage") {
			extra = "&start=2026-01-01T00:00:00"
		}
		w.want(200, "admin", strict-1, "GET", path+"?bogus=1"+extra, nil)
		w.refused(400, "Additional properties are not allowed ('bogus' was unexpected)", "admin", strict, "GET", path+"?bogus=1"+extra, nil)
	}
	w.refused(400, "Invalid input for query parameters limit. Value: x. 'x' does not match '^[0-9]*$'", "ann", 1, "GET", "/servers?limit=x", nil)
	w.refused(400, "Invalid input for query parameters changes-since. Value: x. 'x' is not a 'date-time'", "ann", 1, "GET", "/servers?changes-since=x", nil)
	w.refused(400, "is not a 'regex'", "ann", 1, "GET", "/servers?name="+"%5B", nil)
}

func TestRequestIDsAreAnswered(t *testing.T) {
	w := newSite(t)
	r := w.want(200, "ann", 1, "GET", "/servers", nil)
	id := r.header.Get("X-Compute-Request-Id")
	if !strings.HasPrefix(id, "req-") || r.header.Get("X-Openstack-Request-Id") != id {
		t.Errorf("request ids %q and %q", id, r.header.Get("X-Openstack-Request-Id"))
	}
}

func TestFaultsHaveNovasShape(t *testing.T) {
	w := newSite(t)
	for status, name := range map[int]string{404: "itemNotFound", 400: "badRequest", 403: "forbidden"} {
		path := map[int]string{404: "/servers/none", 400: "/servers?limit=-1", 403: "/os-services"}[status]
		r := w.want(status, "ann", 1, "GET", path, nil)
		if fmt.Sprint(r.at(name, "code")) != fmt.Sprint(status) || r.fault() == "" {
			t.Errorf("%d: %s", status, r.text)
		}
	}
	if r := w.send("nobody", 1, "GET", "/servers", nil); r.status != 401 {
		t.Errorf("unknown token: %d", r.status)
	}
}

func TestAnUnknownPathIsNotFoundAtOnce(t *testing.T) {
	w := newSite(t)
	for _, path := range []string{"/nonsense", "/nonsense/", "/nonsense/at/all", "/" + annProject, "/" + annProject + "/nonsense", "/servers/x/nonsense"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			w.want(404, "ann", 1, method, path, nil)
		}
	}
}
