package identity

import (
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const subjectHeader = "X-Subject-Token"

func (s *Service) mountAuth(rt *openstack.Routes) {
	rt.HandlePublic("POST /v3/auth/tokens", s.issueToken)
	rt.Handle("GET /v3/auth/tokens", s.showToken) // HEAD too
	rt.Handle("DELETE /v3/auth/tokens", s.revokeToken)
	rt.Handle("GET /v3/auth/catalog", s.showCatalog)
	rt.Handle("GET /v3/auth/projects", s.listOwnProjects)
	rt.Handle("GET /v3/auth/domains", s.listOwnDomains)
	rt.Handle("GET /v3/auth/system", s.listOwnSystem)
}

func (s *Service) issueToken(w http.ResponseWriter, r *openstack.Request) error {
	in, err := decodeAuth(w, r)
	if err != nil {
		return err
	}
	p, err := s.prove(r, &in)
	if err != nil {
		return err
	}
	v, now := s.store.View(), time.Now()
	c, err := s.scoped(v, p, in.Auth.Scope, now)
	if err != nil {
		return err
	}
	session, err := openSession(v, c, now)
	if err != nil {
		return err
	}
	token, err := s.sign(r.Context(), c)
	if err != nil {
		return err
	}
	w.Header().Set(subjectHeader, token)
	w.Header().Add("Vary", "X-Auth-Token")
	return openstack.WriteJSON(w, http.StatusCreated, map[string]any{"token": s.tokenView(r, v, session)})
}

// subject returns the session of the token in X-Subject-Token, which is the caller's own or any if the caller is an administrator.
func (s *Service) subject(r *openstack.Request, rule string) (*session, error) {
	token := r.Header.Get(subjectHeader)
	if token == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "Expecting to find X-Subject-Token in headers.")
	}
	notFound := cloud.Errorf(cloud.KindNotFound, "Failed to validate token")
	c, err := s.verify(token)
	if err != nil {
		return nil, notFound
	}
	if c.User != r.Caller.User && !r.Caller.IsAdmin() {
		return nil, openstack.Forbid(rule)
	}
	in, err := openSession(s.store.View(), c, time.Now())
	if err != nil {
		return nil, notFound
	}
	return in, nil
}

func (s *Service) showToken(w http.ResponseWriter, r *openstack.Request) error {
	in, err := s.subject(r, "identity:validate_token")
	if err != nil {
		return err
	}
	w.Header().Set(subjectHeader, r.Header.Get(subjectHeader))
	w.Header().Add("Vary", "X-Auth-Token")
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"token": s.tokenView(r, s.store.View(), in)})
}

func (s *Service) revokeToken(w http.ResponseWriter, r *openstack.Request) error {
	in, err := s.subject(r, "identity:revoke_token")
	if err != nil {
		return err
	}
	revocation := cloud.Revocation{AuditID: in.claims.auditID(), Expires: in.claims.expires()}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error {
		return store.Put(tx, tables.Revocations, revocation.AuditID, revocation)
	}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

type domainRef struct {
	ID   cloud.DomainID `json:"id"`
	Name string         `json:"name"`
}

type roleRef struct {
	ID   cloud.RoleID `json:"id"`
	Name string       `json:"name"`
}

type projectRef struct {
	ID     cloud.ProjectID `json:"id"`
	Name   string          `json:"name"`
	Domain domainRef       `json:"domain"`
}

type userRef struct {
	ID              cloud.UserID `json:"id"`
	Name            string       `json:"name"`
	Domain          domainRef    `json:"domain"`
	PasswordExpires any          `json:"password_expires_at"` // never: always null
}

type tokenView struct {
	Methods  []string        `json:"methods"`
	User     userRef         `json:"user"`
	AuditIDs []string        `json:"audit_ids"`
	Issued   string          `json:"issued_at"`
	Expires  string          `json:"expires_at"`
	Project  *projectRef     `json:"project,omitempty"`
	IsDomain *bool           `json:"is_domain,omitempty"` // with a project: whether it is a domain in disguise; never
	Domain   *domainRef      `json:"domain,omitempty"`
	System   map[string]bool `json:"system,omitempty"`
	Roles    []roleRef       `json:"roles,omitempty"`
	Catalog  any             `json:"catalog,omitempty"`
	AppCred  *appCredRef     `json:"application_credential,omitempty"`
}

type appCredRef struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Restricted bool   `json:"restricted"`
}

