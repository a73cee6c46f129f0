package identity

import (
	"context"
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func (s *Service) mountUsers(rt *openstack.Routes) {
	rt.Handle("GET /v3/users", s.listUsers)
	rt.Handle("POST /v3/users", s.createUser)
	rt.Handle("GET /v3/users/{id}", s.showUser)
	rt.Handle("PATCH /v3/users/{id}", s.updateUser)
	rt.Handle("DELETE /v3/users/{id}", s.deleteUser)
	rt.Handle("POST /v3/users/{id}/password", s.changePassword)
	rt.Handle("GET /v3/users/{id}/projects", s.listUserProjects)
	rt.Handle("GET /v3/users/{id}/groups", s.listUserGroups)
}

type userView struct {
	ID              cloud.UserID    `json:"id"`
	Name            string          `json:"name"`
	Domain          cloud.DomainID  `json:"domain_id"`
	Email           string          `json:"email,omitempty"`
	Description     string          `json:"description,omitempty"`
	DefaultProject  cloud.ProjectID `json:"default_project_id,omitempty"`
	Enabled         bool            `json:"enabled"`
	PasswordExpires any             `json:"password_expires_at"` // never: always null
	Options         struct{}        `json:"options"`
	Links           links           `json:"links"`
}

func viewUser(r *openstack.Request, u *cloud.User) userView {
	return userView{ID: u.ID, Name: u.Name, Domain: u.Domain, Email: u.Email, Description: u.Description, DefaultProject: u.DefaultProject,
		Enabled: u.Enabled, Links: selfLink(r, "/v3/users/"+string(u.ID))}
}

func (s *Service) listUsers(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_users"); err != nil {
		return err
	}
	q, out := r.URL.Query(), []userView{}
	for _, u := range store.All(s.store, tables.Users) {
		if asked(q, "name", u.Name) && asked(q, "domain_id", string(u.Domain)) && askedBool(q, "enabled", u.Enabled) {
			out = append(out, viewUser(r, u))
		}
	}
	return writeList(w, r, "users", out)
}

func (s *Service) showUser(w http.ResponseWriter, r *openstack.Request) error {
	id := cloud.UserID(r.PathValue("id"))
	if !selfOrAdmin(r, id) {
		return openstack.Forbid("identity:get_user")
	}
	u, ok := store.Lookup(s.store, tables.Users, id)
	if !ok {
		return notFound("user", string(id))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"user": viewUser(r, u)})
}

func selfOrAdmin(r *openstack.Request, id cloud.UserID) bool {
	return r.Caller.IsAdmin() || r.Caller.User == id
}

// userBody is the body of create and update; nil means not given. Properties we have no place for are refused rather than lost.
type userBody struct {
	User struct {
		Name           *string        `json:"name" api:"len=1..255"`
		Domain         *string        `json:"domain_id" api:"null"`
		Password       *string        `json:"password" api:"null;len=1..4096"`
		Email          *string        `json:"email" api:"null;len=..255"`
		Description    *string        `json:"description" api:"null;len=..1024"`
		Enabled        *bool          `json:"enabled"`
		DefaultProject *string        `json:"default_project_id" api:"null"`
		Options        map[string]any `json:"options"`
	} `json:"user" api:"required"`
}

func (b *userBody) apply(u *cloud.User) error {
	in := &b.User
	if len(in.Options) > 0 {
		return cloud.Errorf(cloud.KindInvalid, "Users have no options.")
	}
	set(&u.Name, in.Name)
	set(&u.Email, in.Email)
	set(&u.Description, in.Description)
	set(&u.Enabled, in.Enabled)
	if in.DefaultProject != nil {
		u.DefaultProject = cloud.ProjectID(*in.DefaultProject)
	}
	return nil
}

func (s *Service) createUser(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:create_user"); err != nil {
		return err
	}
	var in userBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	if in.User.Name == nil {
		return nameless("user")
	}
	domain, err := s.domainFor(r, in.User.Domain)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	u := cloud.User{ID: cloud.UserID(newID()), Domain: domain, Enabled: true, Created: now}
	if err := in.apply(&u); err != nil {
		return err
	}
	if u.PasswordHash, err = s.newHash(r.Context(), in.User.Password); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return putUser(tx, &u) }); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusCreated, map[string]any{"user": viewUser(r, &u)})
}

