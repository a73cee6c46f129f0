package identity

import (
	"net/http"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func (s *Service) mountProjects(rt *openstack.Routes) {
	rt.Handle("GET /v3/projects", s.listProjects)
	rt.Handle("POST /v3/projects", s.createProject)
	rt.Handle("GET /v3/projects/{id}", s.showProject)
	rt.Handle("PATCH /v3/projects/{id}", s.updateProject)
	rt.Handle("DELETE /v3/projects/{id}", s.deleteProject)
}

type projectView struct {
	ID          cloud.ProjectID `json:"id"`
	Name        string          `json:"name"`
	Domain      cloud.DomainID  `json:"domain_id"`
	Parent      cloud.DomainID  `json:"parent_id"` // projects do not nest: always the domain
	Description string          `json:"description"`
	Enabled     bool            `json:"enabled"`
	IsDomain    bool            `json:"is_domain"`
	Tags        []string        `json:"tags"`
	Options     struct{}        `json:"options"`
	Links       links           `json:"links"`
	extra       map[string]string
}

// AppendJSON implements openstack.Appender: extra properties stand beside the known ones.
func (v projectView) AppendJSON(b []byte) []byte { return appendWithExtra(b, v, v.extra) }

// MarshalJSON lets lists of views encode each by AppendJSON.
func (v projectView) MarshalJSON() ([]byte, error) { return v.AppendJSON(nil), nil }

func viewProject(r *openstack.Request, p *cloud.Project) projectView {
	tags := p.Tags
	if tags == nil {
		tags = []string{}
	}
	return projectView{ID: p.ID, Name: p.Name, Domain: p.Domain, Parent: p.Domain, Description: p.Description, Enabled: p.Enabled, Tags: tags,
		Links: selfLink(r, "/v3/projects/"+string(p.ID)), extra: p.Extra}
}

func (s *Service) listProjects(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_projects"); err != nil {
		return err
	}
	q, out := r.URL.Query(), []projectView{}
	for _, p := range store.All(s.store, tables.Projects) {
		if asked(q, "name", p.Name) && asked(q, "domain_id", string(p.Domain)) && asked(q, "parent_id", string(p.Domain)) &&
			askedBool(q, "enabled", p.Enabled) && askedBool(q, "is_domain", false) {
			out = append(out, viewProject(r, p))
		}
	}
	return writeList(w, r, "projects", out)
}

func (s *Service) showProject(w http.ResponseWriter, r *openstack.Request) error {
	id := cloud.ProjectID(r.PathValue("id"))
	member := len(assigned(s.store, cloud.Assignment{User: r.Caller.User, Project: id})) > 0
	if !r.Caller.IsAdmin() && !r.Caller.Owns(id) && !member {
		return openstack.Forbid("identity:get_project")
	}
	p, ok := store.Lookup(s.store, tables.Projects, id)
	if !ok {
		return notFound("project", string(id))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"project": viewProject(r, p)})
}

// projectBody is the body of create and update; nil means not given.
type projectBody struct {
	Project struct {
		Name        *string           `json:"name" api:"len=1..64"`
		Domain      *string           `json:"domain_id" api:"null"`
		Parent      *string           `json:"parent_id" api:"null"`
		Description *string           `json:"description" api:"null"`
		Enabled     *bool             `json:"enabled"`
		IsDomain    bool              `json:"is_domain"`
		Tags        *[]string         `json:"tags" api:"len=..80;unique"`
		Options     map[string]any    `json:"options"`
		Extra       map[string]string `api:"extra"`
	} `json:"project" api:"required"`
}

// apply copies what was given into p.
func (b *projectBody) apply(p *cloud.Project) error {
	in := &b.Project
	if in.IsDomain {
		return cloud.Errorf(cloud.KindInvalid, "Projects that act as domains are made with the domains API.")
	}
	if in.Parent != nil && *in.Parent != string(p.Domain) {
		return cloud.Errorf(cloud.KindInvalid, "Projects do not nest: parent_id can only be the domain, %s.", p.Domain)
	}
	if len(in.Options) > 0 {
		return cloud.Errorf(cloud.KindInvalid, "Projects have no options.")
	}
	set(&p.Name, in.Name)
	set(&p.Description, in.Description)
	set(&p.Enabled, in.Enabled)
	set(&p.Tags, in.Tags)
	for k, v := range in.Extra {
		if p.Extra == nil {
			p.Extra = map[string]string{}
		}
		p.Extra[k] = v
	}
	return nil
}

