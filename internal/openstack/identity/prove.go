package identity

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// errProof is every failed log-in: which part was wrong is not said.
var errProof = cloud.Errorf(cloud.KindUnauthenticated, "credentials are not valid")

// proof is what the methods of one request have established.
type proof struct {
	user    *cloud.User
	appCred *cloud.AppCredential // with that method
	parent  *claims              // with the token method: the new token lives no longer
	methods []string
}

// prove checks every method of the request; all must agree on one user.
func (s *Service) prove(r *openstack.Request, in *authRequest) (*proof, error) {
	p := &proof{}
	for _, method := range in.Auth.Identity.Methods {
		user, err := s.proveBy(method, r, in, p)
		if err != nil {
			return nil, err
		}
		if p.user != nil && p.user.ID != user.ID {
			return nil, errProof
		}
		p.user = user
		p.methods = append(p.methods, method)
	}
	if p.parent != nil {
		for _, m := range p.parent.Methods {
			if !slices.Contains(p.methods, m) {
				p.methods = append(p.methods, m)
			}
		}
	}
	return p, nil
}

func (s *Service) proveBy(method string, r *openstack.Request, in *authRequest, p *proof) (*cloud.User, error) {
	id := &in.Auth.Identity
	missing := func() error {
		return cloud.Errorf(cloud.KindInvalid, "Expecting to find %s in identity. The server could not comply with the request since it is "+
			"either malformed or otherwise incorrect. The client is assumed to be in error.", method)
	}
	switch method {
	case "password":
		if id.Password == nil {
			return nil, missing()
		}
		return s.provePassword(r, id.Password)
	case "token":
		if id.Token == nil {
			return nil, missing()
		}
		return s.proveToken(id.Token.ID, p)
	case "application_credential":
		if id.AppCredential == nil {
			return nil, missing()
		}
		if in.Auth.Scope.given {
			return nil, cloud.Errorf(cloud.KindInvalid, "Application credentials cannot request a scope.")
		}
		return s.proveAppCredential(r, id.AppCredential, p)
	}
	return nil, openstack.Fail(http.StatusUnauthorized, "Attempted to authenticate with an unsupported method.")
}

func (s *Service) provePassword(r *openstack.Request, in *passwordProof) (*cloud.User, error) {
	ref := inDomain{ID: in.User.ID, Name: in.User.Name, Domain: in.User.Domain}
	if ref.ID == "" && ref.Name == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "Expecting to find id or name in user.")
	}
	user, known := findUser(s.store, ref)
	name, hash := ref.ID+"/"+ref.Name, ""
	if known {
		name, hash = string(user.ID), user.PasswordHash
	}
	if err := s.check(r, "user/"+name, in.User.Password, hash); err != nil {
		return nil, err
	}
	user, ok := liveUser(s.store, user.ID)
	if !ok {
		return nil, errProof
	}
	return user, nil
}

// check compares a secret with a hash, at the same cost whether the hash is known ("" when not), and counts failures by what was tried and
// from where.
func (s *Service) check(r *openstack.Request, what, secret, hash string) error {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	key := clipKey(what) + " from " + address
	if s.throttle.locked(key, time.Now()) {
		s.options.Logger.Warn("identity: log-in refused after too many failures", "subject", clipKey(what), "remote", address, "request", r.ID)
		return errProof
	}
	ok, err := s.hashes.matches(r.Context(), secret, hash)
	if err != nil {
		return fmt.Errorf("check secret: %w", err)
	}
	if !ok {
		s.throttle.failed(key, time.Now())
		return errProof
	}
	s.throttle.succeeded(key)
	return nil
}

// clipKey bounds what one attempt can make us remember.
func clipKey(s string) string { return s[:min(len(s), 128)] }

func (s *Service) proveToken(token string, p *proof) (*cloud.User, error) {
	c, err := s.verify(token)
	if err != nil {
		return nil, err
	}
	in, err := openSession(s.store.View(), c, time.Now())
	if err != nil {
		return nil, err
	}
	// What came from a credential stays on its project with its roles.
	p.appCred = in.appCred
	p.parent = c
	return in.user, nil
}

func (s *Service) proveAppCredential(r *openstack.Request, in *appCredProof, p *proof) (*cloud.User, error) {
	v := s.store.View()
	var cred *cloud.AppCredential
	known := false
	switch {
	case in.ID != "":
		cred, known = store.Lookup(v, tables.AppCredentials, in.ID)
	case in.Name != "" && in.User != nil:
		if user, ok := findUser(v, *in.User); ok {
			cred, known = store.One(v, tables.AppCredentials, tables.ByUserName, string(user.ID)+"/"+in.Name)
		}
	default:
		return nil, cloud.Errorf(cloud.KindInvalid, "Expecting to find id, or name and user, in application_credential.")
	}
	name, hash := in.ID+"/"+in.Name, ""
	if known {
		name, hash = cred.ID, cred.SecretHash
	}
	if err := s.check(r, "credential/"+name, in.Secret, hash); err != nil {
		return nil, err
	}
	if cred, known = liveAppCredential(s.store, cred.ID, time.Now()); !known {
		return nil, errProof
	}
	user, ok := liveUser(s.store, cred.User)
	if !ok {
		return nil, errProof
	}
	p.appCred = cred
	return user, nil
}

// scoped returns the claims of the token to make: who, where, and until when.
func (s *Service) scoped(v store.View, p *proof, want scope, now time.Time) (*claims, error) {
	c := &claims{User: p.user.ID, Methods: p.methods, AuditIDs: []string{newAuditID()}, IssuedUS: now.UnixMicro(),
		ExpiresUS: now.Add(s.options.TokenLifetime).UnixMicro()}
	if p.parent != nil {
		c.ExpiresUS = min(c.ExpiresUS, p.parent.ExpiresUS)
		c.AuditIDs = append(c.AuditIDs, p.parent.AuditIDs[len(p.parent.AuditIDs)-1])
	}
	switch {
	case p.appCred != nil:
		c.AppCred, c.Project = p.appCred.ID, p.appCred.Project
		if want.domain != nil || want.system || want.unscoped {
			return nil, errProof
		}
		if want.project != nil {
			if project, ok := findProject(v, *want.project); !ok || project.ID != p.appCred.Project {
				return nil, errProof
			}
		}
	case want.project != nil:
		project, ok := findProject(v, *want.project)
		if !ok {
			return nil, errProof
		}
		c.Project = project.ID
	case want.domain != nil:
		domain, ok := findDomain(v, want.domain)
		if !ok {
			return nil, errProof
		}
		c.Domain = domain.ID
	case want.system:
		c.System = "all"
	case !want.given && p.parent == nil && s.canEnter(v, c, p.user.DefaultProject, now):
		c.Project = p.user.DefaultProject
	}
	return c, nil
}

// canEnter reports whether the user may have a token for the project.
func (s *Service) canEnter(v store.View, c *claims, project cloud.ProjectID, now time.Time) bool {
	if project == "" {
		return false
	}
	try := *c
	try.Project = project
	_, err := openSession(v, &try, now)
	return err == nil
}
