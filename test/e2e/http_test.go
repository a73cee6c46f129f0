package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// call is one request to the compute API, as a program would write it by hand.
type call struct {
	method, path string
	version      string // compute microversion; empty sends none
	body         any    // a string is sent as it is, anything else as JSON
	token        string // "" is the administrator's; "-" sends none
}

// answer is what came back.
type answer struct {
	code   int
	header http.Header
	body   string
}

// fault returns the name and message of a Nova fault body.
func (a answer) fault() (name, message string) {
	var faults map[string]struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if json.Unmarshal([]byte(a.body), &faults) != nil || len(faults) != 1 {
		return "", a.body
	}
	for n, f := range faults {
		if f.Code != a.code {
			return n, fmt.Sprintf("code %d inside a %d: %s", f.Code, a.code, f.Message)
		}
		return n, f.Message
	}
	return "", ""
}

// into decodes the answer of a request that must have succeeded.
func (a answer) into(t *testing.T, out any) {
	t.Helper()
	if a.code != http.StatusOK {
		t.Fatalf("status %d: %s", a.code, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), out); err != nil {
		t.Fatal(err)
	}
}

func do(ctx context.Context, t *testing.T, c call) answer {
	t.Helper()
	var body io.Reader
	switch b := c.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, cloud.Compute.Endpoint+strings.TrimPrefix(c.path, "/"), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.version != "" {
		req.Header.Set("OpenStack-API-Version", "compute "+c.version)
	}
	switch c.token {
	case "":
		req.Header.Set("X-Auth-Token", cloud.Compute.Token())
	case "-":
	default:
		req.Header.Set("X-Auth-Token", c.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(raw)}
}

// migrateBody is os-migrateLive as the given microversion wants it.
func migrateBody(host any, extra map[string]any) map[string]any {
	args := map[string]any{"host": host, "block_migration": "auto"}
	for k, v := range extra {
		args[k] = v
	}
	return map[string]any{"os-migrateLive": args}
}
