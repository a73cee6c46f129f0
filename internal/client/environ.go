package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Credentials say who asks, and where.
type Credentials struct {
	// Cloud is a cloud of clouds.yaml. Empty means OS_CLOUD and, when that is empty too, OS_AUTH_URL and its companions.
	Cloud string
	// Environ reads OS_*; nil means os.Getenv.
	Environ func(string) string
}

// ErrNoCredentials says that nothing tells where the cloud is.
var ErrNoCredentials = cloud.Errorf(cloud.KindUnauthenticated,
	"no credentials: set OS_CLOUD to a cloud of clouds.yaml, or `source` the openrc that the server wrote (of a lab: `godwit lab status` names it)")

// answerMax bounds the wait for an answer's first byte: the slowest call, a login, takes a fraction of a second.
const answerMax = time.Minute

func (c Credentials) login(ctx context.Context) (*gophercloud.ProviderClient, gophercloud.EndpointOpts, error) {
	get := c.Environ
	if get == nil {
		get = os.Getenv
	}
	name := c.Cloud
	if name == "" {
		name = get("OS_CLOUD")
	}
	var (
		auth     gophercloud.AuthOptions
		endpoint gophercloud.EndpointOpts
		trust    *tls.Config
		err      error
	)
	switch {
	case name != "":
		if auth, endpoint, trust, err = clouds.Parse(clouds.WithCloudName(name)); err != nil {
			return nil, endpoint, cloud.Errorf(cloud.KindInvalid, "cloud %s: %w", name, err)
		}
		auth.AllowReauth = auth.TokenID == ""
	case get("OS_AUTH_URL") == "":
		return nil, endpoint, ErrNoCredentials
	default:
		if auth, err = authFromEnviron(get); err != nil {
			return nil, endpoint, err
		}
		if trust, err = trustFromEnviron(get); err != nil {
			return nil, endpoint, err
		}
		endpoint.Region = get("OS_REGION_NAME")
	}
	provider, err := openstack.NewClient(auth.IdentityEndpoint)
	if err != nil {
		return nil, endpoint, cloud.Errorf(cloud.KindInvalid, "identity endpoint %q: %w", auth.IdentityEndpoint, err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig, transport.ResponseHeaderTimeout = trust, answerMax
	provider.HTTPClient = http.Client{Transport: transport}
	if err := explain(openstack.Authenticate(ctx, provider, auth)); err != nil {
		return nil, endpoint, cloud.E(cloud.KindOf(err), "log in at "+auth.IdentityEndpoint, auth.Username, err)
	}
	return provider, endpoint, nil
}

// trustFromEnviron reads OS_CACERT and OS_INSECURE. Nil means the system's authorities.
func trustFromEnviron(get func(string) string) (*tls.Config, error) {
	switch strings.ToLower(get("OS_INSECURE")) {
	case "1", "true", "yes", "on":
		return &tls.Config{InsecureSkipVerify: true}, nil // #nosec G402 -- asked for in so many words
	}
	path := get("OS_CACERT")
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, cloud.Errorf(cloud.KindInvalid, "OS_CACERT: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, cloud.Errorf(cloud.KindInvalid, "OS_CACERT: %s holds no certificate", path)
	}
	return &tls.Config{RootCAs: pool}, nil
}

// Openrc returns the variables that a shell would have after sourcing the file, as the Environ of Credentials. It reads what godwit writes and
// people edit: export NAME=value, with or without quotes.
func Openrc(path string) (func(string) string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	defer f.Close()
	vars := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimPrefix(strings.TrimSpace(lines.Text()), "export ")
		name, value, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(name, "#") {
			vars[strings.TrimSpace(name)] = unquote(strings.TrimSpace(value))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", path, err)
	}
	return func(name string) string { return vars[name] }, nil
}

// unquote undoes a shell's quoting: '...' is literal, a backslash elsewhere escapes one character.
func unquote(s string) string {
	var b strings.Builder
	single, double := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' && !double:
			single = !single
		case c == '"' && !single:
			double = !double
		case c == '\\' && !single && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// authFromEnviron reads OS_* as the stock clients do. gophercloud's own reading wants the project's id, which an openrc need not have.
func authFromEnviron(get func(string) string) (gophercloud.AuthOptions, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := get(n); v != "" {
				return v
			}
		}
		return ""
	}
	auth := gophercloud.AuthOptions{
		IdentityEndpoint: get("OS_AUTH_URL"), AllowReauth: true,
		Username: get("OS_USERNAME"), UserID: get("OS_USER_ID"), Password: get("OS_PASSWORD"),
		ApplicationCredentialID: get("OS_APPLICATION_CREDENTIAL_ID"), ApplicationCredentialName: get("OS_APPLICATION_CREDENTIAL_NAME"),
		ApplicationCredentialSecret: get("OS_APPLICATION_CREDENTIAL_SECRET"),
	}
	if auth.UserID == "" && auth.Username != "" {
		auth.DomainID, auth.DomainName = get("OS_USER_DOMAIN_ID"), get("OS_USER_DOMAIN_NAME")
		if auth.DomainID == "" && auth.DomainName == "" {
			auth.DomainID = first("OS_DEFAULT_DOMAIN", "OS_DOMAIN_ID")
		}
		if auth.DomainID == "" && auth.DomainName == "" {
			auth.DomainID = "default"
		}
		if auth.DomainID != "" {
			auth.DomainName = ""
		}
	}
	if auth.ApplicationCredentialSecret != "" {
		return auth, nil // the credential carries its project
	}
	if token := get("OS_TOKEN"); token != "" {
		// A token cannot be renewed without what it came from.
		auth = gophercloud.AuthOptions{IdentityEndpoint: auth.IdentityEndpoint, TokenID: token}
	} else if auth.Password == "" || auth.Username == "" && auth.UserID == "" {
		return auth, cloud.Errorf(cloud.KindUnauthenticated, "OS_AUTH_URL is set, but OS_USERNAME and OS_PASSWORD (or an application credential) are not")
	}
	scope := gophercloud.AuthScope{ProjectID: first("OS_PROJECT_ID", "OS_TENANT_ID")}
	if scope.ProjectID == "" {
		scope.ProjectName = first("OS_PROJECT_NAME", "OS_TENANT_NAME")
		scope.DomainID, scope.DomainName = get("OS_PROJECT_DOMAIN_ID"), get("OS_PROJECT_DOMAIN_NAME")
		if scope.DomainID == "" && scope.DomainName == "" {
			scope.DomainID = "default"
		}
		if scope.DomainID != "" {
			scope.DomainName = ""
		}
	}
	if scope.ProjectID == "" && scope.ProjectName == "" {
		return auth, cloud.Errorf(cloud.KindUnauthenticated, "OS_PROJECT_NAME is not set")
	}
	auth.Scope = &scope
	return auth, nil
}
