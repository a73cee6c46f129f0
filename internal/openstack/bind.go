package openstack

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Binder decodes its own JSON form, for values of more than one type ("auto", "none" or a list). v is nil, bool, json.Number, string, []any
// or *Object. The error should come from Mismatch or be an *InputError without Path; Bind completes it.
type Binder interface {
	BindJSON(v any) error
}

// Mismatch is the error of a value that is of none of the JSON types named ("string", "array", ...).
func Mismatch(v any, types ...string) error {
	return &InputError{Value: v, Reason: fmt.Sprintf("%s is not of type '%s'", pyRepr(v), strings.Join(types, "', '"))}
}

// Refuse is the error of a value of the right type that is not acceptable; the reason follows the value's repr: "is too long".
func Refuse(v any, format string, args ...any) error {
	return &InputError{Value: v, Reason: pyRepr(v) + " " + fmt.Sprintf(format, args...)}
}

// Decode reads the JSON body and binds it to the struct that into points to, under the request's microversion.
func (r *Request) Decode(w http.ResponseWriter, into any) error {
	o, err := r.Object(w)
	if err != nil {
		return err
	}
	return Bind(o, into, r.Version)
}

// Object reads the JSON body, which must be an object.
func (r *Request) Object(w http.ResponseWriter) (*Object, error) {
	limit := r.dialect.BodyBytesMax
	if limit == 0 {
		limit = BodyBytesMaxDefault
	}
	data, err := ReadBody(w, r.Request, limit)
	if err != nil {
		return nil, err
	}
	return ParseObject(data)
}

// Bind stores a parsed object in the struct that into points to. Fields are matched by their json tag; fields without one are left alone.
// Go types bind to JSON so: string, bool, int, int64, float64, slices, map[string]T, structs, *T (absent stays nil), any (maps and
// slices as encoding/json makes them), *Object, and every Binder. What a struct does not name is refused, unless a field of type
// map[string]string or map[string]any has the tag `api:"extra"`, which collects it.
//
// The api tag holds, separated by semicolons:
//
//	required        the property must be there
//	null            null is allowed and leaves the field as it is
//	len=1..255      length of a string (characters) or slice (items); either end may be missing
//	range=0..65535  value of a number; either end may be missing
//	enum=a|b        the string must be one of these
//	match=REGEXP    the string must match; a semicolon cannot be part of it
//	loose           booleans and integers may also be given as strings, as Nova allows in places
//	unique          no two items of a slice are equal
//	since=2.19      unknown before this microversion
//	until=2.24      unknown after this microversion
func Bind(o *Object, into any, version Microversion) error {
	b := binder{version: version}
	return b.object(o, reflect.ValueOf(into).Elem(), nil)
}

type binder struct{ version Microversion }

// field is one struct field's rule, parsed from its tags.
type field struct {
	index    int
	name     string
	required bool
	null     bool
	loose    bool
	unique   bool
	extra    bool
	length   bounds
	value    bounds
	enum     []string
	match    *regexp.Regexp
	since    Microversion
	until    Microversion
}

type bounds struct{ min, max float64 }

var unbounded = bounds{math.Inf(-1), math.Inf(1)}

func (b *binder) object(o *Object, into reflect.Value, path []string) error {
	rules := rulesOf(into.Type())
	if err := b.unknown(o, rules, into, path); err != nil {
		return err
	}
	for i := range rules.fields {
		f := &rules.fields[i]
		v, there := o.Get(f.name)
		if !there {
			if f.required && b.offers(f) {
				return &InputError{Path: path, Value: o, Reason: fmt.Sprintf("'%s' is a required property", f.name)}
			}
			continue
		}
		if err := b.field(v, f, into.Field(f.index), extend(path, f.name)); err != nil {
			return err
		}
	}
	return nil
}

