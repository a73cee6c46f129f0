package network

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
)

// MTUDefault is what remains of an Ethernet frame of 1500 bytes under VXLAN over IPv4.
const MTUDefault = 1450

// Options are what the service needs.
type Options struct {
	// Store is where everything is read and written.
	Store *store.Store
	// MTUMax is the greatest MTU a network may have, and the default. Zero means MTUDefault.
	MTUMax int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service is the network API. It holds no state of its own and is safe for concurrent use.
type Service struct {
	store  *store.Store
	mtuMax int
	now    func() time.Time
}

// New returns the service; mount it with openstack.API.Mount.
func New(o Options) *Service {
	if o.MTUMax == 0 {
		o.MTUMax = MTUDefault
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{store: o.Store, mtuMax: o.MTUMax, now: o.Now}
}

// A route is one method and path below /v2.0, and the role it takes in any scope.
type route struct {
	pattern string
	role    string
	handle  func(*call) error
}

// Mount adds the API's routes.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(openstack.Neutron)
	rt.HandlePublic("GET /{$}", s.versions)
	rt.Handle("GET /v2.0/{$}", s.resources)
	for _, group := range [][]route{networkRoutes, subnetRoutes, portRoutes, groupRoutes, ruleRoutes, tagRoutes(), smallRoutes, absentRoutes()} {
		for _, one := range group {
			method, path, _ := strings.Cut(one.pattern, " ")
			rt.Handle(method+" /v2.0"+path, s.serve(one))
		}
	}
}

// serve makes a route a handler.
func (s *Service) serve(one route) openstack.Handler {
	return func(w http.ResponseWriter, r *openstack.Request) error {
		if err := r.Caller.Require(one.role, policyName(one.pattern)); err != nil {
			return err
		}
		c := &call{Service: s, w: w, r: r, view: s.store.View()}
		return named(one.handle(c))
	}
}

// policyName returns Neutron's name of the rule for a route, "create_port" or "get_networks".
func policyName(pattern string) string {
	method, path, _ := strings.Cut(pattern, " ")
	verb := map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodDelete: "delete"}[method]
	noun, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	noun = strings.ReplaceAll(noun, "-", "_")
	if method != http.MethodGet || strings.Contains(path, "{id}") {
		noun = strings.TrimSuffix(noun, "s")
	}
	return verb + "_" + noun
}

// named gives an error that carries an ipam.Refusal the form in which the dialect shows Neutron's exception class.
func named(err error) error {
	var refusal *ipam.Refusal
	if err == nil || !errors.As(err, &refusal) {
		return err
	}
	return cloud.E(cloud.KindOf(err), "", "", &openstack.NeutronError{Type: refusal.Type, Message: refusal.Message})
}

// A call is one request on its way through a handler: the request and the snapshot it is answered from.
type call struct {
	*Service
	w    http.ResponseWriter
	r    *openstack.Request
	view store.View
}

func (c *call) admin() bool              { return c.r.Caller.IsAdmin() }
func (c *call) project() cloud.ProjectID { return c.r.Caller.Project }
func (c *call) id() string               { return c.r.PathValue("id") }

// object is a resource, or an answer around one, on its way to JSON.
type object = map[string]any

func (c *call) reply(status int, name string, v any) error {
	return openstack.WriteJSON(c.w, status, object{name: v})
}

// update runs fn in a transaction and returns when this process's reads show the result. The call's own view is renewed.
func (c *call) update(fn func(tx *store.Tx) error) error {
	if _, err := c.store.UpdateVisible(c.r.Context(), fn); err != nil {
		return err
	}
	c.view = c.store.View()
	return nil
}

// matches returns an error when the request's If-Match header names another revision than the record has.
func (c *call) matches(revision int) error {
	want := c.r.Header.Get("If-Match")
	if want == "" || want == fmt.Sprintf("revision_number=%d", revision) {
		return nil
	}
	text := "Constrained to " + want + ", but current revision is " + fmt.Sprint(revision)
	return errors.Join(openstack.Fail(http.StatusPreconditionFailed, "%s", text), &openstack.NeutronError{Type: "RevisionNumberConstraintFailed", Message: text})
}

func invalid(format string, args ...any) error {
	return ipam.Refuse(cloud.KindInvalid, "InvalidInput", "Invalid input for operation: "+format+".", args...)
}

// owner returns the project a new resource belongs to: the caller's, or the one an administrator names.
func (c *call) owner(named, alias *cloud.ProjectID, rule string) (cloud.ProjectID, error) {
	if named != nil && alias != nil && *named != *alias {
		return "", invalid("'project_id' and 'tenant_id' differ")
	}
	asked := c.project()
	switch {
	case named != nil && *named != "":
		asked = *named
	case alias != nil && *alias != "":
		asked = *alias
	}
	if asked != c.project() && !c.admin() {
		return "", openstack.Forbid(rule + ":tenant_id")
	}
	if asked == "" {
		return "", invalid("the token is not scoped to a project, so 'project_id' is required")
	}
	return asked, nil
}

// nullable is an optional text for which null means something else than absence.
type nullable struct {
	Set  bool
	Text string // empty for null
}

// BindJSON takes a string or null.
func (n *nullable) BindJSON(v any) error {
	n.Set = true
	if v == nil {
		return nil
	}
	text, ok := v.(string)
	if !ok {
		return openstack.Mismatch(v, "string", "null")
	}
	n.Text = text
	return nil
}

// absent is an attribute that may be named but not be set, because its meaning is not carried out: null, false and empty are accepted.
type absent struct{}

// BindJSON refuses every value that asks for something.
func (*absent) BindJSON(v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case bool:
		if !v {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	case []any:
		if len(v) == 0 {
			return nil
		}
	case *openstack.Object:
		if len(v.Names) == 0 {
			return nil
		}
	}
	return openstack.Refuse(v, "is not supported for this attribute")
}

func set[T any](into *T, given *T) {
	if given != nil {
		*into = *given
	}
}

// emptyIfNil makes an absent list an empty one in JSON.
func emptyIfNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// nilIfEmpty makes an absent text null in JSON.
func nilIfEmpty[S ~string](s S) any {
	if s == "" {
		return nil
	}
	return s
}
