package image

import (
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

func (s *Service) mountMembers(rt *openstack.Routes) {
	rt.Handle("GET /v2/images/{id}/members", s.listMembers)
	rt.Handle("POST /v2/images/{id}/members", s.addMember)
	rt.Handle("GET /v2/images/{id}/members/{member}", s.showMember)
	rt.Handle("PUT /v2/images/{id}/members/{member}", s.setMember)
	rt.Handle("DELETE /v2/images/{id}/members/{member}", s.removeMember)
}

type memberView struct {
	Image   cloud.ImageID   `json:"image_id"`
	Member  cloud.ProjectID `json:"member_id"`
	Status  string          `json:"status"`
	Created string          `json:"created_at"` // the image's: members have no times of their own
	Updated string          `json:"updated_at"`
	Schema  string          `json:"schema"`
}

func viewMember(i *cloud.Image, member cloud.ProjectID) memberView {
	return memberView{i.ID, member, i.Members[member], openstack.TimeSeconds(i.Created), openstack.TimeSeconds(i.Updated), "/v2/schemas/member"}
}

// seesMember reports whether the caller may see that the project is a member: the owner sees all, a member itself.
func seesMember(c *openstack.Caller, i *cloud.Image, member cloud.ProjectID) bool {
	return c.Sees(i.Owner) || c.Owns(member)
}

func (s *Service) listMembers(w http.ResponseWriter, r *openstack.Request) error {
	i, err := s.visible(r, "get_members")
	if err != nil {
		return err
	}
	if i.Visibility != visibilityShared {
		return cloud.Errorf(cloud.KindForbidden, "Only shared images have members.")
	}
	out := []memberView{}
	for member := range i.Members {
		if seesMember(r.Caller, i, member) {
			out = append(out, viewMember(i, member))
		}
	}
	slices.SortFunc(out, func(a, b memberView) int { return slices.Compare([]byte(a.Member), []byte(b.Member)) })
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"members": out, "schema": "/v2/schemas/members"})
}

func (s *Service) showMember(w http.ResponseWriter, r *openstack.Request) error {
	i, err := s.visible(r, "get_member")
	if err != nil {
		return err
	}
	member := cloud.ProjectID(r.PathValue("member"))
	if _, ok := i.Members[member]; !ok || !seesMember(r.Caller, i, member) {
		return noMember(member)
	}
	return openstack.WriteJSON(w, http.StatusOK, viewMember(i, member))
}

func noMember(member cloud.ProjectID) error {
	return cloud.Errorf(cloud.KindNotFound, "%s not found in the member list of the image.", member)
}

// addMember shares an image with a project, which must still accept it to have it listed.
func (s *Service) addMember(w http.ResponseWriter, r *openstack.Request) error {
	var in struct {
		Member string `json:"member" api:"required;len=1..255"`
	}
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	member := cloud.ProjectID(in.Member)
	i, err := s.modify(r, "add_member", func(i *cloud.Image) error {
		if i.Visibility != visibilityShared {
			return cloud.Errorf(cloud.KindForbidden, "Only shared images have members.")
		}
		if _, ok := i.Members[member]; ok {
			return cloud.Errorf(cloud.KindConflict, "Member %s is duplicated for image %s", member, i.ID)
		}
		if len(i.Members) >= membersMax {
			return cloud.Errorf(cloud.KindTooLarge, "The limit has been exceeded on the number of allowed image members for this image. "+
				"Attempted: %d, Maximum: %d", len(i.Members)+1, membersMax)
		}
		if i.Members == nil {
			i.Members = map[cloud.ProjectID]string{}
		}
		i.Members[member] = memberPending
		return nil
	})
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, viewMember(i, member))
}

// setMember lets the member accept or reject; the owner may not do that for it.
func (s *Service) setMember(w http.ResponseWriter, r *openstack.Request) error {
	var in struct {
		Status string `json:"status" api:"required;enum=pending|accepted|rejected"`
	}
	if err := r.Decode(w, &in); err != nil {
		return err
	}
	member := cloud.ProjectID(r.PathValue("member"))
	i, err := s.change(r, func(i *cloud.Image) error {
		i.Members[member] = in.Status
		return nil
	}, func(i *cloud.Image) error {
		if !Visible(r.Caller, i) {
			return notFound(string(i.ID))
		}
		if _, ok := i.Members[member]; !ok || !seesMember(r.Caller, i, member) {
			return noMember(member)
		}
		own := r.Caller.Owns(member) && r.Caller.Has(openstack.RoleMember)
		if !own && !r.Caller.IsAdmin() {
			return openstack.Forbid("modify_member")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, viewMember(i, member))
}

func (s *Service) removeMember(w http.ResponseWriter, r *openstack.Request) error {
	member := cloud.ProjectID(r.PathValue("member"))
	if _, err := s.modify(r, "delete_member", func(i *cloud.Image) error {
		if _, ok := i.Members[member]; !ok {
			return noMember(member)
		}
		delete(i.Members, member)
		return nil
	}); err != nil {
		return err
	}
	return openstack.NoContent(w)
}
