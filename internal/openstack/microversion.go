package openstack

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// A Microversion is a version of an API such as 2.79. The zero value means none.
type Microversion struct{ Major, Minor int }

// AtLeast reports whether v is the given version or later.
func (v Microversion) AtLeast(major, minor int) bool { return !v.Before(Microversion{major, minor}) }

// Before reports whether v is earlier than o.
func (v Microversion) Before(o Microversion) bool {
	return v.Major < o.Major || v.Major == o.Major && v.Minor < o.Minor
}

// String returns "2.79".
func (v Microversion) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// A VersionRange is what a dialect offers. The zero value offers no microversions.
type VersionRange struct {
	Min, Max Microversion
	// Legacy is the header older clients use, e.g. X-OpenStack-Nova-API-Version; empty for none.
	Legacy string
}

// VersionHeader carries "SERVICE VERSION", e.g. "compute 2.79".
const VersionHeader = "OpenStack-API-Version"

// microversionFormat is Nova's: no sign, no leading zero.
var microversionFormat = regexp.MustCompile(`^([1-9]\d{0,4})\.([1-9]\d{0,4}|0)$`)

// negotiate returns the version the request asks for: the minimum when it asks for none, the maximum for "latest". A malformed version is a
// 400 and one out of range a 406, both in Nova's words.
func (vr VersionRange) negotiate(service string, h http.Header) (Microversion, error) {
	asked := vr.asked(service, h)
	switch asked {
	case "":
		return vr.Min, nil
	case "latest":
		return vr.Max, nil
	}
	m := microversionFormat.FindStringSubmatch(asked)
	if m == nil {
		return vr.Min, Fail(http.StatusBadRequest,
			"API Version String %s is of invalid format. Must be of format MajorNum.MinorNum.", asked)
	}
	major, _ := strconv.Atoi(m[1]) // the pattern lets only short digit strings through
	minor, _ := strconv.Atoi(m[2])
	v := Microversion{major, minor}
	if v.Before(vr.Min) || vr.Max.Before(v) {
		return v, Fail(http.StatusNotAcceptable,
			"Version %s is not supported by the API. Minimum is %s and maximum is %s.", v, vr.Min, vr.Max)
	}
	return v, nil
}

// asked returns the text after the service's name in the common header, else the legacy header's.
func (vr VersionRange) asked(service string, h http.Header) string {
	for _, line := range h.Values(VersionHeader) {
		for part := range strings.SplitSeq(line, ",") {
			name, version, ok := strings.Cut(strings.TrimSpace(part), " ")
			if ok && strings.EqualFold(name, service) {
				return strings.ToLower(strings.TrimSpace(version))
			}
		}
	}
	if vr.Legacy == "" {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(h.Get(vr.Legacy)))
}

// announce puts the version that was used into the answer's headers.
func (vr VersionRange) announce(service string, v Microversion, h http.Header) {
	h.Set(VersionHeader, service+" "+v.String())
	h.Add("Vary", VersionHeader)
	if vr.Legacy != "" {
		h.Set(vr.Legacy, v.String())
		h.Add("Vary", vr.Legacy)
	}
}
