package openstack

import (
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A Request is an HTTP request on its way through a dialect. It belongs to one handler.
type Request struct {
	*http.Request
	// ID is "req-<uuid>", new for every request; it is in the answer, the log and the records the request makes.
	ID string
	// Caller is who asks; never nil behind Routes.Handle, nil behind HandlePublic.
	Caller *Caller
	// Version is the negotiated microversion; zero where the dialect has none.
	Version Microversion
	// Received is when the request came in.
	Received time.Time

	dialect *Dialect
	public  string // base URL without trailing slash
}

// PublicURL returns the public URL of a path below the API's root: PublicURL("/compute/v2.1/servers/", id).
func (r *Request) PublicURL(path ...string) string { return r.public + strings.Join(path, "") }

// Token returns the token the request came with, for handlers that look at it themselves.
func (r *Request) Token() string { return r.Header.Get(tokenHeader) }

// Link is an entry of a "links" list.
type Link struct {
	Rel  string `json:"rel"`
	Href string `json:"href"`
	Type string `json:"type,omitempty"`
}

// SelfLinks returns the "self" and "bookmark" links Nova gives a resource: the versioned path ("/compute/v2.1", "/servers/ID") and the bare one.
func (r *Request) SelfLinks(version, resource string) []Link {
	service := "/" + r.dialect.Service
	return []Link{{Rel: "self", Href: r.public + version + resource}, {Rel: "bookmark", Href: r.public + service + resource}}
}

const (
	tokenHeader     = "X-Auth-Token"
	requestIDHeader = "X-Openstack-Request-Id"
)

// publicBase returns the base URL clients reach us by: the configured one, else what this client used.
func publicBase(configured string, r *http.Request) string {
	if configured != "" {
		return configured
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

func newRequestID() string { return "req-" + uuid.NewString() }
