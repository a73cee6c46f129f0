package volume

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// version describes the one major version on offer.
func version(r *openstack.Request) object {
	vr := openstack.Cinder.Versions
	return object{
		"id": "v3.0", "status": "CURRENT", "version": vr.Max.String(), "min_version": vr.Min.String(), "updated": "2022-08-31T00:00:00Z",
		"links": []openstack.Link{
			{Rel: "describedby", Href: "https://docs.openstack.org/", Type: "text/html"}, {Rel: "self", Href: r.PublicURL(apiRoot + "/")},
		},
		"media-types": []object{{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}},
	}
}

// listVersions answers at the root of the service; it needs no token. Cinder answers 300 here.
func (s *Service) listVersions(w http.ResponseWriter, r *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusMultipleChoices, object{"versions": []object{version(r)}})
}

// showVersion answers at the version's root; it needs no token.
func (s *Service) showVersion(w http.ResponseWriter, r *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, object{"versions": []object{version(r)}})
}
