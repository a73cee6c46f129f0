package image

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// The media types of PATCH.
const (
	patchV20 = "application/openstack-images-v2.0-json-patch"
	patchV21 = "application/openstack-images-v2.1-json-patch"
)

// operationsMax bounds one patch: more than all properties and tags an image may have.
const operationsMax = 512

// An operation is one step of a JSON patch on an image, whose properties are one level deep.
type operation struct {
	verb  string // add, replace, remove
	path  string // the pointer's first element, unescaped: a property's name
	rest  string // its second: a place in tags, "" for the whole property
	value any    // nil, bool, json.Number, string, []any or *openstack.Object; nil for remove
}

// parsePatch decodes a patch of the media type.
func parsePatch(mediaType string, data []byte) ([]operation, error) {
	v, err := openstack.Parse(data)
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok {
		return nil, cloud.Errorf(cloud.KindInvalid, "Request body must be a JSON array of operation objects.")
	}
	if len(list) > operationsMax {
		return nil, cloud.Errorf(cloud.KindTooLarge, "A patch of %d operations is too large, at most %d are taken.", len(list), operationsMax)
	}
	out := make([]operation, 0, len(list))
	for _, item := range list {
		o, ok := item.(*openstack.Object)
		if !ok {
			return nil, cloud.Errorf(cloud.KindInvalid, "Operations must be JSON objects.")
		}
		op, err := parseOperation(o, mediaType)
		if err != nil {
			return nil, err
		}
		out = append(out, op)
	}
	return out, nil
}

func parseOperation(o *openstack.Object, mediaType string) (operation, error) {
	var op operation
	pointer := ""
	if mediaType == patchV20 {
		// {"replace": "/name", "value": "x"}
		for _, verb := range []string{"add", "replace", "remove"} {
			if v, there := o.Get(verb); there {
				if op.verb != "" {
					return op, cloud.Errorf(cloud.KindInvalid, "Operation objects must contain only one member named \"add\", \"remove\", or \"replace\".")
				}
				op.verb = verb
				pointer, _ = v.(string)
			}
		}
	} else {
		v, _ := o.Get("op")
		op.verb, _ = v.(string)
		v, _ = o.Get("path")
		pointer, _ = v.(string)
	}
	switch op.verb {
	case "add", "replace", "remove":
	default:
		return op, cloud.Errorf(cloud.KindInvalid, "Operation objects must contain exactly one of the operations add, replace and remove.")
	}
	var err error
	if op.path, op.rest, err = parsePointer(pointer); err != nil {
		return op, err
	}
	value, there := o.Get("value")
	if !there && op.verb != "remove" {
		return op, cloud.Errorf(cloud.KindInvalid, "Operation \"%s\" requires a member named \"value\".", op.verb)
	}
	if op.verb != "remove" {
		op.value = value
	}
	return op, nil
}

// parsePointer reads a JSON pointer (RFC 6901) of one element, or of two below tags.
func parsePointer(pointer string) (first, rest string, err error) {
	bad := func(why string) error {
		return cloud.Errorf(cloud.KindInvalid, "Pointer `%.100s` %s.", pointer, why)
	}
	if !strings.HasPrefix(pointer, "/") {
		return "", "", bad("does not start with \"/\"")
	}
	if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(pointer), "~") {
		return "", "", bad("contains \"~\" not part of a recognized escape sequence")
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	elements := strings.Split(pointer[1:], "/")
	first = unescape.Replace(elements[0])
	switch {
	case first == "":
		return "", "", bad("contains an empty element")
	case len(elements) == 1:
		return first, "", nil
	case len(elements) == 2 && first == "tags" && elements[1] != "":
		return first, unescape.Replace(elements[1]), nil
	}
	return "", "", cloud.Errorf(cloud.KindForbidden, "Invalid JSON pointer for this resource: '%.100s'", pointer)
}

// apply carries the operation out on the image, as far as the caller may.
func (op *operation) apply(c *openstack.Caller, i *cloud.Image) error {
	if op.path == "id" {
		return cloud.Errorf(cloud.KindForbidden, "Attribute 'id' is read-only.")
	}
	if err := writable(op.path); err != nil {
		return err
	}
	set, base := baseProperties[op.path]
	if op.verb == "remove" {
		if base {
			return cloud.Errorf(cloud.KindForbidden, "Property %s may not be removed.", op.path)
		}
		return op.removeCustom(i)
	}
	if base {
		if op.path == "tags" && op.rest != "" {
			return op.addTag(i)
		}
		return set(op, c, i)
	}
	return op.setCustom(i)
}

func (op *operation) removeCustom(i *cloud.Image) error {
	if _, there := i.Properties[op.path]; !there {
		return cloud.Errorf(cloud.KindConflict, "Property %s does not exist.", op.path)
	}
	delete(i.Properties, op.path)
	return nil
}

