package image

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Glance's default quotas.
const (
	propertiesMax     = 128
	tagsMax           = 128
	membersMax        = 128
	nameRunesMax      = 255
	propertyBytesMax  = 65535
	minSizeMax        = 2147483647
	reservedNamespace = "os_glance"
)

var (
	// DiskFormats are what hosts here can run.
	diskFormats      = []string{"raw", "qcow2"}
	containerFormats = []string{"bare"}
	// readOnly are the properties the service alone sets.
	readOnly = []string{"created_at", "updated_at", "status", "checksum", "size", "virtual_size", "direct_url", "self", "file", "schema",
		"os_hash_algo", "os_hash_value", "locations", "stores"}
	reserved = []string{"location", "deleted", "deleted_at"}
)

// createBody is the body of POST /v2/images.
type createBody struct {
	ID              *string           `json:"id"`
	Name            *string           `json:"name" api:"null;len=..255"`
	Owner           *string           `json:"owner" api:"null;len=..255"`
	Visibility      *string           `json:"visibility" api:"enum=community|public|private|shared"`
	Protected       bool              `json:"protected"`
	Hidden          bool              `json:"os_hidden"`
	DiskFormat      *string           `json:"disk_format" api:"null;enum=raw|qcow2"`
	ContainerFormat *string           `json:"container_format" api:"null;enum=bare"`
	MinDisk         int               `json:"min_disk" api:"range=0..2147483647"`
	MinRAM          int               `json:"min_ram" api:"range=0..2147483647"`
	Tags            []string          `json:"tags"`
	Properties      map[string]string `api:"extra"`
}

func (s *Service) create(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.RequireProject(openstack.RoleMember, "add_image"); err != nil {
		return err
	}
	o, err := r.Object(w)
	if err != nil {
		return err
	}
	for _, name := range o.Names {
		if err := writable(name); err != nil {
			return err
		}
	}
	var in createBody
	if err := openstack.Bind(o, &in, r.Version); err != nil {
		return err
	}
	i, err := in.image(r.Caller)
	if err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error {
		if _, err := store.Get(tx, tables.Images, i.ID); err == nil {
			return cloud.Errorf(cloud.KindConflict, "Image ID %s already exists!", i.ID)
		}
		return store.Put(tx, tables.Images, i.ID, *i)
	}); err != nil {
		return err
	}
	w.Header().Set("Location", r.PublicURL("/image/v2/images/", string(i.ID)))
	return openstack.WriteJSON(w, http.StatusCreated, view(i))
}

// writable returns Glance's refusal of a property that clients do not set.
func writable(name string) error {
	switch {
	case slices.Contains(readOnly, name):
		return cloud.Errorf(cloud.KindForbidden, "Attribute '%s' is read-only.", name)
	case slices.Contains(reserved, name):
		return cloud.Errorf(cloud.KindForbidden, "Attribute '%s' is reserved.", name)
	case strings.HasPrefix(name, reservedNamespace):
		return cloud.Errorf(cloud.KindForbidden, "Property %s is reserved for internal use.", name)
	}
	return nil
}

// image makes the record the body asks for.
func (in *createBody) image(c *openstack.Caller) (*cloud.Image, error) {
	now := nowUTC()
	i := &cloud.Image{ID: cloud.ImageID(uuid.NewString()), Owner: c.Project, Visibility: visibilityShared, Protected: in.Protected, Hidden: in.Hidden,
		MinDiskGiB: in.MinDisk, MinRAMMiB: in.MinRAM, Status: cloud.ImageQueued, Created: now, Updated: now}
	if in.ID != nil {
		if !validID(*in.ID) {
			return nil, cloud.Errorf(cloud.KindInvalid, "Invalid image id format")
		}
		i.ID = cloud.ImageID(*in.ID)
	}
	for _, set := range []struct {
		to   *string
		from *string
	}{{&i.Name, in.Name}, {&i.DiskFormat, in.DiskFormat}, {&i.ContainerFormat, in.ContainerFormat}} {
		if set.from != nil {
			*set.to = *set.from
		}
	}
	if in.Owner != nil {
		if err := setOwner(c, i, *in.Owner); err != nil {
			return nil, err
		}
	}
	if in.Visibility != nil {
		if err := setVisibility(c, i, *in.Visibility); err != nil {
			return nil, err
		}
	}
	if err := setTags(i, in.Tags); err != nil {
		return nil, err
	}
	for name, value := range in.Properties {
		if err := setProperty(i, name, value); err != nil {
			return nil, err
		}
	}
	return i, nil
}

func setOwner(c *openstack.Caller, i *cloud.Image, owner string) error {
	if owner != string(i.Owner) && !c.IsAdmin() {
		return cloud.Errorf(cloud.KindForbidden, "You are not permitted to create images owned by '%s'.", owner)
	}
	i.Owner = cloud.ProjectID(owner)
	return nil
}

// setVisibility changes who sees the image; everybody may not be asked for by everybody.
func setVisibility(c *openstack.Caller, i *cloud.Image, visibility string) error {
	if visibility == i.Visibility {
		return nil
	}
	if visibility == visibilityPublic && !c.IsAdmin() {
		return openstack.Forbid("publicize_image")
	}
	i.Visibility = visibility
	return nil
}

// setTags replaces the tags, each kept once.
func setTags(i *cloud.Image, tags []string) error {
	var out []string
	for _, t := range tags {
		if utf8.RuneCountInString(t) > nameRunesMax || t == "" {
			return cloud.Errorf(cloud.KindInvalid, "Provided tag must have between 1 and %d characters.", nameRunesMax)
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	if len(out) > tagsMax {
		return cloud.Errorf(cloud.KindTooLarge, "The limit has been exceeded on the number of allowed image tags. Attempted: %d, Maximum: %d",
			len(out), tagsMax)
	}
	slices.Sort(out)
	i.Tags = out
	return nil
}

// setProperty sets a custom property.
func setProperty(i *cloud.Image, name, value string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > nameRunesMax || len(value) > propertyBytesMax {
		return cloud.Errorf(cloud.KindInvalid, "Property '%.60s' or its value is too long.", name)
	}
	if i.Properties == nil {
		i.Properties = map[string]string{}
	}
	i.Properties[name] = value
	if len(i.Properties) > propertiesMax {
		return cloud.Errorf(cloud.KindTooLarge, "The limit has been exceeded on the number of allowed image properties. Attempted: %d, Maximum: %d",
			len(i.Properties), propertiesMax)
	}
	return nil
}
