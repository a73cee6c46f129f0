package compute

import (
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// The types of this file are the compute API's parameter types: each binds from JSON, checks what a tag cannot say, and words a violation as Nova does.

const nameLengthMax = 255

// displayName is a name of a server, flavor, aggregate and so on: printable, without white space at its ends.
type displayName string

// BindJSON implements openstack.Binder.
func (n *displayName) BindJSON(v any) error {
	s, err := boundedText(v, 1, nameLengthMax)
	if err != nil {
		return err
	}
	if !isName(s) {
		return badName("printable characters. Can not start or end with whitespace.")
	}
	*n = displayName(s)
	return nil
}

// zoneName is the name of an availability zone as an aggregate gives it.
type zoneName string

// BindJSON implements openstack.Binder.
func (n *zoneName) BindJSON(v any) error {
	s, ok := v.(string)
	if !ok || s == "" || utf8.RuneCountInString(s) > nameLengthMax || !isName(s) || strings.Contains(s, ":") {
		return openstack.Refuse(v, "is not valid under any of the given schemas")
	}
	*n = zoneName(s)
	return nil
}

func badName(mustBe string) error {
	return cloud.Errorf(cloud.KindInvalid, "An invalid 'name' value was provided. The name must be: %s", mustBe)
}

func boundedText(v any, lengthMin, lengthMax int) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", openstack.Mismatch(v, "string")
	}
	switch n := utf8.RuneCountInString(s); {
	case n < lengthMin:
		return "", openstack.Refuse(v, "is too short")
	case n > lengthMax:
		return "", openstack.Refuse(v, "is too long")
	}
	return s, nil
}

func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r) }) < 0
}

func isName(s string) bool { return isPrintable(s) && strings.TrimSpace(s) == s }

// description is free text without control characters; null clears it.
type description struct {
	set  bool
	text string
}

const descriptionLengthMax = 255

// BindJSON implements openstack.Binder.
func (d *description) BindJSON(v any) error {
	d.set = true
	if v == nil {
		return nil
	}
	s, ok := v.(string)
	switch {
	case !ok:
		return openstack.Mismatch(v, "string", "null")
	case utf8.RuneCountInString(s) > descriptionLengthMax:
		return openstack.Refuse(v, "is too long")
	case !isPrintable(s):
		return openstack.Refuse(v, "does not match the allowed characters: printable ones")
	}
	d.text = s
	return nil
}

// uuidText is an identifier in UUID form, with or without hyphens.
type uuidText string

// BindJSON implements openstack.Binder.
func (u *uuidText) BindJSON(v any) error {
	s, ok := v.(string)
	switch {
	case !ok:
		return openstack.Mismatch(v, "string")
	case !isUUID(s):
		return openstack.Refuse(v, "is not a 'uuid'")
	}
	*u = uuidText(s)
	return nil
}

var hexDigits32 = regexp.MustCompile(`^[0-9a-fA-F]{32}$`)

// isUUID reports whether s is a UUID with or without its hyphens, as OpenStack accepts both.
func isUUID(s string) bool {
	return len(s) <= 36 && hexDigits32.MatchString(strings.ReplaceAll(s, "-", ""))
}

// address is an IPv4 or IPv6 address.
type address string

// BindJSON implements openstack.Binder.
func (a *address) BindJSON(v any) error {
	s, ok := v.(string)
	if !ok {
		return openstack.Mismatch(v, "string")
	}
	if _, err := netip.ParseAddr(s); err != nil {
		return openstack.Refuse(v, "is not valid under any of the given schemas")
	}
	*a = address(s)
	return nil
}

// accessIPv4 and accessIPv6 are addresses of one family.
type accessIPv4 string
type accessIPv6 string

// BindJSON implements openstack.Binder.
func (a *accessIPv4) BindJSON(v any) error {
	s, err := addressOf(v, "ipv4", netip.Addr.Is4)
	*a = accessIPv4(s)
	return err
}

