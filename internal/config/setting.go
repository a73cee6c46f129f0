package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// A Setting is one leaf of Config, bound to one Config value.
type Setting struct {
	Section string
	Key     string
	Usage   string
	Secret  bool
	value   reflect.Value
}

// Path returns the setting's name in the file, "server.api_listen".
func (s Setting) Path() string { return s.Section + "." + s.Key }

// Env returns the setting's environment variable, "GODWIT_SERVER_API_LISTEN".
func (s Setting) Env() string { return envPrefix + strings.ToUpper(s.Section+"_"+s.Key) }

// Flag returns the setting's flag without dashes, for a command whose own section is main.
func (s Setting) Flag(main string) string {
	name := strings.ReplaceAll(s.Key, "_", "-")
	if s.Section != main {
		name = s.Section + "-" + name
	}
	return name
}

// Type returns the word that help texts show for the kind of value.
func (s Setting) Type() string {
	switch s.value.Interface().(type) {
	case time.Duration:
		return "duration"
	case Size:
		return "size"
	case []string:
		return "list"
	case Backends:
		return "back ends"
	case bool:
		return "bool"
	case int:
		return "int"
	case float64:
		return "float"
	}
	return "string"
}

// Text returns the value as it would be written in the file.
func (s Setting) Text() string {
	switch v := s.value.Interface().(type) {
	case time.Duration:
		return v.String()
	case Size:
		return v.String()
	case Backends:
		return v.String()
	case []string:
		return strings.Join(v, ",")
	default:
		return fmt.Sprint(v)
	}
}

// Set parses text into the setting. Lists are separated by commas. Errors say what would have been right.
func (s Setting) Set(text string) error {
	switch p := s.value.Addr().Interface().(type) {
	case *string:
		*p = text
	case *[]string:
		*p = nil
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*p = append(*p, part)
			}
		}
	case *bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		*p = v
	case *int:
		v, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*p = v
	case *float64:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		*p = v
	case *time.Duration:
		v, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 300ms, 10s or 5m", text)
		}
		*p = v
	case *Size:
		v, err := ParseSize(text)
		if err != nil {
			return err
		}
		*p = v
	case *Backends:
		v, err := ParseBackends(text)
		if err != nil {
			return err
		}
		*p = v
	default:
		panic(fmt.Sprintf("config: %s has type %T, which Set does not know", s.Path(), p))
	}
	return nil
}

// Settings returns every setting, bound to c, in the order of the structs.
func (c *Config) Settings() []Setting {
	var out []Setting
	root := reflect.ValueOf(c).Elem()
	for i := range root.NumField() {
		section := root.Type().Field(i).Tag.Get("key")
		fields := root.Field(i)
		for j := range fields.NumField() {
			tag := fields.Type().Field(j).Tag
			out = append(out, Setting{Section: section, Key: tag.Get("key"), Usage: tag.Get("usage"),
				Secret: tag.Get("secret") != "", value: fields.Field(j)})
		}
	}
	return out
}

// sectionUsage returns the sections and what they are for, in order.
func sectionUsage() (names, usages []string) {
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("key"))
		usages = append(usages, t.Field(i).Tag.Get("usage"))
	}
	return names, usages
}

// Size is a number of bytes, written with an optional unit: 512, 64KiB, 100MiB, 2GiB.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads a Size.
func ParseSize(text string) (Size, error) {
	number, factor := text, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			number, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v < 0 || v > (1<<62)/factor {
		return 0, fmt.Errorf("%q is not a size such as 512, 64KiB, 100MiB or 2GiB", text)
	}
	return Size(v * factor), nil
}

// String returns the size in the greatest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 && u.bytes > 1 {
			return fmt.Sprintf("%d%s", int64(s)/u.bytes, u.suffix)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
