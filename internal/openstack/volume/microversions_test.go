package volume

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

var update = flag.Bool("update", false, "write docs/microversions-volume.md anew")

func TestEveryMicroversionOnOfferIsInTheTableOnceWithAStance(t *testing.T) {
	if got, want := len(Changes), openstack.Cinder.Versions.Max.Minor+1; got != want {
		t.Fatalf("%d changes for 3.0..3.%d", got, want-1)
	}
	for i, c := range Changes {
		if c.Minor != i {
			t.Errorf("change %d is about 3.%d", i, c.Minor)
		}
		switch c.Stance {
		case openstack.Honoured, openstack.Refused, openstack.Shared:
		default:
			t.Errorf("3.%d: stance %q", c.Minor, c.Stance)
		}
		if c.What == "" || c.How == "" {
			t.Errorf("3.%d: says neither what nor how", c.Minor)
		}
		if c.Stance == openstack.Refused && !strings.ContainsAny(c.How, "0123456789") {
			t.Errorf("3.%d is refused, and %q names no answer", c.Minor, c.How)
		}
	}
}

func TestMicroversionDocument(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "microversions-volume.md")
	want := MicroversionDocument()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("docs/microversions-volume.md is not what the table says (%v); run go test ./internal/openstack/volume -run TestMicroversionDocument -update", err)
	}
}

// pathOf fills a pattern's wildcards with ids that name nothing.
func pathOf(pattern string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") {
			parts[i] = nothing
		}
	}
	return method, "/v3" + strings.Join(parts, "/")
}

func TestEveryRouteIsUnknownBeforeItsMicroversionAndSafeAfterIt(t *testing.T) {
	w := newSite(t)
	for _, one := range routes() {
		method, path := pathOf(one.pattern)
		if one.from > 0 {
			before := openstack.Microversion{Major: 3, Minor: one.from - 1}
			if r := w.do("admin@"+before.String(), method, path, m{}); r.status != 404 || r.at("itemNotFound") == nil {
				t.Errorf("%s %s at %s: %d %s", method, path, before, r.status, r.text)
			}
		}
		for _, body := range []any{nil, `{`, m{}, m{"x": nil}, []int{1}} {
			if r := w.do("admin@3.70", method, path, body); r.status >= 500 && r.status != 501 {
				t.Errorf("%s %s %v: %d %s", method, path, body, r.status, r.text)
			}
		}
		if method != "GET" || !strings.Contains(path, "extensions") {
			if r := w.do("", method, path, m{}); r.status != 401 {
				t.Errorf("%s %s without a token: %d", method, path, r.status)
			}
		}
		if r := w.do("nemo@3.70", method, path, m{}); r.status < 400 && !strings.Contains(path, "extensions") {
			t.Errorf("%s %s for somebody without a project: %d %s", method, path, r.status, r.text)
		}
	}
}

func TestVersionsAreNegotiatedAsInCinder(t *testing.T) {
	w := newSite(t)
	w.want(300, "", "GET", "/", nil)
	if r := w.want(200, "", "GET", "/v3/", nil); r.at("versions").([]any)[0].(map[string]any)["version"] != "3.70" {
		t.Errorf("%s", r.text)
	}
	for version, status := range map[string]int{"": 200, "3.0": 200, "3.70": 200, "latest": 200, "3.71": 406, "2.0": 406, "three": 400} {
		r := w.do("ann@"+version, "GET", "/v3/volumes", nil)
		if r.status != status {
			t.Errorf("version %q: %d %s", version, r.status, r.text)
		}
		if status == 200 && !strings.HasPrefix(r.header.Get("OpenStack-API-Version"), "volume 3.") {
			t.Errorf("version %q: answered %q", version, r.header.Get("OpenStack-API-Version"))
		}
	}
	w.want(200, "ann", "GET", "/v3/"+annProject+"/volumes", nil)
	w.refused(400, "Malformed request url", "ann", "GET", "/v3/"+bobProject+"/volumes", nil)
	w.want(404, "ann", "GET", "/v3/"+annProject+"/nonsense", nil)
	w.want(405, "ann", "PATCH", "/v3/volumes", nil)
}

func TestAnUnknownPathIsNotFoundAtOnce(t *testing.T) {
	w := newSite(t)
	for _, path := range []string{"/v3/nonsense", "/v3/nonsense/", "/v3/nonsense/at/all", "/v3/" + annProject, "/v3/" + annProject + "/nonsense"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			w.want(404, "ann", method, path, nil)
		}
	}
}
