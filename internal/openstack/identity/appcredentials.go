package identity

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func (s *Service) mountAppCredentials(rt *openstack.Routes) {
	const path = "/v3/users/{user}/application_credentials"
	rt.Handle("GET "+path, s.listAppCredentials)
	rt.Handle("POST "+path, s.createAppCredential)
	rt.Handle("GET "+path+"/{id}", s.showAppCredential)
	rt.Handle("DELETE "+path+"/{id}", s.deleteAppCredential)
}

type appCredView struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	Description  any             `json:"description"`
	Project      cloud.ProjectID `json:"project_id"`
	Roles        []roleView      `json:"roles"`
	Unrestricted bool            `json:"unrestricted"`
	Expires      any             `json:"expires_at"`
	System       any             `json:"system"` // always null
	Secret       string          `json:"secret,omitempty"`
	Links        links           `json:"links"`
}

func (s *Service) viewAppCredential(r *openstack.Request, c *cloud.AppCredential) appCredView {
	out := appCredView{ID: c.ID, Name: c.Name, Project: c.Project, Roles: []roleView{}, Unrestricted: c.Unrestricted,
		Links: selfLink(r, "/v3/users/"+string(c.User)+"/application_credentials/"+c.ID)}
	if c.Description != "" {
		out.Description = c.Description
	}
	if !c.Expires.IsZero() {
		out.Expires = openstack.TimeMicros(c.Expires)
	}
	for _, id := range c.Roles {
		if role, ok := store.Lookup(s.store, tables.Roles, id); ok {
			out.Roles = append(out.Roles, viewRole(r, role))
		}
	}
	return out
}

// credentialOwner returns the path's user if the caller may look at that user's credentials.
func credentialOwner(r *openstack.Request, rule string) (cloud.UserID, error) {
	user := cloud.UserID(r.PathValue("user"))
	if !selfOrAdmin(r, user) {
		return "", openstack.Forbid(rule)
	}
	return user, nil
}

func (s *Service) listAppCredentials(w http.ResponseWriter, r *openstack.Request) error {
	user, err := credentialOwner(r, "identity:list_application_credentials")
	if err != nil {
		return err
	}
	q, out := r.URL.Query(), []appCredView{}
	for _, c := range store.By(s.store, tables.AppCredentials, tables.ByUser, user) {
		if asked(q, "name", c.Name) {
			out = append(out, s.viewAppCredential(r, c))
		}
	}
	return writeList(w, r, "application_credentials", out)
}

func (s *Service) ownCredential(r *openstack.Request, rule string) (*cloud.AppCredential, error) {
	user, err := credentialOwner(r, rule)
	if err != nil {
		return nil, err
	}
	c, ok := store.Lookup(s.store, tables.AppCredentials, r.PathValue("id"))
	if !ok || c.User != user {
		return nil, notFound("application_credential", r.PathValue("id"))
	}
	return c, nil
}

func (s *Service) showAppCredential(w http.ResponseWriter, r *openstack.Request) error {
	c, err := s.ownCredential(r, "identity:get_application_credential")
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"application_credential": s.viewAppCredential(r, c)})
}

type appCredBody struct {
	Credential struct {
		Name         string  `json:"name" api:"required;len=1..255"`
		Description  *string `json:"description" api:"null;len=..255"`
		Secret       *string `json:"secret" api:"null;len=1..4096"`
		Expires      *string `json:"expires_at" api:"null"`
		Unrestricted *bool   `json:"unrestricted" api:"null"`
		Roles        []named `json:"roles" api:"null;len=..100"`
		// AccessRules are refused: a credential that ignored them would allow more than its owner meant.
		AccessRules []any `json:"access_rules" api:"null"`
	} `json:"application_credential" api:"required"`
}

