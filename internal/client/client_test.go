package client

import (
	"bufio"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestRefusalsKeepTheServersWordsAndKind(t *testing.T) {
	tests := []struct {
		status int
		body   string
		kind   cloud.Kind
		text   string
	}{
		{http.StatusConflict, `{"conflictingRequest": {"code": 409, "message": "busy"}}`, cloud.KindConflict, "busy (HTTP 409)"},
		{http.StatusNotFound, `{"error": {"code": 404, "message": "none", "title": "Not Found"}}`, cloud.KindNotFound, "none (HTTP 404)"},
		{http.StatusBadGateway, "<html>proxy</html>", cloud.KindUnavailable, "<html>proxy</html> (HTTP 502)"},
		{http.StatusConflict, `{"error": {"code": 409, "kind": "stale", "message": "old"}}`, cloud.KindStale, "old (HTTP 409)"},
		{http.StatusBadRequest, `{"badRequest": {"code": 400, "message": "No valid host was found. a: full."}}`, cloud.KindNoValidHost,
			"No valid host was found. a: full. (HTTP 400)"},
		{http.StatusForbidden, "", cloud.KindForbidden, "the request was refused (HTTP 403)"},
	}
	for _, tt := range tests {
		err := explain(gophercloud.ErrUnexpectedResponseCode{Actual: tt.status, Body: []byte(tt.body)})
		if !cloud.Is(err, tt.kind) || err.Error() != tt.text {
			t.Errorf("got %v (%v), want %s (%v)", err, cloud.KindOf(err), tt.text, tt.kind)
		}
	}
	if err := explain(&url.Error{Op: "Get", URL: "http://x", Err: io.EOF}); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("an API that does not answer: %v", err)
	}
}

func TestStreamsAreReadUntilToldToStop(t *testing.T) {
	text := ": alive\n\nevent: server\ndata: {\"id\":\"s\",\"host\":\"a\"}\n\nevent: news\ndata: {}\n\nevent: migration\ndata: {\"id\":\"m\",\"status\":\"completed\"}\n\n"
	s := &Stream{body: io.NopCloser(strings.NewReader(text)), lines: bufio.NewScanner(strings.NewReader(text))}
	var got []string
	err := s.Each(func(e Event) error {
		switch {
		case e.Server != nil:
			got = append(got, "server "+string(e.Server.Host))
		case e.Migration != nil && e.Migration.Status.Final():
			got = append(got, "migration over")
			return ErrStop
		}
		return nil
	})
	if err != nil || strings.Join(got, ", ") != "server a, migration over" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := s.Each(func(Event) error { return nil }); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("a stream that ends by itself: %v", err)
	}
}

func TestCredentialsAreReadAsTheStockClientsDo(t *testing.T) {
	read := func(env map[string]string) (gophercloud.AuthOptions, error) {
		return authFromEnviron(func(name string) string { return env[name] })
	}
	auth, err := read(map[string]string{"OS_AUTH_URL": "u", "OS_USERNAME": "a", "OS_PASSWORD": "p", "OS_USER_DOMAIN_NAME": "D", "OS_PROJECT_NAME": "admin"})
	if err != nil || auth.DomainName != "D" || auth.Scope.ProjectName != "admin" || auth.Scope.DomainID != "default" {
		t.Errorf("got %+v, scope %+v, %v", auth, auth.Scope, err)
	}
	auth, err = read(map[string]string{"OS_AUTH_URL": "u", "OS_APPLICATION_CREDENTIAL_ID": "i", "OS_APPLICATION_CREDENTIAL_SECRET": "s"})
	if err != nil || auth.Scope != nil || auth.ApplicationCredentialID != "i" {
		t.Errorf("application credential: %+v, %v", auth, err)
	}
	auth, err = read(map[string]string{"OS_AUTH_URL": "u", "OS_TOKEN": "t", "OS_USERNAME": "a", "OS_PROJECT_ID": "p"})
	if err != nil || auth.TokenID != "t" || auth.Username != "" || auth.Scope.ProjectID != "p" || auth.AllowReauth {
		t.Errorf("token: %+v, %v", auth, err)
	}
	for _, env := range []map[string]string{{"OS_AUTH_URL": "u"}, {"OS_AUTH_URL": "u", "OS_USERNAME": "a", "OS_PASSWORD": "p"}} {
		if _, err := read(env); !cloud.Is(err, cloud.KindUnauthenticated) {
			t.Errorf("%v: %v", env, err)
		}
	}
}

func TestOpenrcIsReadAsAShellWould(t *testing.T) {
	path := filepath.Join(t.TempDir(), "openrc")
	text := "# export OS_USERNAME=nobody\nunset OS_TOKEN\nexport OS_USERNAME=admin\n export OS_PASSWORD='it'\\''s a \"p\"'\nOS_REGION_NAME=\"Region One\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	get, err := Openrc(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"OS_USERNAME": "admin", "OS_PASSWORD": `it's a "p"`, "OS_REGION_NAME": "Region One", "OS_TOKEN": ""} {
		if got := get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
