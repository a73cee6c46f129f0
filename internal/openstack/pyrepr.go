package openstack

import (
	"encoding/json"
	"strings"
	"unicode"
)

// reprMax bounds how much of a client's value an error message repeats.
const reprMax = 512

// pyText writes a value as Python's str() would: strings bare, all else as repr.
func pyText(v any) string {
	if s, ok := v.(string); ok {
		return clip(s)
	}
	return pyRepr(v)
}

// pyRepr writes a parsed JSON value as Python's repr() would, since OpenStack's messages, and tests that read them, quote values so.
func pyRepr(v any) string {
	var b strings.Builder
	appendRepr(&b, v)
	return clip(b.String())
}

func clip(s string) string {
	if len(s) <= reprMax {
		return s
	}
	return strings.ToValidUTF8(s[:reprMax], "") + "..."
}

func appendRepr(b *strings.Builder, v any) {
	if b.Len() > reprMax {
		return
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case json.Number:
		b.WriteString(v.String())
	case string:
		reprString(b, v)
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			appendRepr(b, e)
		}
		b.WriteByte(']')
	case *Object:
		b.WriteByte('{')
		for i, n := range v.Names {
			if i > 0 {
				b.WriteString(", ")
			}
			reprString(b, n)
			b.WriteString(": ")
			appendRepr(b, v.values[n])
		}
		b.WriteByte('}')
	}
}

func reprString(b *strings.Builder, s string) {
	quote := '\''
	if strings.ContainsRune(s, '\'') && !strings.ContainsRune(s, '"') {
		quote = '"'
	}
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case !unicode.IsPrint(r):
			const hex = "0123456789abcdef"
			b.WriteString(`\u`)
			for shift := 12; shift >= 0; shift -= 4 {
				b.WriteByte(hex[(r>>shift)&15])
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteRune(quote)
}
