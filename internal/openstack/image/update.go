package image

import (
	"mime"
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// update applies a JSON patch: all of it or nothing.
func (s *Service) update(w http.ResponseWriter, r *openstack.Request) error {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != patchV20 && mediaType != patchV21 {
		w.Header().Set("Accept-Patch", patchV21+", "+patchV20)
		return openstack.Fail(http.StatusUnsupportedMediaType, "Unsupported Content-Type; a patch is %s.", patchV21)
	}
	data, err := openstack.ReadBody(w, r.Request, openstack.BodyBytesMaxDefault)
	if err != nil {
		return err
	}
	patch, err := parsePatch(mediaType, data)
	if err != nil {
		return err
	}
	i, err := s.modify(r, "modify_image", func(i *cloud.Image) error {
		for n := range patch {
			if err := patch[n].apply(r.Caller, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, view(i))
}