// newHash hashes a given password; a user without one cannot log in with any.
func (s *Service) newHash(ctx context.Context, password *string) (string, error) {
	if password == nil {
		return "", nil
	}
	return s.hashes.hash(ctx, *password)
}

func putUser(tx *store.Tx, u *cloud.User) error {
	other, err := store.GetBy(tx, tables.Users, tables.ByDomainName, tables.DomainName(u.Domain, u.Name))
	if err == nil && other.ID != u.ID {
		return duplicate("user", "Duplicate entry found with name "+u.Name+" at domain ID "+string(u.Domain))
	}
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	if _, err := store.Get(tx, tables.Domains, u.Domain); err != nil {
		return notFound("domain", string(u.Domain))
	}
	return store.Put(tx, tables.Users, u.ID, *u)
}

func (s *Service) updateUser(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:update_user"); err != nil {
		return err
	}
	var in userBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	hash, err := s.newHash(r.Context(), in.User.Password)
	if err != nil {
		return err
	}
	u, err := s.changeUser(r, func(u *cloud.User) error {
		if d := in.User.Domain; d != nil && *d != string(u.Domain) {
			return cloud.Errorf(cloud.KindInvalid, "Cannot change domain ID")
		}
		was := u.Enabled
		if err := in.apply(u); err != nil {
			return err
		}
		if hash != "" {
			u.PasswordHash = hash
		}
		if hash != "" || was && !u.Enabled {
			u.TokensAfter = time.Now().UTC()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"user": viewUser(r, u)})
}

// changeUser applies change to the user of the path and returns it as written.
func (s *Service) changeUser(r *openstack.Request, change func(*cloud.User) error) (*cloud.User, error) {
	id := r.PathValue("id")
	var u cloud.User
	_, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) (err error) {
		if u, err = store.Get(tx, tables.Users, id); err != nil {
			return missing(err, "user", id)
		}
		if err := change(&u); err != nil {
			return err
		}
		return putUser(tx, &u)
	})
	return &u, err
}

// changePassword lets a user replace its own password; every token it has ends.
func (s *Service) changePassword(w http.ResponseWriter, r *openstack.Request) error {
	var in struct {
		User struct {
			Original string `json:"original_password" api:"required;len=..4096"`
			Password string `json:"password" api:"required;len=1..4096"`
		} `json:"user" api:"required"`
	}
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	id := cloud.UserID(r.PathValue("id"))
	if id != r.Caller.User {
		return openstack.Forbid("identity:change_password")
	}
	u, ok := store.Lookup(s.store, tables.Users, id)
	if !ok {
		return notFound("user", string(id))
	}
	if err := s.check(r, "user/"+string(id), in.User.Original, u.PasswordHash); err != nil {
		return err
	}
	hash, err := s.hashes.hash(r.Context(), in.User.Password)
	if err != nil {
		return err
	}
	if _, err := s.changeUser(r, func(now *cloud.User) error {
		if now.PasswordHash != u.PasswordHash {
			return cloud.Errorf(cloud.KindConflict, "The password was changed by somebody else meanwhile.")
		}
		now.PasswordHash, now.TokensAfter = hash, time.Now().UTC()
		return nil
	}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

func (s *Service) deleteUser(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:delete_user"); err != nil {
		return err
	}
	id := cloud.UserID(r.PathValue("id"))
	if _, err := s.changeUser(r, func(u *cloud.User) error {
		u.Enabled, u.TokensAfter = false, time.Now().UTC()
		return nil
	}); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.Assignments, assignmentKeys(store.By(s.store, tables.Assignments, tables.ByUser, id))); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.AppCredentials, credentialIDs(store.By(s.store, tables.AppCredentials, tables.ByUser, id))); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.Users, []string{string(id)}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

func (s *Service) listUserProjects(w http.ResponseWriter, r *openstack.Request) error {
	id := cloud.UserID(r.PathValue("id"))
	if !selfOrAdmin(r, id) {
		return openstack.Forbid("identity:list_user_projects")
	}
	return writeList(w, r, "projects", s.projectsOf(r, id))
}

func (s *Service) listUserGroups(w http.ResponseWriter, r *openstack.Request) error {
	if !selfOrAdmin(r, cloud.UserID(r.PathValue("id"))) {
		return openstack.Forbid("identity:list_groups_for_user")
	}
	return writeList(w, r, "groups", []struct{}{})
}
