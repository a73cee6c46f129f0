package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// A CatalogService is one service as clients find it.
type CatalogService struct {
	Type string // "compute"
	Name string // "nova"
	Path string // below the public URL: "/compute/v2.1"; projectTemplate stands for the token's project
}

// Catalog returns the services godwit speaks.
func Catalog() []CatalogService {
	return []CatalogService{
		{"identity", "keystone", "/identity"},
		{"compute", "nova", "/compute/v2.1"},
		{"image", "glance", "/image"},
		{"network", "neutron", "/network"},
		// Clients of different ages look for the volume service under these names, and older ones want the project in its URL.
		{"volumev3", "cinderv3", "/volume/v3/" + projectTemplate},
		{"block-storage", "cinder", "/volume/v3/" + projectTemplate},
		{"infra-optim", "watcher", "/infra-optim"},
		{"instance-ha", "masakari", "/instance-ha/v1"},
	}
}

// projectTemplate is Keystone's way to write the token's project in an endpoint's URL.
const projectTemplate = "$(project_id)s"

// interfaces are the three doors Keystone knows. They all lead to the same listener here.
var interfaces = []string{"public", "internal", "admin"}

// serviceID and endpointID are made from the names, so that they are the same on every server and after every restart.
func (c CatalogService) id() string { return stableID("service", c.Type) }

func (c CatalogService) endpointID(door, region string) string {
	return stableID("endpoint", c.Type, door, region)
}

func stableID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

type catalogEntry struct {
	ID        string            `json:"id"`
	Type      string            `json:"type"`
	Name      string            `json:"name"`
	Endpoints []catalogEndpoint `json:"endpoints"`
}

type catalogEndpoint struct {
	ID        string `json:"id"`
	Interface string `json:"interface"`
	Region    string `json:"region"`
	RegionID  string `json:"region_id"`
	URL       string `json:"url"`
}

// catalogView is the catalog as a token of the project shows it. Endpoints that need a project are left out when there is none, as in Keystone.
func (s *Service) catalogView(r *openstack.Request, project cloud.ProjectID) []catalogEntry {
	out := make([]catalogEntry, 0, len(s.options.Services))
	for _, c := range s.options.Services {
		e := catalogEntry{ID: c.id(), Type: c.Type, Name: c.Name, Endpoints: []catalogEndpoint{}}
		path := strings.ReplaceAll(c.Path, projectTemplate, string(project))
		if path != c.Path && project == "" {
			out = append(out, e)
			continue
		}
		for _, door := range interfaces {
			e.Endpoints = append(e.Endpoints, catalogEndpoint{c.endpointID(door, s.options.Region), door, s.options.Region, s.options.Region,
				r.PublicURL(path)})
		}
		out = append(out, e)
	}
	return out
}

// mountCatalog serves the catalog's parts, which come from the configuration and cannot be changed by requests: other methods are 405.
func (s *Service) mountCatalog(rt *openstack.Routes) {
	rt.Handle("GET /v3/services", s.listServices)
	rt.Handle("GET /v3/services/{id}", s.showService)
	rt.Handle("GET /v3/endpoints", s.listEndpoints)
	rt.Handle("GET /v3/endpoints/{id}", s.showEndpoint)
	rt.Handle("GET /v3/regions", s.listRegions)
	rt.Handle("GET /v3/regions/{id}", s.showRegion)
	rt.Handle("GET /v3/groups", s.listGroups)
	rt.Handle("GET /v3/groups/{id}", s.showGroup)
}

type serviceView struct {
	ID          string `json:"id"`
	Type        string `json:"type"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Enabled     bool   `json:"enabled"`
	Links       links  `json:"links"`
}

func (s *Service) services(r *openstack.Request) []serviceView {
	out := []serviceView{}
	for _, c := range s.options.Services {
		out = append(out, serviceView{ID: c.id(), Type: c.Type, Name: c.Name, Enabled: true, Links: selfLink(r, "/v3/services/"+c.id())})
	}
	return out
}

func (s *Service) listServices(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_services"); err != nil {
		return err
	}
	q := r.URL.Query()
	return writeList(w, r, "services", keep(s.services(r), func(v serviceView) bool {
		return asked(q, "name", v.Name) && asked(q, "type", v.Type)
	}))
}

func (s *Service) showService(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:get_service"); err != nil {
		return err
	}
	return writeOne(w, "service", s.services(r), func(v serviceView) bool { return v.ID == r.PathValue("id") }, r.PathValue("id"))
}

type endpointView struct {
	ID        string `json:"id"`
	Interface string `json:"interface"`
	RegionID  string `json:"region_id"`
	Region    string `json:"region"`
	ServiceID string `json:"service_id"`
	URL       string `json:"url"`
	Enabled   bool   `json:"enabled"`
	Links     links  `json:"links"`
}

func (s *Service) endpoints(r *openstack.Request) []endpointView {
	out := []endpointView{}
	for _, c := range s.options.Services {
		for _, door := range interfaces {
			id := c.endpointID(door, s.options.Region)
			out = append(out, endpointView{id, door, s.options.Region, s.options.Region, c.id(), r.PublicURL(c.Path), true, selfLink(r, "/v3/endpoints/"+id)})
		}
	}
	return out
}

func (s *Service) listEndpoints(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_endpoints"); err != nil {
		return err
	}
	q := r.URL.Query()
	return writeList(w, r, "endpoints", keep(s.endpoints(r), func(v endpointView) bool {
		return asked(q, "interface", v.Interface) && asked(q, "service_id", v.ServiceID) && asked(q, "region_id", v.RegionID)
	}))
}

func (s *Service) showEndpoint(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:get_endpoint"); err != nil {
		return err
	}
	return writeOne(w, "endpoint", s.endpoints(r), func(v endpointView) bool { return v.ID == r.PathValue("id") }, r.PathValue("id"))
}

type regionView struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	Parent      any    `json:"parent_region_id"` // there is one region and it has none
	Links       links  `json:"links"`
}

func (s *Service) regions(r *openstack.Request) []regionView {
	return []regionView{{ID: s.options.Region, Links: selfLink(r, "/v3/regions/"+s.options.Region)}}
}

func (s *Service) listRegions(w http.ResponseWriter, r *openstack.Request) error {
	return writeList(w, r, "regions", s.regions(r))
}

func (s *Service) showRegion(w http.ResponseWriter, r *openstack.Request) error {
	return writeOne(w, "region", s.regions(r), func(v regionView) bool { return v.ID == r.PathValue("id") }, r.PathValue("id"))
}

// listGroups: there are no groups; roles are granted to users.
func (s *Service) listGroups(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:list_groups"); err != nil {
		return err
	}
	return writeList(w, r, "groups", []struct{}{})
}

func (s *Service) showGroup(_ http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("identity:get_group"); err != nil {
		return err
	}
	return notFound("group", r.PathValue("id"))
}

// notFound is Keystone's answer to an id that names nothing.
func notFound(what, id string) error {
	return cloud.Errorf(cloud.KindNotFound, "Could not find %s: %s.", what, id)
}
