package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"
)

const (
	// expiryLife is how long the credential lives: long enough to log in with it on a busy machine, short enough to wait for.
	expiryLife = 4 * time.Second
	// expiryAskEvery paces the wait, expirySlack bounds it beyond the credential's life.
	expiryAskEvery = 200 * time.Millisecond
	expirySlack    = 10 * time.Second
)

// TestATokenThatRanOutIsRefused: a token of a credential that expires is good until then and 401 from then on, at the compute API as at the
// identity API that made it.
func TestATokenThatRanOutIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), expiryLife+expirySlack)
	defer cancel()
	token, expires := expiringToken(ctx, t)
	list := call{method: "GET", path: "servers", version: "2.30", token: token}
	ask := time.NewTicker(expiryAskEvery)
	defer ask.Stop()
	good := 0
	for {
		asked := time.Now()
		a := do(ctx, t, list)
		switch {
		case a.code == http.StatusOK && asked.Before(expires):
			good++
		case a.code == http.StatusUnauthorized && !time.Now().Before(expires):
			if good == 0 {
				t.Fatal("the token was never good, so it shows nothing about running out")
			}
			if name, message := a.fault(); message == "" || a.header.Get("X-Openstack-Request-Id") == "" {
				t.Errorf("fault %q without a message, or no request id: %s", name, a.body)
			}
			if again := do(ctx, t, call{method: "GET", path: "servers/detail", token: token}); again.code != http.StatusUnauthorized {
				t.Errorf("after it ran out it is good for another request: %d %s", again.code, again.body)
			}
			return
		default:
			t.Fatalf("%v before its end: %d %s", time.Until(expires), a.code, a.body)
		}
		select {
		case <-ask.C:
		case <-ctx.Done():
			t.Fatal("the token is good for ever")
		}
	}
}

// expiringToken makes an application credential that expires soon and logs in with it.
func expiringToken(ctx context.Context, t *testing.T) (token string, expires time.Time) {
	t.Helper()
	admin := cloud.Compute.Token()
	var me struct{ Users []struct{ ID string } }
	keystone(ctx, t, "GET", "/users?name="+setting(t, "OS_USERNAME"), admin, nil, &me)
	if len(me.Users) != 1 {
		t.Fatalf("users named %s: %v", setting(t, "OS_USERNAME"), me.Users)
	}
	credentials := "/users/" + me.Users[0].ID + "/application_credentials"
	expires = time.Now().Add(expiryLife).UTC()
	var made struct {
		Credential struct{ ID, Secret string } `json:"application_credential"`
	}
	keystone(ctx, t, "POST", credentials, admin, map[string]any{"application_credential": map[string]any{
		"name": "short-lived", "expires_at": expires.Format("2006-01-02T15:04:05.000000"),
	}}, &made)
	t.Cleanup(func() {
		keystone(context.Background(), t, "DELETE", credentials+"/"+made.Credential.ID, admin, nil, nil)
	})
	resp := keystone(ctx, t, "POST", "/auth/tokens", "", map[string]any{"auth": map[string]any{"identity": map[string]any{
		"methods":                []string{"application_credential"},
		"application_credential": map[string]any{"id": made.Credential.ID, "secret": made.Credential.Secret},
	}}}, nil)
	return resp.Header.Get("X-Subject-Token"), expires
}
