package image

import (
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// The visibilities.
const (
	visibilityPublic    = "public"
	visibilityPrivate   = "private"
	visibilityShared    = "shared"
	visibilityCommunity = "community"
)

var visibilities = []string{visibilityCommunity, visibilityPublic, visibilityPrivate, visibilityShared}

// The states of a member.
const (
	memberPending  = "pending"
	memberAccepted = "accepted"
	memberRejected = "rejected"
)

// Visible reports whether the caller may know of the image and boot from it: it is everybody's, its own, or shared with its project.
func Visible(c *openstack.Caller, i *cloud.Image) bool {
	switch {
	case i.Status == cloud.ImageDeleted:
		return false
	case c.Sees(i.Owner), i.Visibility == visibilityPublic, i.Visibility == visibilityCommunity:
		return true
	}
	_, member := i.Members[c.Project]
	return member && i.Visibility == visibilityShared
}

// mayModify returns nil for the owner and administrators, and Glance's refusal for anybody else who can see the image.
func mayModify(c *openstack.Caller, i *cloud.Image, rule string) error {
	if !Visible(c, i) {
		return notFound(string(i.ID))
	}
	if c.IsAdmin() || c.Owns(i.Owner) && c.Has(openstack.RoleMember) {
		return nil
	}
	return openstack.Forbid(rule)
}

func notFound(id string) error {
	return cloud.Errorf(cloud.KindNotFound, "No image found with ID %s", id)
}

// visible returns the image of the path if the caller may see it.
func (s *Service) visible(r *openstack.Request, rule string) (*cloud.Image, error) {
	if err := r.Caller.Require(openstack.RoleReader, rule); err != nil {
		return nil, err
	}
	i, ok := store.Lookup(s.store, tables.Images, r.PathValue("id"))
	if !ok || !Visible(r.Caller, i) {
		return nil, notFound(r.PathValue("id"))
	}
	return i, nil
}

// modify applies change to the image of the path if the caller may, and returns it as written.
func (s *Service) modify(r *openstack.Request, rule string, change func(*cloud.Image) error) (*cloud.Image, error) {
	return s.change(r, change, func(i *cloud.Image) error { return mayModify(r.Caller, i, rule) })
}

// change applies change to the image of the path after allowed has agreed, in one transaction.
func (s *Service) change(r *openstack.Request, change, allowed func(*cloud.Image) error) (*cloud.Image, error) {
	id := r.PathValue("id")
	var i cloud.Image
	_, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) (err error) {
		if i, err = store.Get(tx, tables.Images, id); err != nil {
			if cloud.Is(err, cloud.KindNotFound) {
				return notFound(id)
			}
			return err
		}
		if err := allowed(&i); err != nil {
			return err
		}
		if err := change(&i); err != nil {
			return err
		}
		i.Updated = time.Now().UTC()
		return store.Put(tx, tables.Images, i.ID, i)
	})
	return &i, err
}
