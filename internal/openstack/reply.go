package openstack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"unicode/utf8"
)

// An Appender writes its own JSON. Views that are listed by the thousand implement it: encoding/json's reflection costs five times as much.
type Appender interface {
	AppendJSON(b []byte) []byte
}

// replyKeptMax is the largest buffer kept for the next answer: a page of 1,000 servers fits, one giant answer is not held for ever.
const replyKeptMax = 4 << 20

var replies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// WriteJSON answers with the status and v as JSON, whole, with its length. An error means nothing was written if v does not encode (that is
// our bug), or that the client went away.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	buf := replies.Get().(*bytes.Buffer)
	buf.Reset()
	defer func() {
		if buf.Cap() <= replyKeptMax {
			replies.Put(buf)
		}
	}()
	if a, ok := v.(Appender); ok {
		buf.Write(a.AppendJSON(buf.AvailableBuffer()))
	} else {
		e := json.NewEncoder(buf)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		buf.Truncate(buf.Len() - 1) // the encoder's newline
	}
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	h.Set("Content-Length", strconv.Itoa(buf.Len()))
	w.WriteHeader(status)
	// The status is out; a failed write means the client is gone, and the server's connection handling deals with that.
	_, _ = w.Write(buf.Bytes())
	return nil
}

// NoContent answers 204.
func NoContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// AppendString appends s as a JSON string, for Appenders. Invalid UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			b = append(b, s[start:i]...)
			b = append(b, "\ufffd"...)
			i++
			start = i
			continue
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