func (op *operation) setCustom(i *cloud.Image) error {
	if _, there := i.Properties[op.path]; !there && op.verb == "replace" {
		return cloud.Errorf(cloud.KindConflict, "Property %s does not exist.", op.path)
	}
	text, err := op.text()
	if err != nil {
		return err
	}
	return setProperty(i, op.path, text)
}

// addTag handles {"op": "add", "path": "/tags/-"}; a set has no other places.
func (op *operation) addTag(i *cloud.Image) error {
	text, err := op.text()
	if err != nil {
		return err
	}
	if op.verb != "add" || op.rest != "-" {
		return cloud.Errorf(cloud.KindForbidden, "Invalid JSON pointer for this resource: '/tags/%.50s'", op.rest)
	}
	return setTags(i, append(i.Tags[:len(i.Tags):len(i.Tags)], text))
}

// baseProperties are the built-in properties a patch may replace, each with how.
var baseProperties = map[string]func(*operation, *openstack.Caller, *cloud.Image) error{
	"name": func(op *operation, _ *openstack.Caller, i *cloud.Image) error {
		return op.setText(&i.Name, nameRunesMax)
	},
	"owner": func(op *operation, c *openstack.Caller, i *cloud.Image) error {
		text, err := op.text()
		if err != nil {
			return err
		}
		return setOwner(c, i, text)
	},
	"visibility": func(op *operation, c *openstack.Caller, i *cloud.Image) error {
		text, err := op.choice(visibilities)
		if err != nil {
			return err
		}
		return setVisibility(c, i, text)
	},
	"protected": func(op *operation, _ *openstack.Caller, i *cloud.Image) error { return op.setFlag(&i.Protected) },
	"os_hidden": func(op *operation, _ *openstack.Caller, i *cloud.Image) error { return op.setFlag(&i.Hidden) },
	"min_disk":  func(op *operation, _ *openstack.Caller, i *cloud.Image) error { return op.setSize(&i.MinDiskGiB) },
	"min_ram":   func(op *operation, _ *openstack.Caller, i *cloud.Image) error { return op.setSize(&i.MinRAMMiB) },
	"disk_format": func(op *operation, _ *openstack.Caller, i *cloud.Image) error {
		return op.setFormat(i, &i.DiskFormat, diskFormats)
	},
	"container_format": func(op *operation, _ *openstack.Caller, i *cloud.Image) error {
		return op.setFormat(i, &i.ContainerFormat, containerFormats)
	},
	"tags": func(op *operation, _ *openstack.Caller, i *cloud.Image) error {
		list, ok := op.value.([]any)
		if !ok {
			return op.located(openstack.Mismatch(op.value, "array"))
		}
		tags := make([]string, len(list))
		for n := range list {
			if tags[n], ok = list[n].(string); !ok {
				return op.located(openstack.Mismatch(list[n], "string"))
			}
		}
		return setTags(i, tags)
	},
}

// located names the property in a schema violation.
func (op *operation) located(err error) error {
	if in, ok := err.(*openstack.InputError); ok { //nolint:errorlint // fresh from Mismatch or Refuse
		in.Path = []string{op.path}
	}
	return err
}

func (op *operation) text() (string, error) {
	s, ok := op.value.(string)
	if !ok {
		return "", op.located(openstack.Mismatch(op.value, "string"))
	}
	return s, nil
}

func (op *operation) choice(from []string) (string, error) {
	s, err := op.text()
	if err != nil {
		return "", err
	}
	for _, c := range from {
		if c == s {
			return s, nil
		}
	}
	return "", op.located(openstack.Refuse(s, "is not one of ['%s']", strings.Join(from, "', '")))
}

func (op *operation) setText(to *string, runesMax int) error {
	if op.value == nil {
		*to = ""
		return nil
	}
	s, err := op.text()
	if err != nil {
		return err
	}
	if len([]rune(s)) > runesMax {
		return op.located(openstack.Refuse(s, "is too long"))
	}
	*to = s
	return nil
}

func (op *operation) setFlag(to *bool) error {
	b, ok := op.value.(bool)
	if !ok {
		return op.located(openstack.Mismatch(op.value, "boolean"))
	}
	*to = b
	return nil
}

func (op *operation) setSize(to *int) error {
	number, ok := op.value.(json.Number)
	n, err := number.Int64()
	if !ok || err != nil {
		return op.located(openstack.Mismatch(op.value, "integer"))
	}
	if n < 0 || n > minSizeMax {
		return op.located(openstack.Refuse(op.value, "is out of range"))
	}
	*to = int(n)
	return nil
}

// setFormat changes a format, which is possible until there is data.
func (op *operation) setFormat(i *cloud.Image, to *string, from []string) error {
	s, err := op.choice(from)
	if err != nil {
		return err
	}
	if i.Status != cloud.ImageQueued && s != *to {
		return cloud.E(cloud.KindForbidden, "", "", fmt.Errorf("Attribute %s can be only replaced for a queued image.", op.path)) //nolint:staticcheck,revive // Glance's sentence
	}
	*to = s
	return nil
}
