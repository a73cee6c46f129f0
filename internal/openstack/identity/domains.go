package identity

import (
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func (s *Service) mountDomains(rt *openstack.Routes) {
	rt.Handle("GET /v3/domains", s.listDomains)
	rt.Handle("POST /v3/domains", s.createDomain)
	rt.Handle("GET /v3/domains/{id}", s.showDomain)
	rt.Handle("PATCH /v3/domains/{id}", s.updateDomain)
	rt.Handle("DELETE /v3/domains/{id}", s.deleteDomain)
}

type domainView struct {
	ID          cloud.DomainID `json:"id"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Enabled     bool           `json:"enabled"`
	Tags        []string       `json:"tags"`
	Options     struct{}       `json:"options"`
	Links       links          `json:"links"`
}

func viewDomain(r *openstack.Request, d *cloud.Domain) domainView {
	return domainView{ID: d.ID, Name: d.Name, Description: d.Description, Enabled: d.Enabled, Tags: []string{},
		Links: selfLink(r, "/v3/domains/"+string(d.ID))}
}

func (s *Service) listDomains(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_domains"); err != nil {
		return err
	}
	q, out := r.URL.Query(), []domainView{}
	for _, d := range store.All(s.store, tables.Domains) {
		if asked(q, "name", d.Name) && askedBool(q, "enabled", d.Enabled) {
			out = append(out, viewDomain(r, d))
		}
	}
	return writeList(w, r, "domains", out)
}

func (s *Service) showDomain(w http.ResponseWriter, r *openstack.Request) error {
	id := cloud.DomainID(r.PathValue("id"))
	if !r.Caller.IsAdmin() && r.Caller.ProjectDomain != id && r.Caller.Domain != id && r.Caller.UserDomain != id {
		return openstack.Forbid("identity:get_domain")
	}
	d, ok := store.Lookup(s.store, tables.Domains, id)
	if !ok {
		return notFound("domain", string(id))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"domain": viewDomain(r, d)})
}

type domainBody struct {
	Domain struct {
		Name        *string        `json:"name" api:"len=1..64"`
		Description *string        `json:"description" api:"null"`
		Enabled     *bool          `json:"enabled"`
		Options     map[string]any `json:"options"`
	} `json:"domain" api:"required"`
}

func (b *domainBody) apply(d *cloud.Domain) error {
	if len(b.Domain.Options) > 0 {
		return cloud.Errorf(cloud.KindInvalid, "Domains have no options.")
	}
	set(&d.Name, b.Domain.Name)
	set(&d.Description, b.Domain.Description)
	set(&d.Enabled, b.Domain.Enabled)
	return nil
}

func (s *Service) createDomain(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:create_domain"); err != nil {
		return err
	}
	var in domainBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	if in.Domain.Name == nil {
		return nameless("domain")
	}
	d := cloud.Domain{ID: cloud.DomainID(newID()), Enabled: true, Created: time.Now().UTC()}
	if err := in.apply(&d); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return putDomain(tx, &d) }); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusCreated, map[string]any{"domain": viewDomain(r, &d)})
}

func putDomain(tx *store.Tx, d *cloud.Domain) error {
	other, err := store.GetBy(tx, tables.Domains, tables.ByName, d.Name)
	if err == nil && other.ID != d.ID {
		return duplicate("domain", "it is not permitted to have two domains with the same name: "+d.Name)
	}
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	return store.Put(tx, tables.Domains, d.ID, *d)
}

func (s *Service) updateDomain(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:update_domain"); err != nil {
		return err
	}
	var in domainBody
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	var d cloud.Domain
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) (err error) {
		if d, err = store.Get(tx, tables.Domains, r.PathValue("id")); err != nil {
			return missing(err, "domain", r.PathValue("id"))
		}
		if err := in.apply(&d); err != nil {
			return err
		}
		if d.ID == DomainDefault && !d.Enabled {
			return cloud.Errorf(cloud.KindForbidden, "The default domain cannot be disabled: nobody could get in to enable it again.")
		}
		return putDomain(tx, &d)
	}); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"domain": viewDomain(r, &d)})
}

// deleteDomain removes an empty, disabled domain. Unlike Keystone it does not take the domain's users and projects along.
func (s *Service) deleteDomain(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:delete_domain"); err != nil {
		return err
	}
	id := cloud.DomainID(r.PathValue("id"))
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error {
		d, err := store.Get(tx, tables.Domains, id)
		if err != nil {
			return missing(err, "domain", string(id))
		}
		if d.Enabled {
			return cloud.Errorf(cloud.KindForbidden, "Cannot delete a domain that is enabled, please disable it first.")
		}
		if n, m := len(store.By(s.store, tables.Users, tables.ByDomain, id)), len(store.By(s.store, tables.Projects, tables.ByDomain, id)); n+m > 0 {
			return cloud.Errorf(cloud.KindConflict, "The domain still has %d users and %d projects, please delete them first.", n, m)
		}
		return store.Delete(tx, tables.Domains, id)
	}); err != nil {
		return err
	}
	if err := deleteAll(r.Context(), s.store, tables.Assignments, assignmentKeys(store.By(s.store, tables.Assignments, tables.ByDomain, id))); err != nil {
		return err
	}
	return openstack.NoContent(w)
}
