package identity

import (
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// scopePaths are the three places a role is granted on, with the assignment a request's path means.
var scopePaths = []struct {
	path  string
	scope func(r *openstack.Request) cloud.Assignment
}{
	{"/v3/projects/{target}/users/{user}/roles", func(r *openstack.Request) cloud.Assignment {
		return cloud.Assignment{User: cloud.UserID(r.PathValue("user")), Project: cloud.ProjectID(r.PathValue("target"))}
	}},
	{"/v3/domains/{target}/users/{user}/roles", func(r *openstack.Request) cloud.Assignment {
		return cloud.Assignment{User: cloud.UserID(r.PathValue("user")), Domain: cloud.DomainID(r.PathValue("target"))}
	}},
	{"/v3/system/users/{user}/roles", func(r *openstack.Request) cloud.Assignment {
		return cloud.Assignment{User: cloud.UserID(r.PathValue("user")), System: true}
	}},
}

func (s *Service) mountAssignments(rt *openstack.Routes) {
	for _, p := range scopePaths {
		with := func(h func(http.ResponseWriter, *openstack.Request, cloud.Assignment) error) openstack.Handler {
			return func(w http.ResponseWriter, r *openstack.Request) error {
				a := p.scope(r)
				a.Role = cloud.RoleID(r.PathValue("role"))
				return h(w, r, a)
			}
		}
		rt.Handle("GET "+p.path, with(s.listGranted))
		rt.Handle("PUT "+p.path+"/{role}", with(s.grant))
		rt.Handle("GET "+p.path+"/{role}", with(s.checkGrant)) // HEAD is what clients send
		rt.Handle("DELETE "+p.path+"/{role}", with(s.revokeGrant))
	}
	rt.Handle("GET /v3/role_assignments", s.listAssignments)
}

// exists reports the first thing the assignment names that there is not.
func (s *Service) exists(a cloud.Assignment) error {
	v := s.store.View()
	if _, ok := store.Lookup(v, tables.Users, a.User); !ok {
		return notFound("user", string(a.User))
	}
	if a.Project != "" {
		if _, ok := store.Lookup(v, tables.Projects, a.Project); !ok {
			return notFound("project", string(a.Project))
		}
	}
	if a.Domain != "" {
		if _, ok := store.Lookup(v, tables.Domains, a.Domain); !ok {
			return notFound("domain", string(a.Domain))
		}
	}
	if a.Role != "" {
		if _, ok := store.Lookup(v, tables.Roles, a.Role); !ok {
			return notFound("role", string(a.Role))
		}
	}
	return nil
}

func (s *Service) listGranted(w http.ResponseWriter, r *openstack.Request, a cloud.Assignment) error {
	if err := r.Caller.RequireAdmin("identity:list_grants"); err != nil {
		return err
	}
	if err := s.exists(a); err != nil {
		return err
	}
	out := []roleView{}
	for _, role := range assigned(s.store, a) {
		out = append(out, viewRole(r, role))
	}
	return writeList(w, r, "roles", out)
}

func (s *Service) grant(w http.ResponseWriter, r *openstack.Request, a cloud.Assignment) error {
	if err := r.Caller.RequireAdmin("identity:create_grant"); err != nil {
		return err
	}
	if err := s.exists(a); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error {
		// Read, so that a user or role deleted at this moment makes one of the two transactions run again.
		if _, err := store.Get(tx, tables.Users, a.User); err != nil {
			return missing(err, "user", string(a.User))
		}
		if _, err := store.Get(tx, tables.Roles, a.Role); err != nil {
			return missing(err, "role", string(a.Role))
		}
		return store.Put(tx, tables.Assignments, tables.AssignmentKey(a), a)
	}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

func (s *Service) checkGrant(w http.ResponseWriter, r *openstack.Request, a cloud.Assignment) error {
	if err := r.Caller.RequireAdmin("identity:check_grant"); err != nil {
		return err
	}
	if _, ok := store.Lookup(s.store, tables.Assignments, tables.AssignmentKey(a)); !ok {
		return notFound("role assignment with role", string(a.Role))
	}
	return openstack.NoContent(w)
}

func (s *Service) revokeGrant(w http.ResponseWriter, r *openstack.Request, a cloud.Assignment) error {
	if err := r.Caller.RequireAdmin("identity:revoke_grant"); err != nil {
		return err
	}
	key := tables.AssignmentKey(a)
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error {
		if _, err := store.Get(tx, tables.Assignments, key); err != nil {
			return missing(err, "role assignment with role", string(a.Role))
		}
		return store.Delete(tx, tables.Assignments, key)
	}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

type assignmentView struct {
	Role  any            `json:"role"`
	User  any            `json:"user"`
	Scope map[string]any `json:"scope"`
	Links map[string]any `json:"links"`
}

// listAssignments lists grants, with ?effective the implied ones too, and with ?include_names names beside the ids.
func (s *Service) listAssignments(w http.ResponseWriter, r *openstack.Request) error {
	q := r.URL.Query()
	if !r.Caller.IsAdmin() && q.Get("user.id") != string(r.Caller.User) {
		return openstack.Forbid("identity:list_role_assignments")
	}
	v, out := s.store.View(), []assignmentView{}
	names := q.Has("include_names") && askedBool(q, "include_names", true)
	for _, a := range s.effective(v, q.Has("effective") && askedBool(q, "effective", true)) {
		if asked(q, "user.id", string(a.User)) && asked(q, "role.id", string(a.Role)) && asked(q, "scope.project.id", string(a.Project)) &&
			asked(q, "scope.domain.id", string(a.Domain)) && (!q.Has("scope.system") || a.System) && !q.Has("group.id") {
			out = append(out, viewAssignment(r, v, a, names))
		}
	}
	return writeList(w, r, "role_assignments", out)
}

// effective returns all assignments; with implied set, those each implies as well, each once.
func (s *Service) effective(v store.View, implied bool) []cloud.Assignment {
	var out []cloud.Assignment
	seen := map[string]bool{}
	for _, a := range store.All(v, tables.Assignments) {
		role, ok := store.Lookup(v, tables.Roles, a.Role)
		if !ok {
			continue
		}
		roles := []*cloud.Role{role}
		if implied {
			roles = withImplied(v, roles)
		}
		for _, role := range roles {
			one := *a
			one.Role = role.ID
			if key := tables.AssignmentKey(one); !seen[key] {
				seen[key] = true
				out = append(out, one)
			}
		}
	}
	slices.SortFunc(out, func(a, b cloud.Assignment) int { return compareText(tables.AssignmentKey(a), tables.AssignmentKey(b)) })
	return out
}

func viewAssignment(r *openstack.Request, v store.View, a cloud.Assignment, names bool) assignmentView {
	type id struct {
		ID string `json:"id"`
	}
	var path string
	out := assignmentView{Role: id{string(a.Role)}, User: id{string(a.User)}}
	switch {
	case a.Project != "":
		out.Scope = map[string]any{"project": id{string(a.Project)}}
		path = "/v3/projects/" + string(a.Project)
	case a.Domain != "":
		out.Scope = map[string]any{"domain": id{string(a.Domain)}}
		path = "/v3/domains/" + string(a.Domain)
	default:
		out.Scope = map[string]any{"system": map[string]bool{"all": true}}
		path = "/v3/system"
	}
	out.Links = map[string]any{"assignment": r.PublicURL("/identity", path, "/users/", string(a.User), "/roles/", string(a.Role))}
	if names {
		out.addNames(v, a)
	}
	return out
}

func (out *assignmentView) addNames(v store.View, a cloud.Assignment) {
	if role, ok := store.Lookup(v, tables.Roles, a.Role); ok {
		out.Role = roleRef{role.ID, role.Name}
	}
	if u, ok := store.Lookup(v, tables.Users, a.User); ok {
		out.User = struct {
			ID     cloud.UserID `json:"id"`
			Name   string       `json:"name"`
			Domain domainRef    `json:"domain"`
		}{u.ID, u.Name, domainRefOf(v, u.Domain)}
	}
	if p, ok := store.Lookup(v, tables.Projects, a.Project); ok {
		out.Scope = map[string]any{"project": projectRef{p.ID, p.Name, domainRefOf(v, p.Domain)}}
	}
	if d, ok := store.Lookup(v, tables.Domains, a.Domain); ok {
		out.Scope = map[string]any{"domain": domainRef{d.ID, d.Name}}
	}
}
