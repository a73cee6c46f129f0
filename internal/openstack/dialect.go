package openstack

import (
	"fmt"
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A Dialect is the manner in which one OpenStack service speaks: where it lives, what its faults look like, how it words refusals.
// It is a value, shared and never changed.
type Dialect struct {
	// Service is the service type, also the path prefix: "compute" serves "/compute/...".
	Service string
	// RequestIDHeader is a second header for the request id beside X-Openstack-Request-Id; empty for none.
	RequestIDHeader string
	// Versions are the microversions on offer; the zero value means the dialect has none.
	Versions VersionRange
	// Shape makes the body of a fault.
	Shape func(Fault) any
	// Denied words a refusal by the policy rule.
	Denied func(rule string) string
	// Invalid words a violation of a body's schema.
	Invalid func(*InputError) string
	// Statuses are the dialect's departures from the table of kinds.
	Statuses map[cloud.Kind]int
	// NotFound is the message for a path no route has.
	NotFound string
	// BodyBytesMax bounds a JSON body; zero means BodyBytesMaxDefault.
	BodyBytesMax int64
}

// BodyBytesMaxDefault bounds a JSON body. Nova's own bound is 112 KiB, but user data of 64 KiB, personality files and
// many metadata items are legitimate and 1 MiB of JSON costs us little.
const BodyBytesMaxDefault = 1 << 20

const textTooLarge = "Request is too large."

// Nova is the compute dialect.
var Nova = &Dialect{
	Service:         "compute",
	RequestIDHeader: "X-Compute-Request-Id",
	Versions:        VersionRange{Min: Microversion{2, 1}, Max: Microversion{2, 95}, Legacy: "X-OpenStack-Nova-API-Version"},
	Shape:           novaShape,
	Denied:          func(rule string) string { return (&PolicyError{rule}).Error() },
	Invalid:         (*InputError).Error,
	NotFound:        "The resource could not be found.",
}

// Cinder is the volume dialect. Its faults have Nova's shapes.
var Cinder = &Dialect{
	Service:         "volume",
	RequestIDHeader: "X-Compute-Request-Id", // Cinder says so too
	Versions:        VersionRange{Min: Microversion{3, 0}, Max: Microversion{3, 70}},
	Shape:           novaShape,
	Denied:          func(rule string) string { return (&PolicyError{rule}).Error() },
	Invalid:         (*InputError).Error,
	Statuses:        map[cloud.Kind]int{cloud.KindQuota: http.StatusRequestEntityTooLarge},
	NotFound:        "The resource could not be found.",
}

// Keystone is the identity dialect.
var Keystone = &Dialect{
	Service: "identity",
	Shape:   keystoneShape,
	Denied: func(rule string) string {
		return fmt.Sprintf("You are not authorized to perform the requested action: %s.", rule)
	},
	Invalid: func(e *InputError) string {
		if len(e.Path) == 0 {
			return e.Reason
		}
		return fmt.Sprintf("Invalid input for field '%s': %s", e.path("/"), e.Reason)
	},
	NotFound: "The resource could not be found.",
}

// Glance is the image dialect.
var Glance = &Dialect{
	Service: "image",
	Shape:   glanceShape,
	Denied: func(rule string) string {
		return fmt.Sprintf("You are not authorized to complete %s action.", rule)
	},
	Invalid: func(e *InputError) string {
		return "Provided object does not match schema 'image': " + e.Reason + e.at()
	},
	Statuses: map[cloud.Kind]int{cloud.KindQuota: http.StatusRequestEntityTooLarge},
	NotFound: "The resource could not be found.",
}

// Neutron is the network dialect.
var Neutron = &Dialect{
	Service: "network",
	Shape:   neutronShape,
	Denied:  func(rule string) string { return fmt.Sprintf("rule:%s is disallowed by policy", rule) },
	Invalid: func(e *InputError) string {
		if len(e.Path) == 0 {
			return "Invalid input: " + e.Reason + "."
		}
		return fmt.Sprintf("Invalid input for %s. Reason: %s.", e.Path[len(e.Path)-1], e.Reason)
	},
	Statuses: map[cloud.Kind]int{cloud.KindQuota: http.StatusConflict},
	NotFound: "The resource could not be found.",
}

// Masakari is the instance-ha dialect. Its faults have Nova's shapes.
var Masakari = &Dialect{
	Service:  "instance-ha",
	Versions: VersionRange{Min: Microversion{1, 0}, Max: Microversion{1, 3}},
	Shape:    novaShape,
	Denied:   func(rule string) string { return (&PolicyError{rule}).Error() },
	Invalid:  (*InputError).Error,
	NotFound: "The resource could not be found.",
}