// unknown refuses, or collects, the properties no field names at this version.
func (b *binder) unknown(o *Object, rules *rules, into reflect.Value, path []string) error {
	var strangers []string
	for _, name := range o.Names {
		if f := rules.byName[name]; f == nil || !b.offers(f) {
			strangers = append(strangers, name)
		}
	}
	if len(strangers) == 0 {
		return nil
	}
	if rules.extra != nil {
		for _, name := range strangers {
			if err := b.extra(name, o.values[name], into.Field(rules.extra.index), extend(path, name)); err != nil {
				return err
			}
		}
		return nil
	}
	slices.Sort(strangers)
	verb := "was"
	if len(strangers) > 1 {
		verb = "were"
	}
	return &InputError{Path: path, Value: o, Reason: fmt.Sprintf("Additional properties are not allowed ('%s' %s unexpected)",
		strings.Join(strangers, "', '"), verb)}
}

func (b *binder) extra(name string, v any, into reflect.Value, path []string) error {
	if into.IsNil() {
		into.Set(reflect.MakeMap(into.Type()))
	}
	elem := reflect.New(into.Type().Elem()).Elem()
	if err := b.value(v, &field{null: elem.Kind() == reflect.Interface, length: unbounded, value: unbounded}, elem, path); err != nil {
		return err
	}
	into.SetMapIndex(reflect.ValueOf(name), elem)
	return nil
}

func (b *binder) offers(f *field) bool {
	return (f.since == Microversion{} || !b.version.Before(f.since)) && (f.until == Microversion{} || !f.until.Before(b.version))
}

func extend(path []string, name string) []string { return append(slices.Clip(path), name) }

func (b *binder) field(v any, f *field, into reflect.Value, path []string) error {
	if v == nil && f.null {
		return nil
	}
	if err := b.value(v, f, into, path); err != nil {
		return err
	}
	return f.check(v, path)
}

// check applies the rules that look at the value as it was given.
func (f *field) check(v any, path []string) error {
	fail := func(format string, args ...any) error {
		return &InputError{Path: path, Value: v, Reason: pyRepr(v) + " " + fmt.Sprintf(format, args...)}
	}
	size := -1.0
	switch v := v.(type) {
	case string:
		size = float64(len([]rune(v)))
		if f.enum != nil && !slices.Contains(f.enum, v) {
			return fail("is not one of ['%s']", strings.Join(f.enum, "', '"))
		}
		if f.match != nil && !f.match.MatchString(v) {
			return fail("does not match '%s'", f.match)
		}
	case []any:
		size = float64(len(v))
		if f.unique && repeats(v) {
			return fail("has non-unique elements")
		}
	}
	if size >= 0 && size < f.length.min {
		return fail("is too short")
	}
	if size > f.length.max {
		return fail("is too long")
	}
	return nil
}

func repeats(items []any) bool {
	seen := map[string]bool{}
	for _, v := range items {
		text := pyRepr(v)
		if seen[text] {
			return true
		}
		seen[text] = true
	}
	return false
}

// value stores v in into, whose type says what v must be.
func (b *binder) value(v any, f *field, into reflect.Value, path []string) error {
	if binder, ok := into.Addr().Interface().(Binder); ok {
		return located(binder.BindJSON(v), v, path)
	}
	switch into.Interface().(type) {
	case *Object:
		o, ok := v.(*Object)
		if !ok {
			return f.mismatch(v, path, "object")
		}
		into.Set(reflect.ValueOf(o))
		return nil
	}
	switch into.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(into.Type().Elem())
		if err := b.value(v, f, fresh.Elem(), path); err != nil {
			return err
		}
		into.Set(fresh)
		return nil
	case reflect.Interface:
		if p := plain(v); p != nil {
			into.Set(reflect.ValueOf(p))
		}
		return nil
	case reflect.Slice, reflect.Map, reflect.Struct:
		return b.composite(v, f, into, path)
	}
	return f.scalar(v, into, path)
}

