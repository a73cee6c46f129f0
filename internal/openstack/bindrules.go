package openstack

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// rules are a struct type's fields, parsed once.
type rules struct {
	fields []field
	byName map[string]*field
	extra  *field
}

// parsedRules caches rules by reflect.Type. It is bounded by the number of struct types in the program.
var parsedRules sync.Map

func rulesOf(t reflect.Type) *rules {
	if r, ok := parsedRules.Load(t); ok {
		return r.(*rules)
	}
	out := &rules{byName: map[string]*field{}}
	for i := range t.NumField() {
		sf := t.Field(i)
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		f := parseField(t, i, sf.Tag.Get("api"))
		if f.extra {
			out.extra = &f
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		f.name = name
		out.fields = append(out.fields, f)
	}
	for i := range out.fields {
		out.byName[out.fields[i].name] = &out.fields[i]
	}
	r, _ := parsedRules.LoadOrStore(t, out)
	return r.(*rules)
}

// parseField reads an api tag. A tag that cannot be read is a bug and panics at the first use of the type.
func parseField(t reflect.Type, index int, tag string) field {
	f := field{index: index, length: unbounded, value: unbounded}
	for part := range strings.SplitSeq(tag, ";") {
		name, arg, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "":
		case "required":
			f.required = true
		case "null":
			f.null = true
		case "loose":
			f.loose = true
		case "unique":
			f.unique = true
		case "extra":
			f.extra = true
		case "len":
			f.length = parseBounds(t, arg)
		case "range":
			f.value = parseBounds(t, arg)
		case "enum":
			f.enum = strings.Split(arg, "|")
		case "match":
			f.match = regexp.MustCompile(arg)
		case "since":
			f.since = mustMicroversion(t, arg)
		case "until":
			f.until = mustMicroversion(t, arg)
		default:
			panic(fmt.Sprintf("openstack: %s: unknown api tag %q", t, part))
		}
	}
	return f
}

func parseBounds(t reflect.Type, arg string) bounds {
	out := unbounded
	low, high, ok := strings.Cut(arg, "..")
	if !ok {
		panic(fmt.Sprintf("openstack: %s: bounds %q lack \"..\"", t, arg))
	}
	for _, end := range []struct {
		text string
		into *float64
	}{{low, &out.min}, {high, &out.max}} {
		if end.text == "" {
			continue
		}
		x, err := strconv.ParseFloat(end.text, 64)
		if err != nil {
			panic(fmt.Sprintf("openstack: %s: bounds %q: %v", t, arg, err))
		}
		*end.into = x
	}
	return out
}

func mustMicroversion(t reflect.Type, arg string) Microversion {
	m := microversionFormat.FindStringSubmatch(arg)
	if m == nil {
		panic(fmt.Sprintf("openstack: %s: bad microversion %q", t, arg))
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return Microversion{major, minor}
}
