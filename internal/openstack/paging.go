package openstack

import (
	"net/http"
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A Page is what a client asked of a list: at most Limit items, those behind the item whose id is Marker.
type Page struct {
	Limit  int    // 1..the list's maximum
	Marker string // empty: from the start
}

// PageMax bounds every list, as Nova's and Glance's max_limit do.
const PageMax = 1000

// Page reads limit and marker. A limit above max is lowered to it, as Nova does; limit 0 means max in Nova. A limit that is not a number or is negative
// is refused in Nova's words.
func (r *Request) Page(max int) (Page, error) {
	q := r.URL.Query()
	p := Page{Limit: max, Marker: q.Get("marker")}
	text := q.Get("limit")
	if text == "" {
		return p, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return p, &StatusError{Code: http.StatusBadRequest, Text: "Invalid input for query parameters limit. Value: " + clip(text) +
			". " + pyRepr(text) + " does not match '^[0-9]*$'"}
	}
	if n > 0 && n < max {
		p.Limit = n
	}
	return p, nil
}

// Next returns the URL of the page behind the item with this id: the same path and query with the marker replaced.
func (r *Request) Next(path, lastID string) string {
	q := r.URL.Query()
	q.Set("marker", lastID)
	return r.PublicURL(path, "?", q.Encode())
}

// BadMarker is the answer to a marker that names nothing, in Nova's words.
func BadMarker(marker string) error {
	return cloud.Errorf(cloud.KindInvalid, "marker [%s] not found", marker)
}

// Slice returns the items of one page of an already sorted list, and whether more follow. A marker that no item has is BadMarker.
func Slice[T any](items []T, p Page, id func(T) string) (page []T, more bool, err error) {
	if p.Marker != "" {
		at := -1
		for i := range items {
			if id(items[i]) == p.Marker {
				at = i
				break
			}
		}
		if at < 0 {
			return nil, false, BadMarker(p.Marker)
		}
		items = items[at+1:]
	}
	if len(items) > p.Limit {
		return items[:p.Limit], true, nil
	}
	return items, false, nil
}