func (s *Service) createAppCredential(w http.ResponseWriter, r *openstack.Request) error {
	user := cloud.UserID(r.PathValue("user"))
	if user != r.Caller.User {
		return openstack.Forbid("identity:create_application_credential")
	}
	if err := mayManageCredentials(r.Caller); err != nil {
		return err
	}
	var in appCredBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	c, err := s.newCredential(r, &in)
	if err != nil {
		return err
	}
	secret := in.Credential.Secret
	if secret == nil {
		made := newSecret()
		secret = &made
	}
	if c.SecretHash, err = s.hashes.hash(r.Context(), *secret); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return putCredential(tx, c) }); err != nil {
		return err
	}
	view := s.viewAppCredential(r, c)
	view.Secret = *secret // shown this once
	return openstack.WriteJSON(w, http.StatusCreated, map[string]any{"application_credential": view})
}

// mayManageCredentials refuses restricted credentials, which could otherwise make themselves successors.
func mayManageCredentials(c *openstack.Caller) error {
	if c.AppCredential != "" && c.Restricted {
		return cloud.Errorf(cloud.KindForbidden, "Using method 'application_credential' is not allowed for managing additional application credentials.")
	}
	return nil
}

// newCredential builds the record from the body, all but the secret.
func (s *Service) newCredential(r *openstack.Request, in *appCredBody) (*cloud.AppCredential, error) {
	if r.Caller.Project == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "Application credentials can only be made with a project-scoped token.")
	}
	if in.Credential.AccessRules != nil {
		return nil, cloud.Errorf(cloud.KindInvalid, "Access rules are not offered.")
	}
	c := &cloud.AppCredential{ID: newID(), Name: in.Credential.Name, User: r.Caller.User, Project: r.Caller.Project, Created: time.Now().UTC()}
	set(&c.Description, in.Credential.Description)
	set(&c.Unrestricted, in.Credential.Unrestricted)
	if in.Credential.Expires != nil {
		expires, err := parseExpiry(*in.Credential.Expires)
		if err != nil {
			return nil, err
		}
		if !expires.After(c.Created) {
			return nil, cloud.Errorf(cloud.KindInvalid, "The expiry %s is in the past.", *in.Credential.Expires)
		}
		c.Expires = expires
	}
	var err error
	c.Roles, err = s.credentialRoles(r.Caller, in.Credential.Roles)
	return c, err
}

// credentialRoles returns the roles asked for, each of which the caller must have; all the caller's when none are asked for.
func (s *Service) credentialRoles(caller *openstack.Caller, want []named) ([]cloud.RoleID, error) {
	v := s.store.View()
	var out []cloud.RoleID
	if len(want) == 0 {
		for _, name := range caller.Roles {
			if role, ok := store.One(v, tables.Roles, tables.ByName, name); ok {
				out = append(out, role.ID)
			}
		}
		return out, nil
	}
	for _, ref := range want {
		role, ok := store.Lookup(v, tables.Roles, ref.ID)
		if !ok && ref.ID == "" {
			role, ok = store.One(v, tables.Roles, tables.ByName, ref.Name)
		}
		if !ok || !slices.Contains(caller.Roles, role.Name) {
			return nil, cloud.Errorf(cloud.KindInvalid, "Invalid application credential: Could not find role assignment with role: %s%s.", ref.ID, ref.Name)
		}
		out = append(out, role.ID)
	}
	return out, nil
}

// parseExpiry reads the forms clients send: with and without fractions and zone; without a zone it is UTC.
func parseExpiry(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, cloud.Errorf(cloud.KindInvalid, "Invalid input for field 'expires_at': '%s' is not a 'date-time'.", clipKey(text))
}

func putCredential(tx *store.Tx, c *cloud.AppCredential) error {
	if _, err := store.Get(tx, tables.Users, c.User); err != nil {
		return missing(err, "user", string(c.User))
	}
	_, err := store.GetBy(tx, tables.AppCredentials, tables.ByUserName, string(c.User)+"/"+c.Name)
	if err == nil {
		return duplicate("application_credential", "Duplicate entry found with name "+c.Name)
	}
	if !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	return store.Put(tx, tables.AppCredentials, c.ID, *c)
}

// newSecret returns 64 random bytes in Keystone's form.
func newSecret() string {
	var b [64]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (s *Service) deleteAppCredential(w http.ResponseWriter, r *openstack.Request) error {
	c, err := s.ownCredential(r, "identity:delete_application_credential")
	if err != nil {
		return err
	}
	if err := mayManageCredentials(r.Caller); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.AppCredentials, []string{c.ID}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}
