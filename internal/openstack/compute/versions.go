package compute

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// version describes the one major version on offer.
func version(r *openstack.Request) object {
	vr := openstack.Nova.Versions
	return object{
		"id": "v2.1", "status": "CURRENT", "version": vr.Max.String(), "min_version": vr.Min.String(), "updated": "2013-07-23T11:33:21Z",
		"links": []openstack.Link{{Rel: "self", Href: r.PublicURL(apiRoot + "/")}},
	}
}

// listVersions answers at the root of the service; it needs no token.
func (s *Service) listVersions(w http.ResponseWriter, r *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, object{"versions": []object{version(r)}})
}

// showVersion answers at the version's root; it needs no token.
func (s *Service) showVersion(w http.ResponseWriter, r *openstack.Request) error {
	v := version(r)
	v["links"] = append(v["links"].([]openstack.Link), openstack.Link{Rel: "describedby", Href: "http://docs.openstack.org/", Type: "text/html"})
	v["media-types"] = []object{{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}}
	return openstack.WriteJSON(w, http.StatusOK, object{"version": v})
}
