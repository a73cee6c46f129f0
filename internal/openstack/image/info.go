package image

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

func (s *Service) mountInfo(rt *openstack.Routes) {
	rt.Handle("GET /v2/info/import", s.showImport)
	rt.Handle("GET /v2/info/stores", s.showStores)
	rt.Handle("POST /v2/images/{id}/import", s.importImage)
	rt.Handle("GET /v2/tasks", s.listTasks)
	for name, schema := range map[string]func() map[string]any{"image": imageSchema, "images": imagesSchema, "member": memberSchema, "members": membersSchema} {
		document := schema()
		rt.Handle("GET /v2/schemas/"+name, func(w http.ResponseWriter, _ *openstack.Request) error {
			return openstack.WriteJSON(w, http.StatusOK, document)
		})
	}
}

// minorVersions are the minor versions of Glance v2 whose behaviour clients may look for; the newest is current.
var minorVersions = []string{"v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"}

func (s *Service) versions(w http.ResponseWriter, r *openstack.Request) error {
	out := make([]map[string]any, len(minorVersions))
	for n, id := range minorVersions {
		status := "SUPPORTED"
		if n == 0 {
			status = "CURRENT"
		}
		out[n] = map[string]any{"id": id, "status": status, "links": []openstack.Link{{Rel: "self", Href: r.PublicURL("/image/v2/")}}}
	}
	code := http.StatusMultipleChoices
	if r.URL.Path == "/image/versions" {
		code = http.StatusOK
	}
	return openstack.WriteJSON(w, code, map[string]any{"versions": out})
}

// showImport says that there are no import methods: data comes by PUT .../file.
func (s *Service) showImport(w http.ResponseWriter, _ *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"import-methods": map[string]any{
		"description": "Import methods available.", "type": "array", "value": []string{}}})
}

// importImage refuses with what Glance says when no method is enabled.
func (s *Service) importImage(w http.ResponseWriter, r *openstack.Request) error {
	o, err := r.Object(w)
	if err != nil {
		return err
	}
	name := "None"
	if v, ok := o.Get("method"); ok {
		if method, ok := v.(*openstack.Object); ok {
			if n, ok := method.Get("name"); ok {
				name, _ = n.(string)
			}
		}
	}
	return openstack.Fail(http.StatusBadRequest, "Unknown import method name '%.50s'.", name)
}

func (s *Service) showStores(http.ResponseWriter, *openstack.Request) error {
	return openstack.Fail(http.StatusNotFound, "Multi backend is not supported at this site.")
}

// listTasks: without imports there are no tasks.
func (s *Service) listTasks(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireAdmin("get_tasks"); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"tasks": []struct{}{}, "first": "/v2/tasks", "schema": "/v2/schemas/tasks"})
}
