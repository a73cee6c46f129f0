package volume

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Options are what the service needs.
type Options struct {
	// Store is where everything is read and written.
	Store *store.Store
	// Logger receives what is neither an answer nor an access log line. Nil means slog.Default.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service is the volume API. It holds no state of its own and is safe for concurrent use.
type Service struct {
	store  *store.Store
	logger *slog.Logger
	now    func() time.Time
}

// New returns the service; mount it with openstack.API.Mount.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = func() time.Time { return time.Now().UTC() }
	}
	return &Service{store: o.Store, logger: o.Logger, now: o.Now}
}

// Bootstrap gives a store without volume types the default one. It is idempotent.
func Bootstrap(ctx context.Context, s *store.Store, now time.Time) error {
	_, err := s.UpdateVisible(ctx, func(tx *store.Tx) error {
		if _, err := store.GetBy(tx, tables.VolumeTypes, tables.ByName, cloud.DefaultVolumeType); !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		t := cloud.VolumeType{
			ID: cloud.VolumeTypeID(uuid.NewString()), Name: cloud.DefaultVolumeType, Description: "Default Volume Type", Public: true, Created: now, Updated: now,
		}
		return store.Create(tx, tables.VolumeTypes, t.ID, t)
	})
	return err
}

// A call is one request on its way through a handler: the request, the snapshot it is answered from, and its microversion.
type call struct {
	*Service
	w     http.ResponseWriter
	r     *openstack.Request
	view  store.View
	minor int
}

// since reports whether the request's microversion is 3.minor or later.
func (c *call) since(minor int) bool { return c.minor >= minor }

// path returns a wildcard of the route.
func (c *call) path(name string) string { return c.r.PathValue(name) }

// query returns a query parameter, "" when it is absent.
func (c *call) query(name string) string { return c.r.URL.Query().Get(name) }

func (c *call) admin() bool { return c.r.Caller.IsAdmin() }

const (
	reader = openstack.RoleReader
	member = openstack.RoleMember
)

// may returns nil when the caller has the role in a project (an administrator always may), else a refusal that names the rule.
func (c *call) may(role, rule string) error {
	if c.admin() {
		return nil
	}
	return c.r.Caller.RequireProject(role, rule)
}

// mayAdmin is may for administrators only.
func (c *call) mayAdmin(rule string) error { return c.r.Caller.RequireAdmin(rule) }

// reply answers with the status and a body.
func (c *call) reply(status int, body any) error { return openstack.WriteJSON(c.w, status, body) }

// ok answers 200 with a body.
func (c *call) ok(body any) error { return c.reply(http.StatusOK, body) }

// status answers without a body.
func (c *call) status(code int) error {
	c.w.WriteHeader(code)
	return nil
}

// accepted answers 202 without a body.
func (c *call) accepted() error { return c.status(http.StatusAccepted) }

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

// newIntent makes an intent on the caller's behalf; its id is made before the transaction, so that one that runs again writes the same
// record.
func (c *call) newIntent(kind cloud.IntentKind) cloud.Intent {
	return cloud.Intent{
		ID: cloud.IntentID(newID()), Kind: kind, RequestID: c.r.ID, Project: c.r.Caller.Project, User: c.r.Caller.User, Created: c.now(),
	}
}

func invalid(format string, args ...any) error {
	return cloud.Errorf(cloud.KindInvalid, format, args...)
}

func invalidInput(format string, args ...any) error {
	return invalid("Invalid input received: "+format, args...)
}

func invalidVolume(format string, args ...any) error {
	return invalid("Invalid volume: "+format, args...)
}

func notFound(format string, args ...any) error {
	return cloud.Errorf(cloud.KindNotFound, format, args...)
}

func conflict(format string, args ...any) error {
	return cloud.Errorf(cloud.KindConflict, format, args...)
}

func unsupported(format string, args ...any) error {
	return openstack.Fail(http.StatusNotImplemented, format, args...)
}

func newID() string { return uuid.NewString() }

// object is a small answer on its way to JSON.
type object = map[string]any

// orNull returns nil, JSON's null, for an empty text.
func orNull[S ~string](s S) any {
	if s == "" {
		return nil
	}
	return string(s)
}

// texts is m, or an empty object instead of null.
func texts(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// parseBoolean reads a boolean from a query or a body as Cinder's strutils.bool_from_string(strict=True) does.
func parseBoolean(s string) (value, ok bool) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "1", "t", "true", "on", "y", "yes":
		return true, true
	case "0", "f", "false", "off", "n", "no":
		return false, true
	}
	return false, false
}

// flag reads a boolean query parameter that is false when absent.
func (c *call) flag(name string) (bool, error) {
	text := c.query(name)
	if text == "" {
		return false, nil
	}
	value, ok := parseBoolean(text)
	if !ok {
		return false, invalidInput("%s=%s.", name, text)
	}
	return value, nil
}
