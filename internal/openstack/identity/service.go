package identity

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// DomainDefault is the id of the domain every cloud has.
const DomainDefault cloud.DomainID = "default"

// TokenLifetimeDefault is Keystone's default.
const TokenLifetimeDefault = time.Hour

// Options configure the service.
type Options struct {
	// Region is the name of the one region the catalog shows. Empty means RegionOne.
	Region string
	// TokenLifetime is how long a token is good for. Zero means TokenLifetimeDefault.
	TokenLifetime time.Duration
	// Services are the catalog. Nil means Catalog().
	Services []CatalogService
	// Logger receives what Maintain does and refused log-ins. Nil means slog.Default.
	Logger *slog.Logger
}

// RegionDefault is the region's name when nobody gives another, the same as devstack's.
const RegionDefault = "RegionOne"

// Service is the identity dialect and the Authenticator of all others. It is safe for concurrent use.
type Service struct {
	store    *store.Store
	options  Options
	keys     *keyring
	verified *verified
	hashes   *hashGate
	throttle *throttle
}

// New returns the service on a store that has the identity tables. It does no I/O; a fresh cloud needs Bootstrap once.
func New(s *store.Store, o Options) *Service {
	if o.Region == "" {
		o.Region = RegionDefault
	}
	if o.TokenLifetime == 0 {
		o.TokenLifetime = TokenLifetimeDefault
	}
	if o.Services == nil {
		o.Services = Catalog()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Service{store: s, options: o, keys: &keyring{store: s}, verified: newVerified(verifiedMax), hashes: newHashGate(), throttle: newThrottle()}
}

// Mount adds the routes below /identity.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(openstack.Keystone)
	rt.HandlePublic("GET /{$}", s.versions)
	rt.HandlePublic("GET /v3", s.version)
	s.mountAuth(rt)
	s.mountProjects(rt)
	s.mountUsers(rt)
	s.mountRoles(rt)
	s.mountAssignments(rt)
	s.mountDomains(rt)
	s.mountAppCredentials(rt)
	s.mountCatalog(rt)
}

// maintainEvery is how often Maintain looks: often enough that the revocation list stays short, seldom enough to be free.
const maintainEvery = 5 * time.Minute

// Maintain rotates signing keys and prunes revocations until ctx ends. Any number of servers may run it at once.
func (s *Service) Maintain(ctx context.Context) error {
	tick := time.NewTicker(maintainEvery)
	defer tick.Stop()
	for {
		if err := s.maintain(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.options.Logger.Warn("identity: upkeep failed, will try again", "error", err, "after", maintainEvery)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) maintain(ctx context.Context, now time.Time) error {
	if err := s.keys.rotate(ctx, now, s.options.TokenLifetime); err != nil {
		return err
	}
	return s.pruneRevocations(ctx, now)
}

// pruneBatch bounds one transaction of a bulk removal: each removal is a compare and up to four operations of etcd's 128.
const pruneBatch = 25

// pruneRevocations removes revocations of tokens that have expired.
func (s *Service) pruneRevocations(ctx context.Context, now time.Time) error {
	var gone []string
	limit := tables.SortTime(now)
	for at, r := range store.Ascend(s.store, tables.Revocations, tables.ByExpires, store.Cursor{}) {
		if at.Value >= limit {
			break
		}
		gone = append(gone, r.AuditID)
	}
	return deleteAll(ctx, s.store, tables.Revocations, gone)
}

// deleteAll removes the records in batches.
func deleteAll[T any](ctx context.Context, s *store.Store, t store.Table[T], keys []string) error {
	for len(keys) > 0 {
		n := min(len(keys), pruneBatch)
		if _, err := s.UpdateVisible(ctx, func(tx *store.Tx) error {
			for _, k := range keys[:n] {
				if err := store.Delete(tx, t, k); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// newID returns an identifier as Keystone makes them: 32 hexadecimal digits.
func newID() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }
