package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Orders in which identity records are found besides the common ones.
const (
	ByDomain     = "domain"
	ByDomainName = "domain-name" // unique: domain, "/", name
	ByRole       = "role"
	ByUserName   = "user-name" // unique: user, "/", name
	ByExpires    = "expires"
)

// Domains holds Keystone domains, by id. Written by the edge.
var Domains = store.NewTable("domains",
	store.Unique(ByName, func(d *cloud.Domain) []string { return one(d.Name) }),
)

// Projects holds projects, by id. Written by the edge.
var Projects = store.NewTable("projects",
	store.Index(ByDomain, func(p *cloud.Project) []string { return one(p.Domain) }),
	store.Index(ByName, func(p *cloud.Project) []string { return one(p.Name) }),
	store.Unique(ByDomainName, func(p *cloud.Project) []string { return []string{DomainName(p.Domain, p.Name)} }),
)

// Users holds users, by id. Written by the edge.
var Users = store.NewTable("users",
	store.Index(ByDomain, func(u *cloud.User) []string { return one(u.Domain) }),
	store.Index(ByName, func(u *cloud.User) []string { return one(u.Name) }),
	store.Unique(ByDomainName, func(u *cloud.User) []string { return []string{DomainName(u.Domain, u.Name)} }),
)

// DomainName is the value under which ByDomainName finds a project or a user.
func DomainName(domain cloud.DomainID, name string) string { return string(domain) + "/" + name }

// Roles holds roles, by id. Written by the edge.
var Roles = store.NewTable("roles",
	store.Unique(ByName, func(r *cloud.Role) []string { return one(r.Name) }),
)

// Assignments grants roles, by AssignmentKey. Written by the edge.
var Assignments = store.NewTable("assignments",
	store.Index(ByUser, func(a *cloud.Assignment) []string { return one(a.User) }),
	store.Index(ByProject, func(a *cloud.Assignment) []string { return one(a.Project) }),
	store.Index(ByDomain, func(a *cloud.Assignment) []string { return one(a.Domain) }),
	store.Index(ByRole, func(a *cloud.Assignment) []string { return one(a.Role) }),
)

// AssignmentKey is the key of an assignment: user, scope, role, so that a prefix lists a user's and a user's on one scope.
func AssignmentKey(a cloud.Assignment) string {
	scope := "system"
	switch {
	case a.Project != "":
		scope = "project-" + string(a.Project)
	case a.Domain != "":
		scope = "domain-" + string(a.Domain)
	}
	return string(a.User) + "/" + scope + "/" + string(a.Role)
}

// AppCredentials holds application credentials, by id. Written by the edge.
var AppCredentials = store.NewTable("app-credentials",
	store.Index(ByUser, func(c *cloud.AppCredential) []string { return one(c.User) }),
	store.Unique(ByUserName, func(c *cloud.AppCredential) []string { return []string{string(c.User) + "/" + c.Name} }),
)

// Revocations voids tokens, by audit id. Written by the edge, pruned when they would have expired anyway.
var Revocations = store.NewTable("revocations",
	store.Index(ByExpires, func(r *cloud.Revocation) []string { return []string{SortTime(r.Expires)} }),
)

// SigningKeys holds the keys that sign tokens, by id. Written by the edge.
var SigningKeys = store.NewTable[cloud.SigningKey]("signing-keys")
