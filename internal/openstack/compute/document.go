package compute

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// A document appends JSON to a buffer, member by member, so that a list of a thousand servers is written without reflection and
// without an intermediate tree. Commas are set by looking at the last byte. Names are constants of the program and need no escaping.
type document struct {
	b     []byte
	names []string // reused by texts
}

func (d *document) comma() {
	if n := len(d.b); n > 0 && d.b[n-1] != '{' && d.b[n-1] != '[' && d.b[n-1] != ':' {
		d.b = append(d.b, ',')
	}
}

func (d *document) key(name string) {
	d.comma()
	d.b = append(d.b, '"')
	d.b = append(d.b, name...)
	d.b = append(d.b, '"', ':')
}

// begin opens an object that is the whole document, an item, or the value of a key just written.
func (d *document) begin() {
	d.comma()
	d.b = append(d.b, '{')
}

func (d *document) close(bracket byte) { d.b = append(d.b, bracket) }

// object begins the member name, an object; the caller closes it with close('}').
func (d *document) object(name string) {
	d.key(name)
	d.b = append(d.b, '{')
}

// array begins the member name, an array; the caller closes it with close(']').
func (d *document) array(name string) {
	d.key(name)
	d.b = append(d.b, '[')
}

func (d *document) text(name, value string) {
	d.key(name)
	d.b = openstack.AppendString(d.b, value)
}

// textOrNull writes null for the empty text.
func (d *document) textOrNull(name, value string) {
	if value == "" {
		d.null(name)
		return
	}
	d.text(name, value)
}

func (d *document) item(value string) {
	d.comma()
	d.b = openstack.AppendString(d.b, value)
}

func (d *document) integer(name string, value int) {
	d.key(name)
	d.b = strconv.AppendInt(d.b, int64(value), 10)
}

func (d *document) boolean(name string, value bool) {
	d.key(name)
	d.b = strconv.AppendBool(d.b, value)
}

func (d *document) null(name string) {
	d.key(name)
	d.b = append(d.b, "null"...)
}

// seconds writes a time as Nova writes most: "2026-01-02T15:04:05Z".
func (d *document) seconds(name string, t time.Time) {
	d.key(name)
	d.b = append(d.b, '"')
	d.b = t.UTC().AppendFormat(d.b, "2006-01-02T15:04:05Z")
	d.b = append(d.b, '"')
}

// microseconds writes a time as Nova writes launch times: "2026-01-02T15:04:05.000000", null for none.
func (d *document) microseconds(name string, t time.Time) {
	if t.IsZero() {
		d.null(name)
		return
	}
	d.key(name)
	d.b = append(d.b, '"')
	d.b = t.UTC().AppendFormat(d.b, "2006-01-02T15:04:05.000000")
	d.b = append(d.b, '"')
}

// texts writes an object of texts in the order of its names, so that equal records have equal documents.
func (d *document) texts(name string, values map[string]string) {
	d.object(name)
	d.names = slices.AppendSeq(d.names[:0], maps.Keys(values))
	slices.Sort(d.names)
	for _, k := range d.names {
		d.comma()
		d.b = openstack.AppendString(d.b, k)
		d.b = append(d.b, ':')
		d.b = openstack.AppendString(d.b, values[k])
	}
	d.close('}')
}
