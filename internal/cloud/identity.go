package cloud

import "time"

// Domain is a Keystone domain. There is one, "default", unless operators add more.
type Domain struct {
	ID          DomainID  `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Enabled     bool      `json:"enabled"`
	Created     time.Time `json:"created"`
}

// Project owns servers, images and networks.
type Project struct {
	ID          ProjectID         `json:"id"`
	Domain      DomainID          `json:"domain"`
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Enabled     bool              `json:"enabled"`
	Tags        []string          `json:"tags,omitempty"`
	Extra       map[string]string `json:"extra,omitempty"`
	Created     time.Time         `json:"created"`
}

// User is somebody who can ask for tokens. PasswordHash is argon2id or bcrypt in its standard text form.
type User struct {
	ID             UserID    `json:"id"`
	Domain         DomainID  `json:"domain"`
	Name           string    `json:"name"`
	Email          string    `json:"email,omitempty"`
	Description    string    `json:"description,omitempty"`
	Enabled        bool      `json:"enabled"`
	PasswordHash   string    `json:"password_hash"`
	DefaultProject ProjectID `json:"default_project,omitempty"`
	TokensAfter    time.Time `json:"tokens_after"` // tokens issued before this are void (password change, disable)
	Created        time.Time `json:"created"`
}

// Role is a named right: admin, member or reader, where admin implies member implies reader.
type Role struct {
	ID          RoleID `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

// Assignment grants a role to a user on a project, a domain or (Scope "system") everywhere.
type Assignment struct {
	User    UserID    `json:"user"`
	Role    RoleID    `json:"role"`
	Project ProjectID `json:"project,omitempty"`
	Domain  DomainID  `json:"domain,omitempty"`
	System  bool      `json:"system,omitempty"`
}

// AppCredential lets a program act as a user on one project with a subset of the user's roles.
type AppCredential struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Description  string    `json:"description,omitempty"`
	User         UserID    `json:"user"`
	Project      ProjectID `json:"project"`
	Roles        []RoleID  `json:"roles"`
	SecretHash   string    `json:"secret_hash"`
	Unrestricted bool      `json:"unrestricted"`
	Expires      time.Time `json:"expires,omitzero"`
	Created      time.Time `json:"created"`
}

// Revocation voids one token until it would have expired anyway.
type Revocation struct {
	AuditID string    `json:"audit_id"`
	Expires time.Time `json:"expires"`
}

// SigningKey signs tokens. The newest signs; all that have not expired verify.
type SigningKey struct {
	ID      string    `json:"id"`
	Private []byte    `json:"private"` // PKCS #8
	Created time.Time `json:"created"`
}

// Keypair is a user's SSH public key. Key in the store: user "/" name.
type Keypair struct {
	Name        string    `json:"name"`
	User        UserID    `json:"user"`
	Number      int       `json:"number"`
	Type        string    `json:"type"` // ssh, x509
	PublicKey   string    `json:"public_key"`
	Fingerprint string    `json:"fingerprint"`
	Created     time.Time `json:"created"`
}

// Quota is a project's limits; -1 means unlimited.
type Quota struct {
	Project            ProjectID `json:"project"`
	Instances          int       `json:"instances"`
	Cores              int       `json:"cores"`
	RAMMiB             int       `json:"ram_mib"`
	KeyPairs           int       `json:"key_pairs"`
	MetadataItems      int       `json:"metadata_items"`
	ServerGroups       int       `json:"server_groups"`
	ServerGroupMembers int       `json:"server_group_members"`
}

// DefaultQuota is Nova's default quota.
func DefaultQuota(p ProjectID) Quota {
	return Quota{Project: p, Instances: 10, Cores: 20, RAMMiB: 51200, KeyPairs: 100, MetadataItems: 128, ServerGroups: 10, ServerGroupMembers: 10}
}

// QuotaUsage counts what a project has, in one record so that two boots cannot both take the last of it.
type QuotaUsage struct {
	Project   ProjectID `json:"project"`
	Instances int       `json:"instances"`
	Cores     int       `json:"cores"`
	RAMMiB    int       `json:"ram_mib"`
}
