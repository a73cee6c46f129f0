package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// keystone sends one request to the identity API as the administrator and decodes the answer.
func keystone(ctx context.Context, t *testing.T, method, path, token string, body, out any) *http.Response {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(setting(t, "OS_AUTH_URL"), "/")+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, answer)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			t.Fatal(err)
		}
	}
	return resp
}

// setting is a variable of the administrator's openrc.
func setting(t *testing.T, name string) string {
	t.Helper()
	for _, kv := range cloud.Env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	t.Fatalf("openrc sets no %s", name)
	return ""
}

// passwordToken logs in.
func passwordToken(ctx context.Context, t *testing.T, user, password, project string) string {
	t.Helper()
	domain := map[string]any{"id": "default"}
	resp := keystone(ctx, t, "POST", "/auth/tokens", "", map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": user, "domain": domain, "password": password}}},
		"scope": map[string]any{"project": map[string]any{"name": project, "domain": domain}},
	}}, nil)
	return resp.Header.Get("X-Subject-Token")
}

// memberToken makes a project with one member and logs that member in.
func memberToken(t *testing.T) string {
	t.Helper()
	ctx, admin := t.Context(), cloud.Compute.Token()
	var project struct{ Project struct{ ID string } }
	keystone(ctx, t, "POST", "/projects", admin, map[string]any{"project": map[string]any{"name": "visitors", "domain_id": "default"}}, &project)
	var user struct{ User struct{ ID string } }
	keystone(ctx, t, "POST", "/users", admin, map[string]any{"user": map[string]any{"name": "visitor", "domain_id": "default", "password": "only-for-this-test"}}, &user)
	var roles struct{ Roles []struct{ ID string } }
	keystone(ctx, t, "GET", "/roles?name=member", admin, nil, &roles)
	if len(roles.Roles) != 1 {
		t.Fatalf("roles named member: %v", roles)
	}
	keystone(ctx, t, "PUT", "/projects/"+project.Project.ID+"/users/"+user.User.ID+"/roles/"+roles.Roles[0].ID, admin, nil, nil)
	t.Cleanup(func() {
		keystone(context.Background(), t, "DELETE", "/users/"+user.User.ID, admin, nil, nil)
		keystone(context.Background(), t, "DELETE", "/projects/"+project.Project.ID, admin, nil, nil)
	})
	return passwordToken(ctx, t, "visitor", "only-for-this-test", "visitors")
}

// revokedToken is a token that was good until a moment ago.
func revokedToken(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	token := passwordToken(ctx, t, setting(t, "OS_USERNAME"), setting(t, "OS_PASSWORD"), setting(t, "OS_PROJECT_NAME"))
	req, err := http.NewRequestWithContext(ctx, "DELETE", strings.TrimSuffix(setting(t, "OS_AUTH_URL"), "/")+"/auth/tokens", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("X-Subject-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("revoke: %d", resp.StatusCode)
	}
	return token
}