// BindJSON implements openstack.Binder.
func (a *accessIPv6) BindJSON(v any) error {
	s, err := addressOf(v, "ipv6", netip.Addr.Is6)
	*a = accessIPv6(s)
	return err
}

func addressOf(v any, family string, is func(netip.Addr) bool) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", openstack.Mismatch(v, "string")
	}
	if a, err := netip.ParseAddr(s); err != nil || !is(a) {
		return "", openstack.Refuse(v, "is not a '%s'", family)
	}
	return s, nil
}

// userData is base64 text; line breaks between the digits are allowed, as many tools write them.
type userData string

const userDataLengthMax = 65535

// BindJSON implements openstack.Binder.
func (u *userData) BindJSON(v any) error {
	s, err := boundedText(v, 0, userDataLengthMax)
	if err != nil {
		return err
	}
	if _, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), "")); err != nil {
		return openstack.Refuse(v, "is not a 'base64'")
	}
	*u = userData(s)
	return nil
}

// booleanWords is how Nova's messages list what a boolean may be.
const booleanWords = "True, 'True', 'TRUE', 'true', '1', 'ON', 'On', 'on', 'YES', 'Yes', 'yes', " +
	"False, 'False', 'FALSE', 'false', '0', 'OFF', 'Off', 'off', 'NO', 'No', 'no'"

// boolean is true or false, also as text.
type boolean bool

// BindJSON implements openstack.Binder.
func (b *boolean) BindJSON(v any) error {
	value, err := parseBoolean(v, "")
	*b = boolean(value)
	return err
}

// parseBoolean reads a boolean or its spellings; more is appended to the list of words in the message.
func parseBoolean(v any, more string) (bool, error) {
	switch v := v.(type) {
	case bool:
		return v, nil
	case string:
		for _, word := range []string{"True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes"} {
			if v == word {
				return true, nil
			}
		}
		for _, word := range []string{"False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no"} {
			if v == word {
				return false, nil
			}
		}
		return false, openstack.Refuse(v, "is not one of [%s%s]", booleanWords, more)
	}
	return false, openstack.Mismatch(v, "boolean", "string")
}

// queryBoolean reads a boolean from a query, where more spellings are known. ok is false for anything else.
func queryBoolean(s string) (value, ok bool) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "1", "t", "true", "on", "y", "yes":
		return true, true
	case "0", "f", "false", "off", "n", "no":
		return false, true
	}
	return false, false
}

// integerIn reads an integer or its text, from low to int32Max, worded as Nova's volume_size, positive_integer and quota types do.
func integerIn(v any, low int64) (int, error) {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		if !decimal.MatchString(v) {
			return 0, openstack.Refuse(v, "does not match '^[0-9]*$'")
		}
		text = v
	default:
		return 0, openstack.Mismatch(v, "integer", "string")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil && strings.ContainsAny(text, ".eE"):
		return 0, openstack.Mismatch(v, "integer", "string")
	case err != nil && strings.HasPrefix(text, "-") || err == nil && n < low:
		return 0, openstack.Refuse(json.Number(text), "is less than the minimum of %d", low)
	case err != nil || n > int32Max:
		return 0, openstack.Refuse(json.Number(text), "is greater than the maximum of %d", int32Max)
	}
	return int(n), nil
}

var decimal = regexp.MustCompile(`^-?[0-9]+$`)

// int32Max is Nova's bound for all sizes and limits.
const int32Max = 1<<31 - 1

// positive and natural are integers of at least 1 and 0; limit is a quota, where -1 means unlimited. All may be given as text.
type positive int
type natural int
type limit int

// BindJSON implements openstack.Binder.
func (n *positive) BindJSON(v any) (err error) {
	i, err := integerIn(v, 1)
	*n = positive(i)
	return err
}