// tokenView is the session as Keystone shows it: with the catalog unless it is unscoped or the client asks for none.
func (s *Service) tokenView(r *openstack.Request, v store.View, in *session) tokenView {
	c := in.claims
	out := tokenView{
		Methods: c.Methods, AuditIDs: c.AuditIDs, Issued: openstack.TimeMicrosZ(c.issued()), Expires: openstack.TimeMicrosZ(c.expires()),
		User: userRef{ID: in.user.ID, Name: in.user.Name, Domain: domainRefOf(v, in.user.Domain)},
	}
	if in.project != nil {
		out.Project = &projectRef{ID: in.project.ID, Name: in.project.Name, Domain: domainRefOf(v, in.project.Domain)}
		out.IsDomain = new(bool)
	}
	if in.domain != nil {
		out.Domain = &domainRef{in.domain.ID, in.domain.Name}
	}
	if c.System != "" {
		out.System = map[string]bool{"all": true}
	}
	for _, role := range in.roles {
		out.Roles = append(out.Roles, roleRef{role.ID, role.Name})
	}
	if in.appCred != nil {
		out.AppCred = &appCredRef{in.appCred.ID, in.appCred.Name, !in.appCred.Unrestricted}
	}
	if !r.URL.Query().Has("nocatalog") && len(in.roles) > 0 {
		var project cloud.ProjectID
		if in.project != nil {
			project = in.project.ID
		}
		out.Catalog = s.catalogView(r, project)
	}
	return out
}

func domainRefOf(v store.View, id cloud.DomainID) domainRef {
	d, ok := store.Lookup(v, tables.Domains, id)
	if !ok {
		return domainRef{ID: id}
	}
	return domainRef{d.ID, d.Name}
}

func (s *Service) showCatalog(w http.ResponseWriter, r *openstack.Request) error {
	if len(r.Caller.Roles) == 0 {
		return openstack.Forbid("identity:get_auth_catalog")
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"catalog": s.catalogView(r, r.Caller.Project), "links": selfLink(r, "/v3/auth/catalog")})
}

func (s *Service) listOwnProjects(w http.ResponseWriter, r *openstack.Request) error {
	return writeList(w, r, "projects", s.projectsOf(r, r.Caller.User))
}

// projectsOf returns the enabled projects a user has a role on.
func (s *Service) projectsOf(r *openstack.Request, user cloud.UserID) []projectView {
	v, out := s.store.View(), []projectView{}
	seen := map[cloud.ProjectID]bool{}
	for _, a := range store.By(v, tables.Assignments, tables.ByUser, user) {
		if p, ok := liveProject(v, a.Project); ok && !seen[p.ID] {
			seen[p.ID] = true
			out = append(out, viewProject(r, p))
		}
	}
	return out
}

func (s *Service) listOwnDomains(w http.ResponseWriter, r *openstack.Request) error {
	v, out := s.store.View(), []domainView{}
	seen := map[cloud.DomainID]bool{}
	for _, a := range store.By(v, tables.Assignments, tables.ByUser, r.Caller.User) {
		if d, ok := liveDomain(v, a.Domain); ok && !seen[d.ID] {
			seen[d.ID] = true
			out = append(out, viewDomain(r, d))
		}
	}
	return writeList(w, r, "domains", out)
}

func (s *Service) listOwnSystem(w http.ResponseWriter, r *openstack.Request) error {
	out := []map[string]bool{}
	if len(assigned(s.store, cloud.Assignment{User: r.Caller.User, System: true})) > 0 {
		out = append(out, map[string]bool{"all": true})
	}
	return writeList(w, r, "system", out)
}
