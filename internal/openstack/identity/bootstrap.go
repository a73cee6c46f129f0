package identity

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// BootstrapOptions say what a fresh cloud is to be called and where its first credentials go.
type BootstrapOptions struct {
	// PublicURL is the base URL clients reach the API by, e.g. "http://10.0.0.1:8774".
	PublicURL string
	// Region is the catalog's region. Empty means RegionOne.
	Region string
	// Dir receives openrc and clouds.yaml, mode 0600. It is made, mode 0700, if it does not exist.
	Dir string
	// ResetPassword gives the administrator a new password though there is one: for a cloud whose files were lost.
	ResetPassword bool
}

// Bootstrapped says what Bootstrap did.
type Bootstrapped struct {
	AdminProject cloud.ProjectID // empty when an operator has renamed or deleted it
	AdminUser    cloud.UserID
	// Created reports that the administrator is new or has a new password.
	Created bool
	// Openrc and Clouds are the files' paths; empty when they are not there and could not be written, because the password is not known here.
	Openrc, Clouds string
}

// The names of what a fresh cloud has.
const (
	adminName          = "admin"
	serviceProjectName = "service"
	domainDefaultName  = "Default"
)

// passwordBytes is the strength of the generated password: 24 bytes, 32 characters.
const passwordBytes = 24

// Bootstrap makes what a cloud cannot do without: the default domain, the roles, the projects admin and service, the user admin with a generated
// password, its roles on the project and the system, and the files a client needs to log in. It is idempotent: what exists is left alone,
// apart from a changed URL or region in the files. The password is written to the files only, never logged.
//
// The files are written before the user: a crash between the two leaves files with a password nobody has, and the next Bootstrap replaces them.
func Bootstrap(ctx context.Context, s *store.Store, o BootstrapOptions) (Bootstrapped, error) {
	if o.Region == "" {
		o.Region = RegionDefault
	}
	if o.PublicURL == "" || o.Dir == "" {
		return Bootstrapped{}, cloud.Errorf(cloud.KindInvalid, "bootstrap needs a public URL and a directory for the credentials")
	}
	var out Bootstrapped
	if err := seed(ctx, s); err != nil {
		return out, fmt.Errorf("bootstrap: %w", err)
	}
	files := credentialFiles{dir: o.Dir, url: o.PublicURL, region: o.Region}
	admin, known := store.One(s, tables.Users, tables.ByDomainName, tables.DomainName(DomainDefault, adminName))
	if known && !o.ResetPassword {
		written, err := files.refresh()
		if err != nil {
			return out, fmt.Errorf("bootstrap: %w", err)
		}
		if written {
			out.Openrc, out.Clouds = files.paths()
		}
		out.AdminUser = admin.ID
	} else {
		user, err := makeAdmin(ctx, s, files)
		if err != nil {
			return out, fmt.Errorf("bootstrap: %w", err)
		}
		out.AdminUser, out.Created = user, true
		out.Openrc, out.Clouds = files.paths()
	}
	if p, ok := store.One(s, tables.Projects, tables.ByDomainName, tables.DomainName(DomainDefault, adminName)); ok {
		out.AdminProject = p.ID
	}
	return out, nil
}

// seed makes the default domain, the roles and the projects if they are not there, each under a fixed order in one transaction, so that two
// servers that start at once make them once.
func seed(ctx context.Context, s *store.Store) error {
	now := time.Now().UTC()
	_, err := s.UpdateVisible(ctx, func(tx *store.Tx) error {
		if _, err := store.Get(tx, tables.Domains, DomainDefault); cloud.Is(err, cloud.KindNotFound) {
			d := cloud.Domain{ID: DomainDefault, Name: domainDefaultName, Description: "The default domain", Enabled: true, Created: now}
			if err := store.Put(tx, tables.Domains, d.ID, d); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		for _, name := range []string{openstack.RoleAdmin, openstack.RoleMember, openstack.RoleReader} {
			err := absent(store.GetBy(tx, tables.Roles, tables.ByName, name))
			if errors.Is(err, errPresent) {
				continue
			} else if err != nil {
				return err
			}
			role := cloud.Role{ID: cloud.RoleID(newID()), Name: name}
			if err := store.Put(tx, tables.Roles, role.ID, role); err != nil {
				return err
			}
		}
		return seedProjects(tx, now)
	})
	return err
}

func seedProjects(tx *store.Tx, now time.Time) error {
	for name, text := range map[string]string{adminName: "Bootstrap project for administering the cloud", serviceProjectName: "What the cloud itself owns"} {
		err := absent(store.GetBy(tx, tables.Projects, tables.ByDomainName, tables.DomainName(DomainDefault, name)))
		if errors.Is(err, errPresent) {
			continue
		} else if err != nil {
			return err
		}
		p := cloud.Project{ID: cloud.ProjectID(newID()), Domain: DomainDefault, Name: name, Description: text, Enabled: true, Created: now}
		if err := store.Put(tx, tables.Projects, p.ID, p); err != nil {
			return err
		}
	}
	return nil
}

var errPresent = errors.New("exists already")

// absent turns the outcome of a read into nil when there is no such record, errPresent when there is.
func absent[T any](_ T, err error) error {
	switch {
	case err == nil:
		return errPresent
	case cloud.Is(err, cloud.KindNotFound):
		return nil
	}
	return err
}

// makeAdmin writes the files with a fresh password and then gives it to the administrator, made if need be.
func makeAdmin(ctx context.Context, s *store.Store, files credentialFiles) (cloud.UserID, error) {
	var random [passwordBytes]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	files.password = base64.RawURLEncoding.EncodeToString(random[:])
	if err := files.write(); err != nil {
		return "", err
	}
	now, hash := time.Now().UTC(), hashPassword(files.password)
	var id cloud.UserID
	_, err := s.UpdateVisible(ctx, func(tx *store.Tx) error {
		u, err := store.GetBy(tx, tables.Users, tables.ByDomainName, tables.DomainName(DomainDefault, adminName))
		if cloud.Is(err, cloud.KindNotFound) {
			u = cloud.User{ID: cloud.UserID(newID()), Domain: DomainDefault, Name: adminName, Created: now}
		} else if err != nil {
			return err
		}
		u.Enabled, u.PasswordHash, u.TokensAfter = true, hash, now
		id = u.ID
		if err := store.Put(tx, tables.Users, u.ID, u); err != nil {
			return err
		}
		return grantAdmin(tx, u.ID)
	})
	return id, err
}

// grantAdmin gives the administrator its roles on its project and the system: with every new password, never at another time, so that a later
// Bootstrap does not give back what an operator has taken away.
func grantAdmin(tx *store.Tx, user cloud.UserID) error {
	project, err := store.GetBy(tx, tables.Projects, tables.ByDomainName, tables.DomainName(DomainDefault, adminName))
	if err != nil {
		return err
	}
	role, err := store.GetBy(tx, tables.Roles, tables.ByName, openstack.RoleAdmin)
	if err != nil {
		return err
	}
	for _, a := range []cloud.Assignment{{User: user, Role: role.ID, Project: project.ID}, {User: user, Role: role.ID, System: true}} {
		if err := store.Put(tx, tables.Assignments, tables.AssignmentKey(a), a); err != nil {
			return err
		}
	}
	return nil
}