func (b *binder) composite(v any, f *field, into reflect.Value, path []string) error {
	items := &field{length: unbounded, value: unbounded}
	if into.Kind() == reflect.Slice {
		list, ok := v.([]any)
		if !ok {
			return f.mismatch(v, path, "array")
		}
		out := reflect.MakeSlice(into.Type(), len(list), len(list))
		for i := range list {
			if err := b.value(list[i], items, out.Index(i), extend(path, strconv.Itoa(i))); err != nil {
				return err
			}
		}
		into.Set(out)
		return nil
	}
	o, ok := v.(*Object)
	if !ok {
		return f.mismatch(v, path, "object")
	}
	if into.Kind() == reflect.Struct {
		return b.object(o, into, path)
	}
	out := reflect.MakeMapWithSize(into.Type(), len(o.Names))
	for _, name := range o.Names {
		elem := reflect.New(into.Type().Elem()).Elem()
		if err := b.value(o.values[name], items, elem, extend(path, name)); err != nil {
			return err
		}
		out.SetMapIndex(reflect.ValueOf(name).Convert(into.Type().Key()), elem)
	}
	into.Set(out)
	return nil
}

func (f *field) scalar(v any, into reflect.Value, path []string) error {
	switch into.Kind() {
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			return f.mismatch(v, path, "string")
		}
		into.SetString(s)
		return nil
	case reflect.Bool:
		t, ok := f.boolean(v)
		if !ok {
			return f.mismatch(v, path, "boolean")
		}
		into.SetBool(t)
		return nil
	case reflect.Int, reflect.Int64:
		n, ok := f.integer(v)
		if !ok {
			return f.mismatch(v, path, "integer")
		}
		into.SetInt(n)
		return f.checkRange(float64(n), v, path)
	case reflect.Float64:
		number, ok := v.(json.Number)
		x, err := number.Float64()
		if !ok || err != nil {
			return f.mismatch(v, path, "number")
		}
		into.SetFloat(x)
		return f.checkRange(x, v, path)
	}
	panic(fmt.Sprintf("openstack: Bind cannot fill a %s", into.Type())) // a schema that cannot work is a bug
}

// looseBooleans are the texts Nova's parameter_types.boolean takes.
var looseBooleans = map[string]bool{
	"true": true, "1": true, "on": true, "yes": true, "y": true, "t": true,
	"false": false, "0": false, "off": false, "no": false, "n": false, "f": false,
}

func (f *field) boolean(v any) (value, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		value, ok = looseBooleans[strings.ToLower(v)]
		return value, ok && f.loose
	case json.Number:
		value, ok = looseBooleans[v.String()]
		return value, ok && f.loose
	}
	return false, false
}

func (f *field) integer(v any) (int64, bool) {
	text, ok := "", false
	switch v := v.(type) {
	case json.Number:
		text, ok = v.String(), true
	case string:
		text, ok = v, f.loose
	}
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

func (f *field) checkRange(x float64, v any, path []string) error {
	if x < f.value.min {
		return &InputError{Path: path, Value: v, Reason: fmt.Sprintf("%s is less than the minimum of %v", pyRepr(v), f.value.min)}
	}
	if x > f.value.max {
		return &InputError{Path: path, Value: v, Reason: fmt.Sprintf("%s is greater than the maximum of %v", pyRepr(v), f.value.max)}
	}
	return nil
}

func (f *field) mismatch(v any, path []string, typ string) error {
	types := []string{typ}
	if f.null {
		types = append(types, "null")
	}
	return located(Mismatch(v, types...), v, path)
}

// located completes a Binder's error with where it happened.
func located(err error, v any, path []string) error {
	if in, ok := err.(*InputError); ok { //nolint:errorlint // only an error fresh from BindJSON may be completed
		if in.Value == nil {
			in.Value = v
		}
		in.Path = append(slices.Clip(path), in.Path...)
	}
	return err
}
