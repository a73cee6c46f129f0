package openstack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// nestingMax bounds how deep a body may nest. The deepest legitimate one (server create with networks and hints) has six levels.
	nestingMax = 32
	// bodyReadMax bounds how long a client may take to send a JSON body: a megabyte over a bad line, but not a connection held for ever.
	bodyReadMax = 30 * time.Second
)

// An Object is a JSON object as it was written: properties in order, none twice. Values are nil, bool, json.Number, string, []any or *Object.
type Object struct {
	Names  []string
	values map[string]any
}

// Get returns the property's value and whether it is there.
func (o *Object) Get(name string) (any, bool) {
	v, ok := o.values[name]
	return v, ok
}

// Plain returns the object as a map, nested objects too.
func (o *Object) Plain() map[string]any {
	out := make(map[string]any, len(o.Names))
	for _, n := range o.Names {
		out[n] = plain(o.values[n])
	}
	return out
}

func plain(v any) any {
	switch v := v.(type) {
	case *Object:
		return v.Plain()
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	}
	return v
}

// ReadBody returns the whole body, or an error that becomes a 413 when it is longer than max bytes: one announced as longer is not read at all,
// one that turns out longer is read no further, and in both cases the connection ends with the answer.
func ReadBody(w http.ResponseWriter, r *http.Request, max int64) ([]byte, error) {
	if r.ContentLength > max {
		w.Header().Set("Connection", "close")
		return nil, cloud.Errorf(cloud.KindTooLarge, textTooLarge)
	}
	// Not every writer has deadlines (HTTP/2 test doubles); then the server's own timeouts stand.
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Now().Add(bodyReadMax)) == nil {
		defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, max))
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return data, nil
	case errors.As(err, &large):
		return nil, cloud.Errorf(cloud.KindTooLarge, textTooLarge)
	}
	return nil, Fail(http.StatusBadRequest, "The request body could not be read.")
}

// errMalformed is Nova's answer to a body that is not JSON.
var errMalformed = cloud.Errorf(cloud.KindInvalid, "cannot understand JSON")

// ParseObject parses a JSON document that must be one object. Properties given twice, nesting deeper than nestingMax and trailing data are refused.
func ParseObject(data []byte) (*Object, error) {
	v, err := Parse(data)
	if err != nil {
		return nil, err
	}
	o, ok := v.(*Object)
	if !ok {
		return nil, &InputError{Value: v, Reason: pyRepr(v) + " is not of type 'object'"}
	}
	return o, nil
}

// Parse parses one JSON document into nil, bool, json.Number, string, []any or *Object.
func Parse(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := parseValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errMalformed
	}
	return v, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	if depth > nestingMax {
		return nil, cloud.Errorf(cloud.KindInvalid, "JSON is nested deeper than %d levels", nestingMax)
	}
	t, err := d.Token()
	if err != nil {
		return nil, errMalformed
	}
	switch t {
	case json.Delim('{'):
		return parseObject(d, depth)
	case json.Delim('['):
		return parseArray(d, depth)
	}
	return t, nil
}

func parseObject(d *json.Decoder, depth int) (any, error) {
	o := &Object{values: map[string]any{}}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errMalformed
		}
		if _, twice := o.values[name]; twice {
			return nil, cloud.Errorf(cloud.KindInvalid, "property '%s' is given twice", name)
		}
		v, err := parseValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		o.Names = append(o.Names, name)
		o.values[name] = v
	}
	return o, closing(d)
}

func parseArray(d *json.Decoder, depth int) (any, error) {
	out := []any{}
	for d.More() {
		v, err := parseValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, closing(d)
}

func closing(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return errMalformed
	}
	return nil
}

// An InputError is a violation of a body's schema. It is cloud.KindInvalid; its text is what Nova's jsonschema validation says.
type InputError struct {
	Path   []string // from the root to the offending value; empty for the root
	Value  any      // the offending value
	Reason string   // "5 is not of type 'string'"
}

// Error returns Nova's words: "Invalid input for field/attribute host. Value: 5. 5 is not of type 'string'".
func (e *InputError) Error() string {
	if len(e.Path) == 0 {
		return e.Reason
	}
	return fmt.Sprintf("Invalid input for field/attribute %s. Value: %s. %s", e.Path[len(e.Path)-1], pyText(e.Value), e.Reason)
}

// Unwrap gives the error its kind.
func (e *InputError) Unwrap() error { return errInvalidInput }

var errInvalidInput = cloud.E(cloud.KindInvalid, "", "", errors.New("invalid input"))

func (e *InputError) path(separator string) string {
	out := ""
	for i, p := range e.Path {
		if i > 0 {
			out += separator
		}
		out += p
	}
	return out
}

// at names the place for dialects that only append it.
func (e *InputError) at() string {
	if len(e.Path) == 0 {
		return ""
	}
	return " in " + e.path(".")
}
