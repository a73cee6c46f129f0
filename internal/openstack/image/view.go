package image

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"

	"time"
)

// view is the image as Glance shows it: custom properties stand beside the built-in ones. Paths are relative, as Glance's are.
func view(i *cloud.Image) map[string]any {
	tags := i.Tags
	if tags == nil {
		tags = []string{}
	}
	self := "/v2/images/" + string(i.ID)
	out := make(map[string]any, 26+len(i.Properties))
	for k, v := range i.Properties {
		out[k] = v
	}
	for k, v := range map[string]any{
		"id": i.ID, "name": orNull(i.Name), "owner": orNull(string(i.Owner)), "visibility": i.Visibility, "protected": i.Protected, "os_hidden": i.Hidden,
		"disk_format": orNull(i.DiskFormat), "container_format": orNull(i.ContainerFormat), "min_disk": i.MinDiskGiB, "min_ram": i.MinRAMMiB,
		"status": i.Status, "tags": tags, "created_at": openstack.TimeSeconds(i.Created), "updated_at": openstack.TimeSeconds(i.Updated),
		"size": nil, "virtual_size": nil, "checksum": nil, "os_hash_algo": nil, "os_hash_value": nil,
		"self": self, "file": self + "/file", "schema": "/v2/schemas/image",
	} {
		out[k] = v
	}
	if i.Hash != "" {
		out["size"], out["virtual_size"], out["checksum"] = i.SizeBytes, i.VirtualBytes, i.MD5
		out["os_hash_algo"], out["os_hash_value"] = i.HashAlgo, i.Hash
	}
	return out
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (s *Service) show(w http.ResponseWriter, r *openstack.Request) error {
	i, err := s.visible(r, "get_image")
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, view(i))
}

func (s *Service) delete(w http.ResponseWriter, r *openstack.Request) error {
	i, err := s.modify(r, "delete_image", func(i *cloud.Image) error {
		if i.Protected {
			return cloud.Errorf(cloud.KindForbidden, "Image %s is protected and cannot be deleted.", i.ID)
		}
		i.Status = cloud.ImageDeleted
		return nil
	})
	if err != nil {
		return err
	}
	// The image is gone for everybody from here on; what is left is Maintain's if this fails.
	if err := s.reap(r.Context(), i.ID); err != nil {
		s.options.Logger.Warn("image: data of a deleted image is removed later", "image", i.ID, "error", err)
	}
	return openstack.NoContent(w)
}

func (s *Service) deactivate(w http.ResponseWriter, r *openstack.Request) error {
	return s.move(w, r, "deactivate", cloud.ImageActive, cloud.ImageDeactivated)
}

func (s *Service) reactivate(w http.ResponseWriter, r *openstack.Request) error {
	return s.move(w, r, "reactivate", cloud.ImageDeactivated, cloud.ImageActive)
}

// move takes an image from one state to another; one that is there already stays.
func (s *Service) move(w http.ResponseWriter, r *openstack.Request, rule string, from, to cloud.ImageStatus) error {
	if err := r.Caller.RequireAdmin(rule); err != nil {
		return err
	}
	if _, err := s.modify(r, rule, func(i *cloud.Image) error {
		if i.Status != from && i.Status != to {
			return cloud.Errorf(cloud.KindForbidden, "Not allowed to %s image in status '%s'", rule, i.Status)
		}
		i.Status = to
		return nil
	}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

func (s *Service) addTag(w http.ResponseWriter, r *openstack.Request) error {
	tag := r.PathValue("tag")
	if _, err := s.modify(r, "modify_image", func(i *cloud.Image) error { return setTags(i, append(i.Tags, tag)) }); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

func (s *Service) removeTag(w http.ResponseWriter, r *openstack.Request) error {
	tag := r.PathValue("tag")
	if _, err := s.modify(r, "modify_image", func(i *cloud.Image) error {
		for n, have := range i.Tags {
			if have == tag {
				i.Tags = append(i.Tags[:n:n], i.Tags[n+1:]...)
				return nil
			}
		}
		return cloud.Errorf(cloud.KindNotFound, "No tag found with name %s", tag)
	}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

// lookup returns the image if it exists and was not deleted.
func lookup(r store.Reader, id string) (*cloud.Image, bool) {
	i, ok := store.Lookup(r, tables.Images, id)
	return i, ok && i.Status != cloud.ImageDeleted
}

func nowUTC() time.Time { return time.Now().UTC() }
