package identity

import (
	"context"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A session is what a token means now: its claims with the records they name, from one view of the replica.
type session struct {
	claims *claims
	user   *cloud.User
	// At most one of project, domain and claims.System is set.
	project *cloud.Project
	domain  *cloud.Domain
	// roles are all roles in the scope, implied ones included, sorted by name. Empty only for an unscoped token.
	roles   []*cloud.Role
	appCred *cloud.AppCredential // when the token came from one
}

// Authenticate implements openstack.Authenticator.
func (s *Service) Authenticate(_ context.Context, token string) (*openstack.Caller, error) {
	c, err := s.verify(token)
	if err != nil {
		return nil, err
	}
	in, err := openSession(s.store.View(), c, time.Now())
	if err != nil {
		return nil, err
	}
	return in.caller(), nil
}

// openSession looks up what the claims name, and refuses (cloud.KindUnauthenticated) what has expired, was revoked or disabled, or has lost
// every role in its scope.
func openSession(v store.View, c *claims, now time.Time) (*session, error) {
	if !now.Before(c.expires()) {
		return nil, errToken
	}
	if _, revoked := store.Lookup(v, tables.Revocations, c.auditID()); revoked {
		return nil, errToken
	}
	user, ok := liveUser(v, c.User)
	if !ok || c.issued().Before(user.TokensAfter) {
		return nil, errToken
	}
	in := &session{claims: c, user: user}
	if c.AppCred != "" {
		if in.appCred, ok = liveAppCredential(v, c.AppCred, now); !ok || in.appCred.User != user.ID {
			return nil, errToken
		}
	}
	if !in.enterScope(v) {
		return nil, errToken
	}
	return in, nil
}

// enterScope fills in the scope's record and roles, or reports that the scope is closed to the user.
func (in *session) enterScope(v store.View) bool {
	c, ok := in.claims, true
	scope := cloud.Assignment{User: c.User, Project: c.Project, Domain: c.Domain, System: c.System != ""}
	switch {
	case c.Project != "":
		in.project, ok = liveProject(v, c.Project)
	case c.Domain != "":
		in.domain, ok = liveDomain(v, c.Domain)
	case c.System == "":
		return true // unscoped
	}
	if !ok {
		return false
	}
	direct := assigned(v, scope)
	if in.appCred != nil {
		direct = slices.DeleteFunc(withImplied(v, direct), func(r *cloud.Role) bool { return !slices.Contains(in.appCred.Roles, r.ID) })
	}
	in.roles = withImplied(v, direct)
	return len(in.roles) > 0
}

func liveDomain(r store.Reader, id cloud.DomainID) (*cloud.Domain, bool) {
	d, ok := store.Lookup(r, tables.Domains, id)
	return d, ok && d.Enabled
}

func liveUser(r store.Reader, id cloud.UserID) (*cloud.User, bool) {
	u, ok := store.Lookup(r, tables.Users, id)
	if !ok || !u.Enabled {
		return nil, false
	}
	_, ok = liveDomain(r, u.Domain)
	return u, ok
}

func liveProject(r store.Reader, id cloud.ProjectID) (*cloud.Project, bool) {
	p, ok := store.Lookup(r, tables.Projects, id)
	if !ok || !p.Enabled {
		return nil, false
	}
	_, ok = liveDomain(r, p.Domain)
	return p, ok
}

func liveAppCredential(r store.Reader, id string, now time.Time) (*cloud.AppCredential, bool) {
	a, ok := store.Lookup(r, tables.AppCredentials, id)
	return a, ok && (a.Expires.IsZero() || now.Before(a.Expires))
}

// assigned returns the roles granted directly to scope.User on the scope's project, domain or the system.
func assigned(r store.Reader, scope cloud.Assignment) []*cloud.Role {
	scope.Role = ""
	var out []*cloud.Role
	for _, a := range store.Prefixed(r, tables.Assignments, tables.AssignmentKey(scope)) {
		if role, ok := store.Lookup(r, tables.Roles, a.Role); ok {
			out = append(out, role)
		}
	}
	return out
}

// withImplied returns the roles with those they imply, sorted by name, each once.
func withImplied(r store.Reader, roles []*cloud.Role) []*cloud.Role {
	out := slices.Clone(roles)
	for _, role := range roles {
		for _, name := range openstack.Implied(role.Name) {
			if lesser, ok := store.One(r, tables.Roles, tables.ByName, name); ok {
				out = append(out, lesser)
			}
		}
	}
	slices.SortFunc(out, func(a, b *cloud.Role) int { return compareText(a.Name, b.Name, string(a.ID), string(b.ID)) })
	return slices.CompactFunc(out, func(a, b *cloud.Role) bool { return a.ID == b.ID })
}

// caller is the session as the other dialects see it.
func (in *session) caller() *openstack.Caller {
	c := &openstack.Caller{
		User: in.user.ID, UserName: in.user.Name, UserDomain: in.user.Domain,
		System: in.claims.System != "", AuditID: in.claims.auditID(), Issued: in.claims.issued(), Expires: in.claims.expires(),
	}
	if in.project != nil {
		c.Project, c.ProjectName, c.ProjectDomain = in.project.ID, in.project.Name, in.project.Domain
	}
	if in.domain != nil {
		c.Domain = in.domain.ID
	}
	if in.appCred != nil {
		c.AppCredential, c.Restricted = in.appCred.ID, !in.appCred.Unrestricted
	}
	c.Roles = make([]string, len(in.roles))
	for i, r := range in.roles {
		c.Roles[i] = r.Name
	}
	return c
}
