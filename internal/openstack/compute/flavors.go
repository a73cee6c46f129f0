package compute

import (
	"cmp"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var flavorRoutes = []route{
	{pattern: "GET /flavors", query: flavorQuery, handle: func(c *call) error { return c.listFlavors(false) }},
	{pattern: "GET /flavors/detail", query: flavorQuery, handle: func(c *call) error { return c.listFlavors(true) }},
	{pattern: "POST /flavors", handle: (*call).createFlavor},
	{pattern: "GET /flavors/{id}", handle: (*call).showFlavor},
	{pattern: "PUT /flavors/{id}", from: 55, handle: (*call).updateFlavor},
	{pattern: "DELETE /flavors/{id}", handle: (*call).deleteFlavor},
	{pattern: "POST /flavors/{id}/action", handle: (*call).flavorAction},
	{pattern: "GET /flavors/{id}/os-flavor-access", handle: (*call).listFlavorAccess},
	{pattern: "GET /flavors/{id}/os-extra_specs", handle: (*call).listExtraSpecs},
	{pattern: "POST /flavors/{id}/os-extra_specs", handle: (*call).createExtraSpecs},
	{pattern: "GET /flavors/{id}/os-extra_specs/{key}", handle: (*call).showExtraSpec},
	{pattern: "PUT /flavors/{id}/os-extra_specs/{key}", handle: (*call).updateExtraSpec},
	{pattern: "DELETE /flavors/{id}/os-extra_specs/{key}", handle: (*call).deleteExtraSpec},
}

var flavorQuery = querySchema{strict: 75, parameters: slices.Concat(paging(0, false), plain("is_public", "minRam", "minDisk"), []parameter{
	{name: "sort_key", check: checkOneOf(sortedKeys(flavorSortKeys)...)}, {name: "sort_dir", check: checkOneOf("asc", "desc")},
})}

// flavorSortKeys are Nova's; those that order nothing are nil.
var flavorSortKeys = map[string]func(a, b *cloud.Flavor) int{
	"created_at":   func(a, b *cloud.Flavor) int { return a.Created.Compare(b.Created) },
	"description":  func(a, b *cloud.Flavor) int { return cmp.Compare(a.Description, b.Description) },
	"ephemeral_gb": func(a, b *cloud.Flavor) int { return a.EphemeralGiB - b.EphemeralGiB },
	"flavorid":     func(a, b *cloud.Flavor) int { return cmp.Compare(a.ID, b.ID) },
	"id":           func(a, b *cloud.Flavor) int { return a.Created.Compare(b.Created) },
	"memory_mb":    func(a, b *cloud.Flavor) int { return a.RAMMiB - b.RAMMiB },
	"name":         func(a, b *cloud.Flavor) int { return cmp.Compare(a.Name, b.Name) },
	"root_gb":      func(a, b *cloud.Flavor) int { return a.RootGiB - b.RootGiB },
	"rxtx_factor":  func(a, b *cloud.Flavor) int { return cmp.Compare(a.RxTxFactor, b.RxTxFactor) },
	"swap":         func(a, b *cloud.Flavor) int { return a.SwapMiB - b.SwapMiB },
	"vcpus":        func(a, b *cloud.Flavor) int { return a.VCPUs - b.VCPUs },
	"disabled":     nil, "is_public": nil, "updated_at": nil, "vcpu_weight": nil,
}

// seesFlavor reports whether the caller may use the flavor: public, granted to its project, or any for an administrator.
func (c *call) seesFlavor(f *cloud.Flavor) bool {
	return f.Public || c.admin() || slices.Contains(f.Access, c.r.Caller.Project)
}

// findFlavor returns a flavor the caller may know of.
func (c *call) findFlavor(id string) (*cloud.Flavor, error) {
	f, ok := store.Lookup(c.view, tables.Flavors, id)
	if !ok || !c.seesFlavor(f) {
		return nil, notFound("Flavor %s could not be found.", id)
	}
	return f, nil
}

func (c *call) flavorView(f *cloud.Flavor, detail bool) object {
	out := object{"id": f.ID, "name": f.Name, "links": c.r.SelfLinks(apiRoot, "/flavors/"+string(f.ID))}
	if c.since(55) {
		out["description"] = textOrNull(f.Description)
	}
	if !detail {
		return out
	}
	out["ram"], out["disk"], out["vcpus"], out["OS-FLV-EXT-DATA:ephemeral"] = f.RAMMiB, f.RootGiB, f.VCPUs, f.EphemeralGiB
	out["OS-FLV-DISABLED:disabled"], out["os-flavor-access:is_public"], out["rxtx_factor"] = f.Disabled, f.Public, rxtx(f.RxTxFactor)
	out["swap"] = any(f.SwapMiB)
	if f.SwapMiB == 0 && !c.since(75) {
		out["swap"] = ""
	}
	if c.since(61) {
		specs := f.ExtraSpecs
		if specs == nil {
			specs = map[string]string{}
		}
		out["extra_specs"] = specs
	}
	return out
}

// rxtx writes the factor with a decimal point, as Nova's floats are written.
func rxtx(f float64) json.RawMessage {
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return json.RawMessage(text)
}

func (c *call) listFlavors(detail bool) error {
	accepts, err := c.flavorFilter()
	if err != nil {
		return err
	}
	page, err := c.page()
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(store.All(c.view, tables.Flavors), func(f *cloud.Flavor) bool { return !accepts(f) })
	if compare := flavorSortKeys[c.query.get("sort_key")]; compare != nil {
		slices.SortStableFunc(all, compare)
	}
	if c.query.get("sort_dir") == "desc" {
		slices.Reverse(all)
	}
	some, more, err := openstack.Slice(all, page, func(f *cloud.Flavor) string { return string(f.ID) })
	if err != nil {
		return err
	}
	views := make([]object, len(some))
	for i, f := range some {
		views[i] = c.flavorView(f, detail)
	}
	out := object{"flavors": views}
	if more {
		out["flavors_links"] = c.nextLinks(pick(detail, "/flavors/detail", "/flavors"), string(some[len(some)-1].ID))
	}
	return c.ok(out)
}

// flavorFilter reads the query's filters. Only administrators choose between public and private.
func (c *call) flavorFilter() (func(*cloud.Flavor) bool, error) {
	minimum := map[string]int{}
	for _, name := range []string{"minRam", "minDisk"} {
		if c.query.has(name) {
			n, err := strconv.Atoi(c.query.get(name))
			if err != nil {
				return nil, invalid("Invalid %s filter [%s]", name, c.query.get(name))
			}
			minimum[name] = n
		}
	}
	scope := func(f *cloud.Flavor) bool { return f.Public || slices.Contains(f.Access, c.r.Caller.Project) }
	if text := c.query.get("is_public"); c.admin() && text != "" {
		public, ok := queryBoolean(text)
		switch {
		case strings.EqualFold(text, "none"):
			scope = func(*cloud.Flavor) bool { return true }
		case !ok:
			return nil, invalid("Invalid is_public filter [%s]", text)
		case !public:
			scope = func(f *cloud.Flavor) bool { return !f.Public }
		}
	}
	return func(f *cloud.Flavor) bool {
		return scope(f) && (c.admin() || !f.Disabled) && f.RAMMiB >= minimum["minRam"] && f.RootGiB >= minimum["minDisk"]
	}, nil
}

func (c *call) showFlavor() error {
	f, err := c.findFlavor(c.path("id"))
	if err != nil {
		return err
	}
	return c.ok(object{"flavor": c.flavorView(f, true)})
}

// flavorBody is the body of POST /flavors.
type flavorBody struct {
	Flavor struct {
		Name        displayName       `json:"name" api:"required"`
		ID          flavorID          `json:"id" api:"null"`
		RAM         positive          `json:"ram" api:"required"`
		VCPUs       positive          `json:"vcpus" api:"required"`
		Disk        natural           `json:"disk" api:"required"`
		Ephemeral   natural           `json:"OS-FLV-EXT-DATA:ephemeral"`
		Swap        natural           `json:"swap"`
		RxTx        *factor           `json:"rxtx_factor"`
		Public      *boolean          `json:"os-flavor-access:is_public"`
		Description flavorDescription `json:"description" api:"since=2.55"`
	} `json:"flavor" api:"required"`
}

// flavorID is a flavor's id, as text or number.
type flavorID string

const flavorIDExpression = `^(?! )[a-zA-Z0-9. _-]+(?<! )$`

var flavorIDChars = regexp.MustCompile(`^[a-zA-Z0-9. _-]+$`)

// BindJSON accepts what Nova's pattern does.
func (f *flavorID) BindJSON(v any) error {
	if n, ok := v.(json.Number); ok {
		*f = flavorID(n.String())
		return nil
	}
	s, ok := v.(string)
	switch n := utf8.RuneCountInString(s); {
	case !ok:
		return openstack.Mismatch(v, "string", "number", "null")
	case n < 1:
		return openstack.Refuse(v, "is too short")
	case n > nameLengthMax:
		return openstack.Refuse(v, "is too long")
	case !flavorIDChars.MatchString(s) || strings.TrimSpace(s) != s:
		return openstack.Refuse(v, "does not match '%s'", flavorIDExpression)
	}
	*f = flavorID(s)
	return nil
}

// factor is a number above zero, also as text.
type factor float64

// BindJSON accepts a number or its text.
func (f *factor) BindJSON(v any) error {
	text := ""
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return openstack.Mismatch(v, "number", "string")
	}
	x, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil:
		return openstack.Refuse(v, `does not match '^[0-9]+(\\.[0-9]+)?$'`)
	case x <= 0:
		return openstack.Refuse(json.Number(text), "is less than or equal to the minimum of 0")
	case x > 3.40282e+38:
		return openstack.Refuse(json.Number(text), "is greater than the maximum of 3.40282e+38")
	}
	*f = factor(x)
	return nil
}

