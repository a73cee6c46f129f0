package volume

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

var typeRoutes = []route{
	{pattern: "GET /types", handle: (*call).listTypes},
	{pattern: "POST /types", handle: (*call).createType},
	{pattern: "GET /types/{id}", handle: (*call).showType},
	{pattern: "PUT /types/{id}", handle: (*call).updateType},
	{pattern: "DELETE /types/{id}", handle: (*call).deleteType},
	{pattern: "GET /types/{id}/extra_specs", handle: (*call).listSpecs},
	{pattern: "POST /types/{id}/extra_specs", handle: (*call).addSpecs},
	{pattern: "GET /types/{id}/extra_specs/{key}", handle: (*call).showSpec},
	{pattern: "PUT /types/{id}/extra_specs/{key}", handle: (*call).updateSpec},
	{pattern: "DELETE /types/{id}/extra_specs/{key}", handle: (*call).deleteSpec},
	{pattern: "GET /types/{id}/os-volume-type-access", handle: (*call).listTypeAccess},
	{pattern: "POST /types/{id}/action", handle: (*call).typeAction},
	{pattern: "GET /types/{id}/encryption", handle: (*call).showEncryption},
	{pattern: "GET /types/{id}/encryption/{key}", handle: (*call).showEncryption},
}

func typeMissing(id string) error { return notFound("Volume type %s could not be found.", id) }

// typeOf returns the type of the path if the caller may use it; "default" is the default one.
func (c *call) typeOf() (*cloud.VolumeType, error) {
	id := c.path("id")
	if id == "default" {
		return volumebook.DefaultType(c.view)
	}
	t, ok := store.Lookup(c.view, tables.VolumeTypes, id)
	if !ok || !c.admin() && !volumebook.MayUse(t, c.r.Caller.Project) {
		return nil, typeMissing(id)
	}
	return t, nil
}

// userSpecs are the extra specs that everybody may see, because they change what a volume can be used for.
var userSpecs = []string{cloud.SpecMultiattach, "replication_enabled", "RESKEY:availability_zones"}

func (c *call) typeView(t *cloud.VolumeType) object {
	specs := texts(t.ExtraSpecs)
	out := object{
		"id": t.ID, "name": t.Name, "description": orNull(t.Description), "is_public": t.Public, "os-volume-type-access:is_public": t.Public,
	}
	if c.admin() {
		out["qos_specs_id"] = nil
	} else {
		specs = maps.Clone(specs)
		maps.DeleteFunc(specs, func(k, _ string) bool { return !slices.Contains(userSpecs, k) })
	}
	out["extra_specs"] = specs
	return out
}

func (c *call) listTypes() error {
	if err := c.may(reader, "volume_extension:type_get_all"); err != nil {
		return err
	}
	keep, err := c.typeFilter()
	if err != nil {
		return err
	}
	var all []*cloud.VolumeType
	for _, t := range store.All(c.view, tables.VolumeTypes) {
		if keep(t) {
			all = append(all, t)
		}
	}
	if err := sortItems(c, all, typeOrders); err != nil {
		return err
	}
	found, more, err := page(c, all, func(t *cloud.VolumeType) string { return string(t.ID) }, typeMissing)
	if err != nil {
		return err
	}
	views := make([]object, len(found))
	for i, t := range found {
		views[i] = c.typeView(t)
	}
	out := object{"volume_types": views}
	if more {
		out["volume_type_links"] = c.nextLinks("/types", string(found[len(found)-1].ID))
	}
	return c.ok(out)
}

var typeOrders = map[string]func(a, b *cloud.VolumeType) int{
	"id":         func(a, b *cloud.VolumeType) int { return strings.Compare(string(a.ID), string(b.ID)) },
	"name":       func(a, b *cloud.VolumeType) int { return strings.Compare(a.Name, b.Name) },
	"created_at": func(a, b *cloud.VolumeType) int { return a.Created.Compare(b.Created) },
}

// typeFilter reads is_public, which is an administrator's, and from 3.52 on extra_specs.
func (c *call) typeFilter() (func(*cloud.VolumeType) bool, error) {
	public := func(t *cloud.VolumeType) bool { return c.admin() || volumebook.MayUse(t, c.r.Caller.Project) }
	if text := c.query("is_public"); c.admin() && !strings.EqualFold(text, "none") {
		want, ok := parseBoolean(text)
		if text == "" {
			want, ok = true, true
		}
		if !ok {
			return nil, invalid("Invalid is_public filter [%s]", text)
		}
		public = func(t *cloud.VolumeType) bool { return t.Public == want }
	}
	var f filter[cloud.VolumeType]
	f.add(public)
	if name := c.query("name"); name != "" {
		f.add(func(t *cloud.VolumeType) bool { return t.Name == name })
	}
	if specs := c.query("extra_specs"); specs != "" && c.since(52) {
		if err := filterMap(&f, "extra_specs", specs, func(t *cloud.VolumeType) map[string]string { return texts(t.ExtraSpecs) }); err != nil {
			return nil, err
		}
	}
	return f.accepts, nil
}

