package openstack

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// The roles every cloud has. Admin implies member, member implies reader.
const (
	RoleAdmin  = "admin"
	RoleMember = "member"
	RoleReader = "reader"
)

// implied lists for each role the roles it brings along, itself excluded.
var implied = map[string][]string{RoleAdmin: {RoleMember, RoleReader}, RoleMember: {RoleReader}}

// Implied returns the roles that holding role brings along, itself excluded.
func Implied(role string) []string { return slices.Clone(implied[role]) }

// An Authenticator turns the text of an X-Auth-Token header into who is calling. It is asked for every request, so it must be cheap, and it
// must know of revocations. An unknown, expired or revoked token is cloud.KindUnauthenticated.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (*Caller, error)
}

// A Caller is who makes a request, with the scope and the rights the token gives. It is immutable and may be shared between requests.
type Caller struct {
	User       cloud.UserID
	UserName   string
	UserDomain cloud.DomainID

	// At most one of Project, Domain and System is set; none for an unscoped token.
	Project       cloud.ProjectID
	ProjectName   string
	ProjectDomain cloud.DomainID
	Domain        cloud.DomainID
	System        bool

	// Roles are the names of all roles in this scope, implied ones included, sorted.
	Roles []string
	// AppCredential is the id of the application credential the token came from, and Restricted whether that one may not manage credentials.
	AppCredential string
	Restricted    bool

	AuditID string
	Issued  time.Time
	Expires time.Time
}

// Has reports whether the caller has the role in its scope, directly or implied.
func (c *Caller) Has(role string) bool { return slices.Contains(c.Roles, role) }

// IsAdmin reports whether the caller administers the cloud: the admin role in any scope, as Nova's and Keystone's default policies have it.
func (c *Caller) IsAdmin() bool { return c.Has(RoleAdmin) }

// Owns reports whether the caller's scope is that project.
func (c *Caller) Owns(p cloud.ProjectID) bool { return c.Project != "" && c.Project == p }

// Sees reports whether the caller may know of things that belong to the project: its own, or any for an administrator.
func (c *Caller) Sees(p cloud.ProjectID) bool { return c.Owns(p) || c.IsAdmin() }

// Require returns nil when the caller has the role, else cloud.KindForbidden in the dialect's words about the policy rule
// ("os_compute_api:os-migrate-server:migrate_live").
func (c *Caller) Require(role, rule string) error {
	if c.Has(role) {
		return nil
	}
	return Forbid(rule)
}

// RequireAdmin is Require of the admin role.
func (c *Caller) RequireAdmin(rule string) error { return c.Require(RoleAdmin, rule) }

// RequireProject returns nil when the token is scoped to a project and has the role there, else cloud.KindForbidden.
func (c *Caller) RequireProject(role, rule string) error {
	if c.Project == "" {
		return Forbid(rule)
	}
	return c.Require(role, rule)
}

// A PolicyError says that a policy rule refused the caller. Each dialect has its own words for it.
type PolicyError struct{ Rule string }

// Error returns Nova's words.
func (e *PolicyError) Error() string {
	return fmt.Sprintf("Policy doesn't allow %s to be performed.", e.Rule)
}

// Forbid returns the cloud.KindForbidden error of a policy rule.
func Forbid(rule string) error { return cloud.E(cloud.KindForbidden, "", "", &PolicyError{rule}) }

// ExpandRoles returns the names with all that they imply, sorted, each once.
func ExpandRoles(names []string) []string {
	out := slices.Clone(names)
	for _, n := range names {
		out = append(out, implied[n]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
