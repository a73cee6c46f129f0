package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// kindStatus is the one table from kinds of error to HTTP. A dialect may depart from it in Dialect.Statuses.
var kindStatus = map[cloud.Kind]int{
	cloud.KindInternal:        http.StatusInternalServerError,
	cloud.KindInvalid:         http.StatusBadRequest,
	cloud.KindUnauthenticated: http.StatusUnauthorized,
	cloud.KindForbidden:       http.StatusForbidden,
	cloud.KindNotFound:        http.StatusNotFound,
	cloud.KindConflict:        http.StatusConflict,
	cloud.KindTooLarge:        http.StatusRequestEntityTooLarge,
	cloud.KindQuota:           http.StatusForbidden,  // Nova and Keystone; Neutron says 409, Glance 413
	cloud.KindNoValidHost:     http.StatusBadRequest, // Nova: NoValidHost of a live migration
	cloud.KindUnavailable:     http.StatusServiceUnavailable,
	cloud.KindStale:           http.StatusConflict,
	cloud.KindUnsupported:     http.StatusNotImplemented,
	cloud.KindCancelled:       http.StatusConflict,
	cloud.KindExhausted:       http.StatusConflict, // Neutron: no more addresses; Nova: no more ports
}

// A StatusError is an error with an HTTP status of its own, for the few answers no cloud.Kind stands for.
type StatusError struct {
	Code int // 400..599
	Text string
	// Header is added to the answer; may be nil.
	Header http.Header
}

// Error returns the text shown to the client.
func (e *StatusError) Error() string { return e.Text }

// Fail makes a StatusError of the code with the formatted text.
func Fail(code int, format string, args ...any) error {
	return &StatusError{Code: code, Text: fmt.Sprintf(format, args...)}
}

// A Fault is an error as the client will see it.
type Fault struct {
	Code      int
	Message   string
	Err       error // what the fault was made of, for dialects that show its type; nil for a route's own faults
	RequestID string
}

// textInternal is what a client sees of an error that is ours, not its.
const textInternal = "Unexpected API Error. The error has been logged under the request id."

// authenticateText is keystonemiddleware's, whatever was wrong with the token: an attacker learns nothing.
const authenticateText = "The request you have made requires authentication."

// Status returns the HTTP status of an error of this kind in this dialect.
func (d *Dialect) Status(k cloud.Kind) int {
	if code := d.Statuses[k]; code != 0 {
		return code
	}
	return kindStatus[k]
}

// fault classifies err. Text of internal errors is not shown.
func (d *Dialect) fault(err error) Fault {
	var (
		status *StatusError
		policy *PolicyError
		input  *InputError
		large  *http.MaxBytesError
	)
	switch {
	case errors.As(err, &status):
		return Fault{Code: status.Code, Message: status.Text, Err: err}
	case errors.As(err, &policy):
		return Fault{Code: d.Status(cloud.KindForbidden), Message: d.Denied(policy.Rule), Err: err}
	case errors.As(err, &input):
		return Fault{Code: d.Status(cloud.KindInvalid), Message: d.Invalid(input), Err: err}
	case errors.As(err, &large):
		return Fault{Code: d.Status(cloud.KindTooLarge), Message: textTooLarge, Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return Fault{Code: http.StatusServiceUnavailable, Message: "The request took too long.", Err: err}
	}
	kind := cloud.KindOf(err)
	switch kind {
	case cloud.KindInternal:
		return Fault{Code: d.Status(kind), Message: textInternal, Err: err}
	case cloud.KindUnavailable:
		return Fault{Code: d.Status(kind), Message: "The service cannot be reached at the moment, please try again.", Err: err}
	case cloud.KindUnauthenticated:
		return Fault{Code: d.Status(kind), Message: authenticateText, Err: err}
	default: // what the client did or asked for, told as it is
		return Fault{Code: d.Status(kind), Message: err.Error(), Err: err}
	}
}

// writeFault answers with err in the dialect's shape and returns the fault.
func (d *Dialect) writeFault(w http.ResponseWriter, err error, requestID string) Fault {
	f := d.fault(err)
	f.RequestID = requestID
	h := w.Header()
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Disposition", "Content-Md5", "Accept-Ranges", "Etag"} {
		h.Del(name) // of the answer that will not be given
	}
	var status *StatusError
	if errors.As(err, &status) {
		for name, values := range status.Header {
			h[http.CanonicalHeaderKey(name)] = values
		}
	}
	body := d.Shape(f)
	if f.Code == http.StatusUnauthorized {
		// All services of a real cloud leave this answer to the same keystonemiddleware.
		body = keystoneShape(f)
	}
	_ = WriteJSON(w, f.Code, body) // a client that went away cannot be told
	return f
}

// novaFaultNames are the properties Nova wraps its faults in, by status; all others are computeFault.
var novaFaultNames = map[int]string{
	400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod", 409: "conflictingRequest",
	413: "overLimit", 415: "badMediaType", 429: "overLimit", 501: "notImplemented", 503: "serviceUnavailable",
}

func novaShape(f Fault) any {
	name := novaFaultNames[f.Code]
	if name == "" {
		name = "computeFault"
	}
	return map[string]any{name: map[string]any{"code": f.Code, "message": f.Message}}
}

func keystoneShape(f Fault) any {
	return map[string]any{"error": map[string]any{"code": f.Code, "message": f.Message, "title": http.StatusText(f.Code)}}
}

func glanceShape(f Fault) any {
	title := http.StatusText(f.Code)
	return map[string]any{"message": f.Message, "code": strconv.Itoa(f.Code) + " " + title, "title": title}
}

// neutronTypes name the exception class a Neutron fault shows, by status, for errors that do not name their own with NeutronError.
var neutronTypes = map[int]string{
	400: "HTTPBadRequest", 401: "HTTPUnauthorized", 403: "PolicyNotAuthorized", 404: "HTTPNotFound", 405: "HTTPMethodNotAllowed",
	409: "Conflict", 413: "HTTPRequestEntityTooLarge", 501: "HTTPNotImplemented", 503: "ServiceUnavailable",
}

// A NeutronError gives the exception class that Neutron shows beside the message: clients tell IpAddressInUse from OverQuota by it.
// Wrap it in a cloud.Error: cloud.E(cloud.KindConflict, "", "", &NeutronError{...}).
type NeutronError struct{ Type, Message, Detail string }

// Error returns the message.
func (e *NeutronError) Error() string { return e.Message }

func neutronShape(f Fault) any {
	out := NeutronError{Type: neutronTypes[f.Code], Message: f.Message}
	if out.Type == "" {
		out.Type = "HTTPInternalServerError"
	}
	var own *NeutronError
	if f.Err != nil && errors.As(f.Err, &own) {
		out.Type, out.Detail = own.Type, own.Detail
	}
	return map[string]any{"NeutronError": map[string]any{"type": out.Type, "message": out.Message, "detail": out.Detail}}
}