// set stores *from in *to unless from is nil.
func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *Service) createProject(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:create_project"); err != nil {
		return err
	}
	var in projectBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	if in.Project.Name == nil {
		return nameless("project")
	}
	domain, err := s.domainFor(r, in.Project.Domain)
	if err != nil {
		return err
	}
	p := cloud.Project{ID: cloud.ProjectID(newID()), Domain: domain, Enabled: true, Created: time.Now().UTC()}
	if err := in.apply(&p); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return putProject(tx, &p) }); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusCreated, map[string]any{"project": viewProject(r, &p)})
}

// domainFor returns the domain a new user or project goes to: the one asked for, else the caller's.
func (s *Service) domainFor(r *openstack.Request, asked *string) (cloud.DomainID, error) {
	id := r.Caller.ProjectDomain
	switch {
	case asked != nil && *asked != "":
		id = cloud.DomainID(*asked)
	case r.Caller.Domain != "":
		id = r.Caller.Domain
	case id == "":
		id = DomainDefault
	}
	if _, ok := store.Lookup(s.store, tables.Domains, id); !ok {
		return "", notFound("domain", string(id))
	}
	return id, nil
}

// nameless refuses an object that is created without a name.
func nameless(object string) error {
	return &openstack.InputError{Path: []string{object}, Reason: "'name' is a required property"}
}

// putProject writes the project unless another of its name is in its domain.
func putProject(tx *store.Tx, p *cloud.Project) error {
	other, err := store.GetBy(tx, tables.Projects, tables.ByDomainName, tables.DomainName(p.Domain, p.Name))
	if err == nil && other.ID != p.ID {
		return duplicate("project", "it is not permitted to have two projects with the same name in the same domain : "+p.Name)
	}
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	if _, err := store.Get(tx, tables.Domains, p.Domain); err != nil {
		return notFound("domain", string(p.Domain))
	}
	return store.Put(tx, tables.Projects, p.ID, *p)
}

// duplicate is Keystone's answer to a name that is taken.
func duplicate(what, details string) error {
	return cloud.Errorf(cloud.KindConflict, "Conflict occurred attempting to store %s - %s.", what, details)
}

func (s *Service) updateProject(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:update_project"); err != nil {
		return err
	}
	var in projectBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	var p cloud.Project
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) (err error) {
		if p, err = store.Get(tx, tables.Projects, r.PathValue("id")); err != nil {
			return missing(err, "project", r.PathValue("id"))
		}
		if d := in.Project.Domain; d != nil && *d != string(p.Domain) {
			return cloud.Errorf(cloud.KindInvalid, "Cannot change domain ID")
		}
		if err := in.apply(&p); err != nil {
			return err
		}
		return putProject(tx, &p)
	}); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"project": viewProject(r, &p)})
}

// missing words the store's not-found as Keystone does and passes all else on.
func missing(err error, what, id string) error {
	if cloud.Is(err, cloud.KindNotFound) {
		return notFound(what, id)
	}
	return err
}

func (s *Service) deleteProject(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:delete_project"); err != nil {
		return err
	}
	id := cloud.ProjectID(r.PathValue("id"))
	// Disabled first: from here on nobody gets in, whatever happens to this request.
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error {
		p, err := store.Get(tx, tables.Projects, id)
		if err != nil {
			return missing(err, "project", string(id))
		}
		p.Enabled = false
		return store.Put(tx, tables.Projects, id, p)
	}); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.Assignments, assignmentKeys(store.By(s.store, tables.Assignments, tables.ByProject, id))); err != nil {
		return err
	}
	credentials := slices.DeleteFunc(store.All(s.store, tables.AppCredentials), func(c *cloud.AppCredential) bool { return c.Project != id })
	if err := deleteAll(r.Context(), s.store, tables.AppCredentials, credentialIDs(credentials)); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.Projects, []string{string(id)}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

func assignmentKeys(list []*cloud.Assignment) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = tables.AssignmentKey(*a)
	}
	return out
}

func credentialIDs(list []*cloud.AppCredential) []string {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = c.ID
	}
	return out
}
