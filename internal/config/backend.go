package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Backend is one directory that a volume service keeps volumes in.
type Backend struct {
	Name     string
	Kind     string // "file" or "gluster"
	Path     string // absolute
	DirectIO string // "auto", "on" or "off"
}

// Backends are a volume service's directories. In the file they are a list of name, kind, path and direct_io; as text NAME:KIND:PATH:DIRECT_IO
// separated by commas. What is left out at the end, or of the list's keys, has its default.
type Backends []Backend

const (
	kindDefault     = "file"
	directIODefault = "auto"
)

// ParseBackends reads the text form.
func ParseBackends(text string) (Backends, error) {
	var out Backends
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		parts := strings.Split(item, ":")
		if len(parts) < 3 || len(parts) > 4 {
			return nil, fmt.Errorf("%q is not a back end such as main:file:/var/lib/godwit/volumes/main or main:file:/srv/volumes:on", item)
		}
		b := Backend{Name: parts[0], Kind: parts[1], Path: parts[2], DirectIO: directIODefault}
		if len(parts) == 4 {
			b.DirectIO = parts[3]
		}
		out = append(out, b)
	}
	return out, nil
}

// String returns the text form.
func (b Backends) String() string {
	items := make([]string, len(b))
	for i, e := range b {
		items[i] = strings.Join([]string{e.Name, e.Kind, e.Path, e.DirectIO}, ":")
	}
	return strings.Join(items, ",")
}

// yamlText returns the list as YAML in one line.
func (b Backends) yamlText() string {
	items := make([]string, len(b))
	for i, e := range b {
		items[i] = fmt.Sprintf("{name: %q, kind: %q, path: %q, direct_io: %q}", e.Name, e.Kind, e.Path, e.DirectIO)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// backendsText returns the text form of a YAML list.
func backendsText(n *yaml.Node) (string, error) {
	var items Backends
	var errs []error
	for _, item := range n.Content {
		b, err := backendOf(item)
		items = append(items, b)
		errs = append(errs, err)
	}
	return items.String(), errors.Join(errs...)
}

func backendOf(n *yaml.Node) (Backend, error) {
	b := Backend{Kind: kindDefault, DirectIO: directIODefault}
	if n.Kind != yaml.MappingNode {
		return b, fmt.Errorf("line %d: a back end has name, kind, path and direct_io", n.Line)
	}
	fields := map[string]*string{"name": &b.Name, "kind": &b.Kind, "path": &b.Path, "direct_io": &b.DirectIO}
	names := []string{"name", "kind", "path", "direct_io"}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := fields[key.Value]
		switch {
		case field == nil:
			return b, fmt.Errorf("line %d: unknown key %q of a back end%s", key.Line, key.Value, didYouMean(key.Value, names))
		case value.Kind != yaml.ScalarNode:
			return b, fmt.Errorf("line %d: %s must be a plain value", value.Line, key.Value)
		case strings.ContainsAny(value.Value, ",:"):
			return b, fmt.Errorf("line %d: %s must not contain commas or colons, is %q", value.Line, key.Value, value.Value)
		}
		*field = value.Value
	}
	return b, nil
}

func (b Backends) validate(v *validator, setting string) {
	var names, paths []string
	for _, e := range b {
		v.must(e.Name != "" && !strings.ContainsAny(e.Name, "/@# \t"), setting, "must have names without slashes, spaces, @ and #, one is %q", e.Name)
		v.must(!slices.Contains(names, e.Name), setting, "must have a name for each, %q is there twice", e.Name)
		v.oneOf(setting+" "+e.Name+": kind", e.Kind, "file", "gluster")
		v.oneOf(setting+" "+e.Name+": direct_io", e.DirectIO, "auto", "on", "off")
		v.path(setting+" "+e.Name+": path", e.Path)
		clean := filepath.Clean(e.Path)
		v.must(!slices.Contains(paths, clean), setting, "must have a directory for each, %s is there twice", clean)
		names, paths = append(names, e.Name), append(paths, clean)
	}
	v.must(len(b) > 0, setting, "must name at least one")
}
