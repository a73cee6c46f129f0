package identity

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// named is a reference by id or by name.
type named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// inDomain is a reference by id, or by name and domain.
type inDomain struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Domain *named `json:"domain"`
}

// authRequest is the body of POST /v3/auth/tokens. As in Keystone, properties it does not know are ignored inside identity: clients send
// plugins' own. It keeps nothing of them.
type authRequest struct {
	Auth struct {
		Identity struct {
			Methods       []string       `json:"methods" api:"required;len=1..4;unique"`
			Password      *passwordProof `json:"password"`
			Token         *named         `json:"token"`
			AppCredential *appCredProof  `json:"application_credential"`
			Extra         map[string]any `api:"extra"`
		} `json:"identity" api:"required"`
		Scope scope `json:"scope" api:"null"`
	} `json:"auth" api:"required"`
}

type passwordProof struct {
	User struct {
		ID       string         `json:"id"`
		Name     string         `json:"name"`
		Domain   *named         `json:"domain"`
		Password string         `json:"password" api:"required;len=..4096"`
		Extra    map[string]any `api:"extra"`
	} `json:"user" api:"required"`
}

type appCredProof struct {
	ID     string    `json:"id"`
	Name   string    `json:"name"`
	User   *inDomain `json:"user"`
	Secret string    `json:"secret" api:"required;len=..4096"`
}

// scope is what a token is asked for. The text "unscoped" is allowed in place of the object.
type scope struct {
	given    bool
	unscoped bool
	project  *inDomain
	domain   *named
	system   bool
}

// BindJSON implements openstack.Binder.
func (s *scope) BindJSON(v any) error {
	s.given = true
	if text, ok := v.(string); ok && text == "unscoped" {
		s.unscoped = true
		return nil
	}
	o, ok := v.(*openstack.Object)
	if !ok {
		return openstack.Mismatch(v, "object")
	}
	var in struct {
		Project  *inDomain      `json:"project"`
		Domain   *named         `json:"domain"`
		System   *systemScope   `json:"system"`
		Unscoped map[string]any `json:"unscoped"`
	}
	if err := openstack.Bind(o, &in, openstack.Microversion{}); err != nil {
		return err
	}
	_, s.unscoped = o.Get("unscoped")
	s.project, s.domain, s.system = in.Project, in.Domain, in.System != nil && in.System.All
	n := 0
	for _, set := range []bool{s.unscoped, in.Project != nil, in.Domain != nil, in.System != nil} {
		if set {
			n++
		}
	}
	if n > 1 || in.System != nil && !in.System.All {
		return cloud.Errorf(cloud.KindInvalid, "scope must be one of project, domain, system {\"all\": true} and unscoped")
	}
	return nil
}

type systemScope struct {
	All bool `json:"all" api:"required"`
}

func decodeAuth(w http.ResponseWriter, r *openstack.Request) (authRequest, error) {
	var in authRequest
	err := r.Decode(w, &in)
	return in, err
}

// findDomain resolves a domain reference; nil is the default domain, as for clients that name none.
func findDomain(r store.Reader, ref *named) (*cloud.Domain, bool) {
	switch {
	case ref == nil:
		return store.Lookup(r, tables.Domains, DomainDefault)
	case ref.ID != "":
		return store.Lookup(r, tables.Domains, ref.ID)
	}
	return store.One(r, tables.Domains, tables.ByName, ref.Name)
}

func findUser(r store.Reader, ref inDomain) (*cloud.User, bool) {
	if ref.ID != "" {
		return store.Lookup(r, tables.Users, ref.ID)
	}
	d, ok := findDomain(r, ref.Domain)
	if !ok || ref.Name == "" {
		return nil, false
	}
	return store.One(r, tables.Users, tables.ByDomainName, tables.DomainName(d.ID, ref.Name))
}

func findProject(r store.Reader, ref inDomain) (*cloud.Project, bool) {
	if ref.ID != "" {
		return store.Lookup(r, tables.Projects, ref.ID)
	}
	d, ok := findDomain(r, ref.Domain)
	if !ok || ref.Name == "" {
		return nil, false
	}
	return store.One(r, tables.Projects, tables.ByDomainName, tables.DomainName(d.ID, ref.Name))
}