func (c *call) showType() error {
	if err := c.may(reader, "volume_extension:type_get"); err != nil {
		return err
	}
	t, err := c.typeOf()
	if err != nil {
		return err
	}
	return c.ok(object{"volume_type": c.typeView(t)})
}

func (c *call) createType() error {
	if err := c.mayAdmin("volume_extension:type_create"); err != nil {
		return err
	}
	var body struct {
		Type struct {
			Name        string            `json:"name" api:"required;len=1..255"`
			Description *string           `json:"description" api:"null;len=..255"`
			Public      *bool             `json:"os-volume-type-access:is_public" api:"loose"`
			ExtraSpecs  map[string]string `json:"extra_specs" api:"null"`
		} `json:"volume_type" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	in := &body.Type
	t := cloud.VolumeType{
		ID: cloud.VolumeTypeID(newID()), Name: strings.TrimSpace(in.Name), Description: firstText(in.Description), Public: in.Public == nil || *in.Public,
		ExtraSpecs: in.ExtraSpecs, Created: c.now(), Updated: c.now(),
	}
	if t.Name == "" {
		return invalid("Volume type name can not be empty.")
	}
	if err := checkSpecs(t.ExtraSpecs); err != nil {
		return err
	}
	err := c.update(func(tx *store.Tx) error {
		if _, err := store.GetBy(tx, tables.VolumeTypes, tables.ByName, t.Name); err == nil {
			return conflict("Volume Type %s already exists.", t.Name)
		}
		return store.Create(tx, tables.VolumeTypes, t.ID, t)
	})
	if err != nil {
		return err
	}
	return c.ok(object{"volume_type": c.typeView(&t)})
}

// changeType applies change to the type of the path; only administrators do.
func (c *call) changeType(rule string, change func(tx *store.Tx, t *cloud.VolumeType) error) (*cloud.VolumeType, error) {
	if err := c.mayAdmin(rule); err != nil {
		return nil, err
	}
	seen, err := c.typeOf()
	if err != nil {
		return nil, err
	}
	var t cloud.VolumeType
	err = c.update(func(tx *store.Tx) (err error) {
		if t, err = store.Get(tx, tables.VolumeTypes, seen.ID); err != nil {
			return typeMissing(string(seen.ID))
		}
		if err := change(tx, &t); err != nil {
			return err
		}
		t.Updated = c.now()
		return store.Put(tx, tables.VolumeTypes, t.ID, t)
	})
	return &t, err
}

func (c *call) updateType() error {
	var body struct {
		Type struct {
			Name        *string `json:"name" api:"null;len=..255"`
			Description *string `json:"description" api:"null;len=..255"`
			Public      *bool   `json:"is_public" api:"null;loose"`
		} `json:"volume_type" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	in := &body.Type
	if in.Name == nil && in.Description == nil && in.Public == nil {
		return invalid("Specify volume type name, description, is_public or a combination thereof.")
	}
	t, err := c.changeType("volume_extension:type_update", func(tx *store.Tx, t *cloud.VolumeType) error {
		if in.Name != nil {
			name := strings.TrimSpace(*in.Name)
			if name == "" {
				return invalid("Volume type name can not be empty.")
			}
			if t.Name == cloud.DefaultVolumeType && name != t.Name {
				return invalid("The default volume type %s keeps its name.", t.Name)
			}
			if other, err := store.GetBy(tx, tables.VolumeTypes, tables.ByName, name); err == nil && other.ID != t.ID {
				return conflict("Volume Type %s already exists.", name)
			}
			t.Name = name
		}
		if in.Description != nil {
			t.Description = *in.Description
		}
		if in.Public != nil {
			t.Public = *in.Public
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.ok(object{"volume_type": c.typeView(t)})
}

// deleteType removes a type that no volume has.
func (c *call) deleteType() error {
	if err := c.mayAdmin("volume_extension:type_delete"); err != nil {
		return err
	}
	t, err := c.typeOf()
	if err != nil {
		return err
	}
	if t.Name == cloud.DefaultVolumeType {
		return invalid("Volume Type %s deletion is not allowed: it is the default type.", t.Name)
	}
	err = c.update(func(tx *store.Tx) error {
		volumes, err := store.PeekList(tx, tables.Volumes, "")
		if err != nil {
			return err
		}
		if slices.ContainsFunc(volumes, func(v *cloud.Volume) bool { return v.Type == t.ID }) {
			return invalid("Target volume type is still in use.")
		}
		return store.Delete(tx, tables.VolumeTypes, t.ID)
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

// checkSpecs refuses extra specs that godwit acts on and that say nothing it can act on.
func checkSpecs(specs map[string]string) error {
	if err := checkMetadata(specs); err != nil {
		return err
	}
	for k, v := range specs {
		switch {
		case k == cloud.SpecMultiattach:
			if !slices.Contains([]string{"<is> true", "<is> false"}, strings.ToLower(strings.TrimSpace(v))) {
				return invalid("Extra spec multiattach must be '<is> True' or '<is> False', not '%s'.", v)
			}
		case k == cloud.SpecIOPSMax, k == cloud.SpecBytesMax:
			if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < 0 {
				return invalid("Extra spec %s must be a whole number, not '%s'.", k, v)
			}
		case strings.HasPrefix(k, "godwit:"):
			return invalid("Extra spec %s is not known.", k)
		}
	}
	return nil
}

func (c *call) listSpecs() error {
	if err := c.mayAdmin("volume_extension:types_extra_specs:index"); err != nil {
		return err
	}
	t, err := c.typeOf()
	if err != nil {
		return err
	}
	return c.ok(object{"extra_specs": texts(t.ExtraSpecs)})
}

func (c *call) addSpecs() error {
	var body struct {
		Specs map[string]string `json:"extra_specs" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := c.setSpecs("volume_extension:types_extra_specs:create", body.Specs); err != nil {
		return err
	}
	return c.ok(object{"extra_specs": body.Specs})
}

// setSpecs adds extra specs to those there are. Volumes made before keep what they were made with.
func (c *call) setSpecs(rule string, specs map[string]string) error {
	_, err := c.changeType(rule, func(_ *store.Tx, t *cloud.VolumeType) error {
		out := maps.Clone(texts(t.ExtraSpecs))
		maps.Copy(out, specs)
		t.ExtraSpecs = out
		return checkSpecs(out)
	})
	return err
}

func (c *call) specMissing() error {
	return notFound("Volume Type %s has no extra specs with key %s.", c.path("id"), c.path("key"))
}

func (c *call) showSpec() error {
	if err := c.mayAdmin("volume_extension:types_extra_specs:show"); err != nil {
		return err
	}
	t, err := c.typeOf()
	if err != nil {
		return err
	}
	value, ok := t.ExtraSpecs[c.path("key")]
	if !ok {
		return c.specMissing()
	}
	return c.ok(object{c.path("key"): value})
}

func (c *call) updateSpec() error {
	var body struct {
		Specs map[string]string `api:"extra"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if _, ok := body.Specs[c.path("key")]; !ok || len(body.Specs) != 1 {
		return invalid("Request body and URI mismatch")
	}
	if err := c.setSpecs("volume_extension:types_extra_specs:update", body.Specs); err != nil {
		return err
	}
	return c.ok(body.Specs)
}

func (c *call) deleteSpec() error {
	_, err := c.changeType("volume_extension:types_extra_specs:delete", func(_ *store.Tx, t *cloud.VolumeType) error {
		if _, ok := t.ExtraSpecs[c.path("key")]; !ok {
			return c.specMissing()
		}
		t.ExtraSpecs = maps.Clone(t.ExtraSpecs)
		delete(t.ExtraSpecs, c.path("key"))
		return nil
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

func (c *call) listTypeAccess() error {
	if err := c.mayAdmin("volume_extension:volume_type_access"); err != nil {
		return err
	}
	t, err := c.typeOf()
	if err != nil {
		return err
	}
	if t.Public {
		return notFound("Access list not available for public volume types.")
	}
	out := []object{}
	for _, p := range t.Access {
		out = append(out, object{"volume_type_id": t.ID, "project_id": p})
	}
	return c.ok(object{"volume_type_access": out})
}

// typeAction gives a project access to a private type, or takes it.
func (c *call) typeAction() error {
	var body struct {
		Add    *projectAccess `json:"addProjectAccess"`
		Remove *projectAccess `json:"removeProjectAccess"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if (body.Add == nil) == (body.Remove == nil) {
		return invalid("There is no such action")
	}
	_, err := c.changeType("volume_extension:volume_type_access:"+pickAction(body.Add != nil), func(_ *store.Tx, t *cloud.VolumeType) error {
		if body.Add != nil {
			return addAccess(t, cloud.ProjectID(body.Add.Project))
		}
		return removeAccess(t, cloud.ProjectID(body.Remove.Project))
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

type projectAccess struct {
	Project string `json:"project" api:"required;len=1..255"`
}

func pickAction(add bool) string {
	if add {
		return "add_project_access"
	}
	return "remove_project_access"
}

func addAccess(t *cloud.VolumeType, p cloud.ProjectID) error {
	switch {
	case t.Public:
		return conflict("Type access modification is not applicable to public volume type.")
	case slices.Contains(t.Access, p):
		return conflict("Volume type access for %s / %s combination already exists.", t.ID, p)
	}
	t.Access = append(slices.Clone(t.Access), p)
	return nil
}

func removeAccess(t *cloud.VolumeType, p cloud.ProjectID) error {
	switch {
	case t.Public:
		return conflict("Type access modification is not applicable to public volume type.")
	case !slices.Contains(t.Access, p):
		return notFound("Volume type access not found for %s / %s combination.", t.ID, p)
	}
	t.Access = slices.DeleteFunc(slices.Clone(t.Access), func(have cloud.ProjectID) bool { return have == p })
	return nil
}

// showEncryption says that no type encrypts.
func (c *call) showEncryption() error {
	if err := c.mayAdmin("volume_extension:volume_type_encryption:get"); err != nil {
		return err
	}
	if _, err := c.typeOf(); err != nil {
		return err
	}
	return c.ok(object{})
}