// flavorDescription is a longer description.
type flavorDescription struct{ description }

const flavorDescriptionLengthMax = 65535

// BindJSON accepts printable text or null.
func (d *flavorDescription) BindJSON(v any) error {
	if s, ok := v.(string); ok && isPrintable(s) && utf8.RuneCountInString(s) <= flavorDescriptionLengthMax {
		d.set, d.text = true, s
		return nil
	}
	return d.description.BindJSON(v)
}

func (c *call) createFlavor() error {
	if err := c.mayAdmin("os-flavor-manage:create"); err != nil {
		return err
	}
	var body flavorBody
	if err := c.decode(&body); err != nil {
		return err
	}
	asked := &body.Flavor
	if asked.Ephemeral > 0 || asked.Swap > 0 {
		return invalid("Invalid input received: flavors with an ephemeral disk or swap are not supported")
	}
	f := cloud.Flavor{
		ID: cloud.FlavorID(asked.ID), Name: strings.TrimSpace(string(asked.Name)), VCPUs: int(asked.VCPUs), RAMMiB: int(asked.RAM), RootGiB: int(asked.Disk),
		RxTxFactor: 1, Public: true, Description: asked.Description.text, Created: c.now(),
	}
	if f.ID == "" {
		f.ID = cloud.FlavorID(newID())
	}
	if asked.RxTx != nil {
		f.RxTxFactor = float64(*asked.RxTx)
	}
	if asked.Public != nil {
		f.Public = bool(*asked.Public)
	}
	err := c.update(func(tx *store.Tx) error { return addFlavor(tx, f) })
	if err != nil {
		return err
	}
	return c.ok(object{"flavor": c.flavorView(&f, true)})
}

