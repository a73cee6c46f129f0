package compute

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// A parameter is one query parameter a route knows.
type parameter struct {
	name  string
	since int                 // microversion that brought it
	once  bool                // may be given once only
	check func(string) string // what is wrong with a value, "" when nothing is; nil accepts all
}

// A querySchema says which query parameters a route knows. Others are ignored, and from microversion 2.strict on refused.
type querySchema struct {
	parameters []parameter
	strict     int // 0: never
}

func (q querySchema) find(name string, minor int) (parameter, bool) {
	i := slices.IndexFunc(q.parameters, func(p parameter) bool { return p.name == name && p.since <= minor })
	if i < 0 {
		return parameter{}, false
	}
	return q.parameters[i], true
}

// parameters are a request's query, checked and without what the route ignores.
type parameters url.Values

func (p parameters) get(name string) string { return url.Values(p).Get(name) }
func (p parameters) has(name string) bool   { return url.Values(p).Has(name) }

// time returns a parameter that the schema has checked to be a time.
func (p parameters) time(name string) time.Time {
	t, _ := parseTime(p.get(name)) // checkTime accepted it
	return t
}

// read checks the request's query against the schema.
func (q querySchema) read(r *openstack.Request, minor int) (parameters, error) {
	given := r.URL.Query()
	out := parameters{}
	var unknown []string
	for _, name := range sortedKeys(given) {
		p, ok := q.find(name, minor)
		if !ok {
			unknown = append(unknown, name)
			continue
		}
		for _, value := range given[name] {
			if wrong := p.wrong(value); wrong != "" {
				return nil, invalid("Invalid input for query parameters %s. Value: %s. %s", name, value, wrong)
			}
		}
		if p.once && len(given[name]) > 1 {
			return nil, invalid("Invalid input for query parameters %s. Value: %s. %s is too long", name, quoteAll(given[name]), quoteAll(given[name]))
		}
		out[name] = given[name]
	}
	if q.strict > 0 && minor >= q.strict && len(unknown) > 0 {
		verb := "was"
		if len(unknown) > 1 {
			verb = "were"
		}
		return nil, invalid("Additional properties are not allowed (%s %s unexpected)", strings.Trim(quoteAll(unknown), "[]"), verb)
	}
	return out, nil
}

func (p parameter) wrong(value string) string {
	if p.check == nil {
		return ""
	}
	return p.check(value)
}

func quote(s string) string { return "'" + s + "'" }

func quoteAll(values []string) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = quote(v)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func checkTime(s string) string {
	if _, ok := parseTime(s); ok {
		return ""
	}
	return quote(s) + " is not a 'date-time'"
}

func checkRegexp(s string) string {
	if _, err := regexp.Compile(s); s != "" && err == nil {
		return ""
	}
	return quote(s) + " is not a 'regex'"
}

var digits = regexp.MustCompile(`^[0-9]*$`)

func checkNatural(s string) string {
	switch {
	case !digits.MatchString(s):
		return quote(s) + " does not match '^[0-9]*$'"
	case s == "":
		return quote(s) + " is too short"
	}
	return ""
}

func checkBoolean(s string) string {
	if _, err := parseBoolean(s, ""); err != nil {
		return quote(s) + " is not one of [" + booleanWords + "]"
	}
	return ""
}

func checkOneOf(values ...string) func(string) string {
	return func(s string) string {
		if slices.Contains(values, s) {
			return ""
		}
		return quote(s) + " is not one of " + quoteAll(values)
	}
}

func checkHostName(s string) string {
	switch {
	case s == "":
		return quote(s) + " is too short"
	case !hostNamePattern.MatchString(s):
		return quote(s) + " does not match '^[a-zA-Z0-9-._]*$'"
	}
	return ""
}

// plain returns parameters that take any value, at any microversion.
func plain(names ...string) []parameter {
	out := make([]parameter, len(names))
	for i, name := range names {
		out[i] = parameter{name: name}
	}
	return out
}

// paging returns limit and marker from a microversion on.
func paging(since int, once bool) []parameter {
	return []parameter{{name: "limit", since: since, once: once, check: checkNatural}, {name: "marker", since: since, once: once}}
}

// page reads limit and marker of a list with the usual bound.
func (c *call) page() (openstack.Page, error) { return c.r.Page(openstack.PageMax) }

// nextLinks returns the links of a list that goes on behind the item with this id.
func (c *call) nextLinks(path, lastID string) []openstack.Link {
	return []openstack.Link{{Rel: "next", Href: c.r.Next(apiRoot+path, lastID)}}
}

// checkChanges refuses an interval that ends before it begins.
func checkChanges(q parameters) error {
	if q.has("changes-since") && q.has("changes-before") && q.time("changes-before").Before(q.time("changes-since")) {
		return invalid("The value of changes-since must be less than or equal to changes-before.")
	}
	return nil
}
