package identity

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func (s *Service) mountRoles(rt *openstack.Routes) {
	rt.Handle("GET /v3/roles", s.listRoles)
	rt.Handle("POST /v3/roles", s.createRole)
	rt.Handle("GET /v3/roles/{id}", s.showRole)
	rt.Handle("PATCH /v3/roles/{id}", s.updateRole)
	rt.Handle("DELETE /v3/roles/{id}", s.deleteRole)
	rt.Handle("GET /v3/roles/{id}/implies", s.showImplied)
	rt.Handle("GET /v3/role_inferences", s.listInferences)
}

type roleView struct {
	ID          cloud.RoleID `json:"id"`
	Name        string       `json:"name"`
	Domain      any          `json:"domain_id"` // roles are global: always null
	Description string       `json:"description"`
	Options     struct{}     `json:"options"`
	Links       links        `json:"links"`
}

func viewRole(r *openstack.Request, role *cloud.Role) roleView {
	return roleView{ID: role.ID, Name: role.Name, Description: role.Description, Links: selfLink(r, "/v3/roles/"+string(role.ID))}
}

func (s *Service) listRoles(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_roles"); err != nil {
		return err
	}
	q, out := r.URL.Query(), []roleView{}
	for _, role := range store.All(s.store, tables.Roles) {
		// Roles have no domain, so a filter for one passes none.
		if asked(q, "name", role.Name) && asked(q, "domain_id", "") {
			out = append(out, viewRole(r, role))
		}
	}
	return writeList(w, r, "roles", out)
}

func (s *Service) showRole(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:get_role"); err != nil {
		return err
	}
	role, ok := store.Lookup(s.store, tables.Roles, r.PathValue("id"))
	if !ok {
		return notFound("role", r.PathValue("id"))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"role": viewRole(r, role)})
}

type roleBody struct {
	Role struct {
		Name        *string        `json:"name" api:"len=1..255"`
		Description *string        `json:"description" api:"null;len=..255"`
		Domain      *string        `json:"domain_id" api:"null"`
		Options     map[string]any `json:"options"`
	} `json:"role" api:"required"`
}

func (b *roleBody) apply(role *cloud.Role) error {
	if b.Role.Domain != nil || len(b.Role.Options) > 0 {
		return cloud.Errorf(cloud.KindInvalid, "Roles of a domain and role options are not offered.")
	}
	set(&role.Name, b.Role.Name)
	set(&role.Description, b.Role.Description)
	return nil
}

func (s *Service) createRole(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:create_role"); err != nil {
		return err
	}
	var in roleBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	if in.Role.Name == nil {
		return nameless("role")
	}
	role := cloud.Role{ID: cloud.RoleID(newID())}
	if err := in.apply(&role); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return putRole(tx, &role) }); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusCreated, map[string]any{"role": viewRole(r, &role)})
}

func putRole(tx *store.Tx, role *cloud.Role) error {
	other, err := store.GetBy(tx, tables.Roles, tables.ByName, role.Name)
	if err == nil && other.ID != role.ID {
		return duplicate("role", "Duplicate entry found with name "+role.Name)
	}
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	return store.Put(tx, tables.Roles, role.ID, *role)
}

// builtIn reports whether the policies name the role: it keeps its name and stays.
func builtIn(name string) bool {
	return name == openstack.RoleAdmin || name == openstack.RoleMember || name == openstack.RoleReader
}

func (s *Service) updateRole(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:update_role"); err != nil {
		return err
	}
	var in roleBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	var role cloud.Role
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) (err error) {
		if role, err = store.Get(tx, tables.Roles, r.PathValue("id")); err != nil {
			return missing(err, "role", r.PathValue("id"))
		}
		if n := in.Role.Name; n != nil && *n != role.Name && builtIn(role.Name) {
			return cloud.Errorf(cloud.KindForbidden, "The role %s cannot be renamed.", role.Name)
		}
		if err := in.apply(&role); err != nil {
			return err
		}
		return putRole(tx, &role)
	}); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"role": viewRole(r, &role)})
}

func (s *Service) deleteRole(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:delete_role"); err != nil {
		return err
	}
	id := cloud.RoleID(r.PathValue("id"))
	role, ok := store.Lookup(s.store, tables.Roles, id)
	if !ok {
		return notFound("role", string(id))
	}
	if builtIn(role.Name) {
		return cloud.Errorf(cloud.KindForbidden, "The role %s cannot be deleted.", role.Name)
	}
	// The role first: an assignment of a role that is gone grants nothing.
	if err := deleteAll(r.Context(), s.store, tables.Roles, []string{string(id)}); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.Assignments, assignmentKeys(store.By(s.store, tables.Assignments, tables.ByRole, id))); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

type inference struct {
	Prior   roleRefLinks   `json:"prior_role"`
	Implies []roleRefLinks `json:"implies"`
}

type roleRefLinks struct {
	roleRef
	Links links `json:"links"`
}

// inferences are the built-in implications, one step each: admin to member, member to reader.
func (s *Service) inferences(r *openstack.Request) []inference {
	ref := func(role *cloud.Role) roleRefLinks {
		return roleRefLinks{roleRef{role.ID, role.Name}, selfLink(r, "/v3/roles/"+string(role.ID))}
	}
	out := []inference{}
	for _, step := range [][2]string{{openstack.RoleAdmin, openstack.RoleMember}, {openstack.RoleMember, openstack.RoleReader}} {
		prior, ok := store.One(s.store, tables.Roles, tables.ByName, step[0])
		lesser, ok2 := store.One(s.store, tables.Roles, tables.ByName, step[1])
		if ok && ok2 {
			out = append(out, inference{ref(prior), []roleRefLinks{ref(lesser)}})
		}
	}
	return out
}

func (s *Service) listInferences(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_role_inference_rules"); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"role_inferences": s.inferences(r), "links": selfLink(r, "/v3/role_inferences")})
}

func (s *Service) showImplied(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_implied_roles"); err != nil {
		return err
	}
	id := cloud.RoleID(r.PathValue("id"))
	role, ok := store.Lookup(s.store, tables.Roles, id)
	if !ok {
		return notFound("role", string(id))
	}
	out := inference{Prior: roleRefLinks{roleRef{role.ID, role.Name}, selfLink(r, "/v3/roles/"+string(id))}, Implies: []roleRefLinks{}}
	for _, i := range s.inferences(r) {
		if i.Prior.ID == id {
			out = i
		}
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"role_inference": out, "links": selfLink(r, "/v3/roles/"+string(id)+"/implies")})
}