// addFlavor writes a new flavor unless its id or name is taken.
func addFlavor(tx *store.Tx, f cloud.Flavor) error {
	old, err := store.Peek(tx, tables.Flavors, f.ID)
	if err != nil {
		return err
	}
	if old != nil {
		return conflict("Flavor with ID %s already exists.", f.ID)
	}
	_, err = store.GetBy(tx, tables.Flavors, tables.ByName, f.Name)
	switch {
	case err == nil:
		return conflict("Flavor with name %s already exists.", f.Name)
	case !cloud.Is(err, cloud.KindNotFound):
		return err
	}
	return store.Create(tx, tables.Flavors, f.ID, f)
}

// changeFlavor changes a flavor in a transaction. Servers keep the flavor they were booted with.
func (c *call) changeFlavor(id cloud.FlavorID, change func(*cloud.Flavor) error) (*cloud.Flavor, error) {
	err := c.update(func(tx *store.Tx) error {
		f, err := store.Get(tx, tables.Flavors, id)
		if cloud.Is(err, cloud.KindNotFound) {
			return notFound("Flavor %s could not be found.", id)
		}
		if err != nil {
			return err
		}
		if err := change(&f); err != nil {
			return err
		}
		return store.Put(tx, tables.Flavors, id, f)
	})
	if err != nil {
		return nil, err
	}
	return c.findFlavor(string(id))
}

