package compute

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/spare"
	"github.com/godwit-cloud/godwit/internal/store"
)

// ConsoleReader fetches the end of a server's serial console from the host it lives on. It is the only way from this package to a host.
type ConsoleReader interface {
	// ReadConsole returns the last lines of the console log, all that is kept when lines is 0 or less. A host that cannot be reached is
	// cloud.KindUnavailable, a server without a console cloud.KindNotFound.
	ReadConsole(ctx context.Context, host cloud.HostName, server cloud.ServerID, lines int) ([]byte, error)
}

// Options are what the service needs.
type Options struct {
	// Store is where everything is read and written.
	Store *store.Store
	// Console reads consoles. Nil answers os-getConsoleOutput with 501.
	Console ConsoleReader
	// Policy is placement's; it must be the one the flows use. The zero value means placement.DefaultPolicy.
	Policy placement.Policy
	// ResizeToSameHost lets placement leave a server that is resized where it is.
	ResizeToSameHost bool
	// Spare says what is judged before a server is booted, resized or moved; the zero value judges nothing. SpareRefuse refuses what leaves more servers
	// without room than before, instead of warning.
	Spare       spare.Policy
	SpareRefuse bool
	// Logger receives what is neither an answer nor an access log line. Nil means slog.Default.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service is the compute API. It holds no state of its own and is safe for concurrent use.
type Service struct {
	store   *store.Store
	console ConsoleReader
	policy  placement.Policy
	// resizeToSameHost is Options.ResizeToSameHost.
	resizeToSameHost bool
	spare            spare.Policy
	spareRefuse      bool
	logger           *slog.Logger
	now              func() time.Time
}

// New returns the service; mount it with openstack.API.Mount.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Policy == (placement.Policy{}) {
		o.Policy = placement.DefaultPolicy()
	}
	return &Service{store: o.Store, console: o.Console, policy: o.Policy, resizeToSameHost: o.ResizeToSameHost,
		spare: o.Spare, spareRefuse: o.SpareRefuse, logger: o.Logger, now: o.Now}
}

// A call is one request on its way through a handler: the request, the snapshot it is answered from, and its microversion.
type call struct {
	*Service
	w     http.ResponseWriter
	r     *openstack.Request
	view  store.View
	minor int
	query parameters
}

// since reports whether the request's microversion is 2.minor or later.
func (c *call) since(minor int) bool { return c.minor >= minor }

// path returns a wildcard of the route.
func (c *call) path(name string) string { return c.r.PathValue(name) }

func (c *call) admin() bool { return c.r.Caller.IsAdmin() }

// Rules of who may do what. Nova's names for them are what a refusal shows.
const (
	reader = openstack.RoleReader
	member = openstack.RoleMember
)

// may returns nil when the caller has the role in a project (an administrator always may), else a refusal that names the rule.
func (c *call) may(role, rule string) error {
	if c.admin() {
		return nil
	}
	return c.r.Caller.RequireProject(role, "os_compute_api:"+rule)
}

// mayAdmin is may for administrators only.
func (c *call) mayAdmin(rule string) error { return c.r.Caller.RequireAdmin("os_compute_api:" + rule) }

// reply answers with the status and a body.
func (c *call) reply(status int, body any) error { return openstack.WriteJSON(c.w, status, body) }

// ok answers 200 with a body.
func (c *call) ok(body any) error { return c.reply(http.StatusOK, body) }

// status answers without a body.
func (c *call) status(code int) error {
	c.w.WriteHeader(code)
	return nil
}

// decode binds the body to the struct into points to.
func (c *call) decode(into any) error { return c.r.Decode(c.w, into) }

// update runs fn in a transaction and returns when this process's reads show the result. The call's own view is renewed.
func (c *call) update(fn func(tx *store.Tx) error) error {
	if _, err := c.store.UpdateVisible(c.r.Context(), fn); err != nil {
		return err
	}
	c.view = c.store.View()
	return nil
}

func invalid(format string, args ...any) error {
	return cloud.Errorf(cloud.KindInvalid, format, args...)
}

func notFound(format string, args ...any) error {
	return cloud.Errorf(cloud.KindNotFound, format, args...)
}

func conflict(format string, args ...any) error {
	return cloud.Errorf(cloud.KindConflict, format, args...)
}

func overQuota(format string, args ...any) error {
	return cloud.Errorf(cloud.KindQuota, format, args...)
}

func newID() string { return uuid.NewString() }

// object is a small answer on its way to JSON.
type object = map[string]any