// BindJSON implements openstack.Binder.
func (n *natural) BindJSON(v any) (err error) {
	i, err := integerIn(v, 0)
	*n = natural(i)
	return err
}

// BindJSON implements openstack.Binder.
func (n *limit) BindJSON(v any) (err error) {
	i, err := integerIn(v, -1)
	*n = limit(i)
	return err
}

// hostName is a compute host's name.
type hostName string

var hostNamePattern = regexp.MustCompile(`^[a-zA-Z0-9-._]*$`)

// BindJSON implements openstack.Binder.
func (h *hostName) BindJSON(v any) error {
	s, err := boundedText(v, 1, nameLengthMax)
	if err != nil {
		return err
	}
	if !hostNamePattern.MatchString(s) {
		return openstack.Refuse(v, "does not match '^[a-zA-Z0-9-._]*$'")
	}
	*h = hostName(s)
	return nil
}

// tag is a server or device tag.
type tag string

const tagLengthMax = 60

// BindJSON implements openstack.Binder.
func (t *tag) BindJSON(v any) error {
	s, err := boundedText(v, 1, tagLengthMax)
	if err != nil {
		return err
	}
	if strings.ContainsAny(s, ",/") {
		return openstack.Refuse(v, "does not match '^[^,/]*$'")
	}
	*t = tag(s)
	return nil
}

// metadata is a set of names and texts.
type metadata map[string]string

var metadataKey = regexp.MustCompile(`^[a-zA-Z0-9-_:. ]{1,255}$`)

// BindJSON implements openstack.Binder.
func (m *metadata) BindJSON(v any) error {
	pairs, err := metadataPairs(v, func(v any) (string, error) { return boundedText(v, 0, nameLengthMax) })
	*m = pairs
	return err
}

// metadataOrNull is metadata in which null marks a name for removal.
type metadataOrNull map[string]*string

// BindJSON implements openstack.Binder.
func (m *metadataOrNull) BindJSON(v any) error {
	out := metadataOrNull{}
	object, ok := v.(*openstack.Object)
	if !ok {
		return openstack.Mismatch(v, "object")
	}
	for _, name := range object.Names {
		value, _ := object.Get(name)
		if value == nil && metadataKey.MatchString(name) {
			out[name] = nil
		}
	}
	pairs, err := metadataPairs(v, func(v any) (string, error) {
		if v == nil {
			return "", nil
		}
		return boundedText(v, 0, nameLengthMax)
	})
	for name, value := range pairs {
		if _, null := out[name]; !null {
			out[name] = &value
		}
	}
	*m = out
	return err
}

func metadataPairs(v any, text func(any) (string, error)) (map[string]string, error) {
	object, ok := v.(*openstack.Object)
	if !ok {
		return nil, openstack.Mismatch(v, "object")
	}
	out := make(map[string]string, len(object.Names))
	for _, name := range object.Names {
		if !metadataKey.MatchString(name) {
			return nil, &openstack.InputError{Value: v, Reason: strconv.Quote(name) + " does not match any of the regexes: '^[a-zA-Z0-9-_:. ]{1,255}$'"}
		}
		value, _ := object.Get(name)
		s, err := text(value)
		if err != nil {
			return nil, inside(err, name, value)
		}
		out[name] = s
	}
	return out, nil
}

// inside says that err is about a member of the value being bound.
func inside(err error, name string, value any) error {
	if in, ok := err.(*openstack.InputError); ok { //nolint:errorlint // only an error fresh from a binder may be completed
		in.Path = append([]string{name}, in.Path...)
		if in.Value == nil {
			in.Value = value
		}
	}
	return err
}

// timeLayouts are the spellings of ISO 8601 that clients send.
var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999", "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04",
	"2006-01-02 15:04:05.999999Z07:00", "2006-01-02 15:04:05.999999", "2006-01-02T15:04:05.999999-0700", "2006-01-02",
}

// parseTime reads a time as OpenStack clients write it; without a zone it is UTC.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