// flavorUpdateBody is the body of PUT /flavors/{id}.
type flavorUpdateBody struct {
	Flavor struct {
		Description flavorDescription `json:"description" api:"required"`
	} `json:"flavor" api:"required"`
}

func (c *call) updateFlavor() error {
	if err := c.mayAdmin("os-flavor-manage:update"); err != nil {
		return err
	}
	var body flavorUpdateBody
	if err := c.decode(&body); err != nil {
		return err
	}
	f, err := c.changeFlavor(cloud.FlavorID(c.path("id")), func(f *cloud.Flavor) error {
		f.Description = body.Flavor.Description.text
		return nil
	})
	if err != nil {
		return err
	}
	return c.ok(object{"flavor": c.flavorView(f, true)})
}

func (c *call) deleteFlavor() error {
	if err := c.mayAdmin("os-flavor-manage:delete"); err != nil {
		return err
	}
	id := c.path("id")
	err := c.update(func(tx *store.Tx) error {
		f, err := store.Peek(tx, tables.Flavors, id)
		if err != nil {
			return err
		}
		if f == nil {
			return notFound("Flavor %s could not be found.", id)
		}
		return store.Delete(tx, tables.Flavors, id)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// flavorActionBody is the body of the two flavor actions, of which one is given.
type flavorActionBody struct {
	Add    *flavorTenant `json:"addTenantAccess"`
	Remove *flavorTenant `json:"removeTenantAccess"`
}

type flavorTenant struct {
	Tenant string `json:"tenant" api:"required;len=1..255"`
}

// flavorAction grants or takes a project's access to a private flavor.
func (c *call) flavorAction() error {
	o, name, err := c.actionBody()
	if err != nil {
		return err
	}
	if name != "addTenantAccess" && name != "removeTenantAccess" {
		return invalid("There is no such action: %s", name)
	}
	if err := c.mayAdmin("os-flavor-access:" + pick(name == "addTenantAccess", "add_tenant_access", "remove_tenant_access")); err != nil {
		return err
	}
	var body flavorActionBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	id := cloud.FlavorID(c.path("id"))
	change := func(f *cloud.Flavor) error { return c.grantFlavor(f, cloud.ProjectID(body.Add.Tenant)) }
	if body.Add == nil {
		change = func(f *cloud.Flavor) error { return revokeFlavor(f, cloud.ProjectID(body.Remove.Tenant)) }
	}
	f, err := c.changeFlavor(id, change)
	if err != nil {
		return err
	}
	return c.ok(flavorAccess(f))
}

func (c *call) grantFlavor(f *cloud.Flavor, project cloud.ProjectID) error {
	if _, ok := store.Lookup(c.view, tables.Projects, project); !ok {
		return invalid("Project ID %s is not a valid project.", project)
	}
	switch {
	case f.Public && c.since(7):
		return conflict("Can not add access to a public flavor.")
	case slices.Contains(f.Access, project):
		return conflict("Flavor access already exists for flavor %s and project %s combination.", f.ID, project)
	}
	f.Access = append(slices.Clone(f.Access), project)
	return nil
}

func revokeFlavor(f *cloud.Flavor, project cloud.ProjectID) error {
	if !slices.Contains(f.Access, project) {
		return notFound("Flavor access not found for %s / %s combination.", f.ID, project)
	}
	f.Access = slices.DeleteFunc(slices.Clone(f.Access), func(p cloud.ProjectID) bool { return p == project })
	return nil
}

func flavorAccess(f *cloud.Flavor) object {
	out := make([]object, len(f.Access))
	for i, p := range f.Access {
		out[i] = object{"flavor_id": f.ID, "tenant_id": p}
	}
	return object{"flavor_access": out}
}

func (c *call) listFlavorAccess() error {
	if err := c.mayAdmin("os-flavor-access"); err != nil {
		return err
	}
	f, err := c.findFlavor(c.path("id"))
	if err != nil {
		return err
	}
	if f.Public {
		return notFound("Access list not available for public flavors.")
	}
	return c.ok(flavorAccess(f))
}
