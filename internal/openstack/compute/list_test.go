package compute

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// names returns the names of the listed servers in order.
func names(r reply) string {
	var out []string
	for _, s := range r.list("servers") {
		out = append(out, fmt.Sprint(s["name"]))
	}
	return strings.Join(out, " ")
}

func TestListsPageThroughEverythingOnceInEveryOrder(t *testing.T) {
	w := newSite(t)
	for i := 1; i <= 7; i++ {
		w.addServer(i, hostNameOf(i%3+1))
	}
	w.addServer(8, "compute-1", func(s *cloud.Server) { s.Project = bobProject })
	for query, want := range map[string]string{
		"":                                 "vm-7 vm-6 vm-5 vm-4 vm-3 vm-2 vm-1",
		"sort_key=display_name":            "vm-7 vm-6 vm-5 vm-4 vm-3 vm-2 vm-1",
		"sort_key=created_at&sort_dir=asc": "vm-1 vm-2 vm-3 vm-4 vm-5 vm-6 vm-7",
		"sort_dir=asc":                     "vm-1 vm-2 vm-3 vm-4 vm-5 vm-6 vm-7",
		"sort_key=uuid&sort_dir=asc":       "vm-1 vm-2 vm-3 vm-4 vm-5 vm-6 vm-7",
		"sort_key=id":                      "vm-7 vm-6 vm-5 vm-4 vm-3 vm-2 vm-1",
	} {
		var got []string
		path := "/servers?limit=3&" + query
		for pages := 0; path != ""; pages++ {
			r := w.want(200, "ann", 74, "GET", path, nil)
			got = append(got, strings.Fields(names(r))...)
			path = ""
			if links, ok := r.body["servers_links"].([]any); ok {
				path = strings.TrimPrefix(links[0].(map[string]any)["href"].(string), w.url+"/compute/v2.1")
			}
			if pages > 3 {
				t.Fatalf("%q: pages without end", query)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", query, got, want)
		}
	}
	w.refused(400, "marker [none] not found", "ann", 1, "GET", "/servers?marker=none", nil)
	w.refused(400, "marker [", "ann", 1, "GET", "/servers?marker="+string(serverID(8)), nil)
	w.refused(400, "Invalid input for query parameters sort_key", "ann", 1, "GET", "/servers?sort_key=bogus", nil)
	w.refused(400, "Invalid input for query parameters sort_key", "ann", 75, "GET", "/servers?sort_key=id", nil)
	w.refused(403, "Only administrators can sort servers by host", "ann", 1, "GET", "/servers?sort_key=host", nil)
	w.want(200, "ann", 73, "GET", "/servers?sort_key=locked", nil)
	if got := names(w.want(200, "admin", 1, "GET", "/servers?all_tenants=1&sort_key=host&sort_dir=asc&sort_key=uuid", nil)); got != "vm-8 vm-6 vm-3 vm-7 vm-4 vm-1 vm-5 vm-2" && got != "vm-3 vm-6 vm-8 vm-1 vm-4 vm-7 vm-2 vm-5" {
		t.Errorf("two keys: %s", got)
	}
}

func TestFiltersSelect(t *testing.T) {
	w := newSite(t)
	w.addServer(1, "compute-1", func(s *cloud.Server) { s.Tags = []string{"blue", "green"} })
	w.addServer(2, "compute-2", func(s *cloud.Server) {
		s.Name, s.VMState, s.Power, s.Tags, s.KeyName = "db", cloud.VMStopped, cloud.PowerShutdown, []string{"blue"}, "laptop"
	})
	w.addServer(3, "compute-2", func(s *cloud.Server) { s.Task, s.Locked = cloud.TaskMigrating, true })
	w.addServer(4, "compute-3", func(s *cloud.Server) { s.Project, s.User = bobProject, "bob" })
	put(w, tables.Graves, serverID(9), cloud.Server{ID: serverID(9), Project: annProject, Name: "gone", VMState: cloud.VMDeleted, Created: noon, Updated: noon, Terminated: noon.Add(time.Hour)})
	for _, c := range []struct {
		as    string
		minor int
		query string
		want  string
	}{
		{"ann", 1, "name=vm", "vm-3 vm-1"},
		{"ann", 1, "name=VM-1", "vm-1"},
		{"ann", 1, "name=^db$", "db"},
		{"ann", 1, "status=SHUTOFF", "db"},
		{"ann", 1, "status=active", "vm-1"},
		{"ann", 1, "status=MIGRATING&status=SHUTOFF", "vm-3 db"},
		{"ann", 37, "status=bogus", ""},
		{"ann", 1, "image=" + imageID, "vm-3 db vm-1"},
		{"ann", 1, "flavor=1", "vm-3 db vm-1"},
		{"ann", 1, "flavor=2", ""},
		{"ann", 1, "ip=10.1.0.2", "db"},
		{"ann", 5, "ip6=.", ""},
		{"ann", 1, "reservation_id=r-00000001", "vm-3 db vm-1"},
		{"ann", 26, "tags=blue", "db vm-1"},
		{"ann", 26, "tags=blue,green", "vm-1"},
		{"ann", 26, "tags-any=green,red", "vm-1"},
		{"ann", 26, "not-tags=blue,green", "vm-3 db"},
		{"ann", 26, "not-tags-any=blue", "vm-3"},
		{"ann", 25, "tags=blue", "vm-3 db vm-1"},
		{"ann", 73, "locked=true", "vm-3"},
		{"ann", 73, "locked=0", "db vm-1"},
		{"ann", 1, "host=compute-2", "vm-3 db vm-1"}, // not for members: dropped
		{"ann", 82, "key_name=laptop", "vm-3 db vm-1"},
		{"ann", 83, "key_name=laptop", "db"},
		{"ann", 83, "vm_state=stopped", "db"},
		{"ann", 1, "changes-since=2026-03-04T12:00:02Z", "vm-3 db gone"},
		{"ann", 66, "changes-before=2026-03-04T12:00:01Z", "vm-1"},
		{"ann", 1, "deleted=true", "vm-3 db vm-1"},
		{"admin", 1, "all_tenants=1&deleted=true", "gone"},
		{"admin", 1, "all_tenants=1&status=DELETED", "gone"},
		{"admin", 1, "all_tenants=1", "vm-4 vm-3 db vm-1"},
		{"admin", 1, "all_tenants", "vm-4 vm-3 db vm-1"},
		{"admin", 1, "all_tenants=0", ""},
		{"admin", 1, "all_tenants=1&host=compute-2", "vm-3 db"},
		{"admin", 1, "all_tenants=1&project_id=" + bobProject, "vm-4"},
		{"admin", 1, "all_tenants=1&tenant_id=" + bobProject, "vm-4"},
		{"admin", 1, "project_id=" + bobProject, ""},
		{"admin", 1, "all_tenants=1&user_id=bob", "vm-4"},
		{"admin", 1, "all_tenants=1&uuid=" + string(serverID(2)), "db"},
		{"admin", 1, "all_tenants=1&power_state=4", "db"},
		{"admin", 1, "all_tenants=1&availability_zone=nova", "vm-4 vm-3 db vm-1"},
	} {
		if got := names(w.want(200, c.as, c.minor, "GET", "/servers?"+c.query, nil)); got != c.want {
			t.Errorf("%s at 2.%d as %s: %q, want %q", c.query, c.minor, c.as, got, c.want)
		}
		if got := names(w.want(200, c.as, c.minor, "GET", "/servers/detail?"+c.query, nil)); got != c.want {
			t.Errorf("detail %s at 2.%d as %s: %q, want %q", c.query, c.minor, c.as, got, c.want)
		}
	}
	w.refused(400, "Invalid status value", "ann", 38, "GET", "/servers?status=bogus", nil)
	w.refused(403, "Only administrators may list deleted instances", "ann", 38, "GET", "/servers?status=deleted", nil)
	w.refused(400, "Invalid filter field: metadata.", "ann", 1, "GET", "/servers?metadata=x", nil)
	w.refused(400, "The value of changes-since must be less than or equal to changes-before.", "ann", 66, "GET", "/servers?changes-since=2026-03-05&changes-before=2026-03-04", nil)
	w.refused(400, "Unrecognized value 'x'", "admin", 1, "GET", "/servers?all_tenants=x", nil)
}

// TestPagesAreThePartsOfTheWholeList is the property behind paging: for any filter, order and page size, the pages laid end to end are the list
// asked for at once.
func TestPagesAreThePartsOfTheWholeList(t *testing.T) {
	w := newSite(t)
	for i := 1; i <= 12; i++ {
		w.addServer(i, hostNameOf(i%3+1), func(s *cloud.Server) {
			s.Created = noon.Add(time.Duration(i%4) * time.Second) // equal times, so that ties must be broken
			if i%5 == 0 {
				s.VMState = cloud.VMStopped
			}
		})
	}
	rapid.Check(t, func(rt *rapid.T) {
		q := url.Values{}
		if rapid.Bool().Draw(rt, "filter") {
			q.Set("status", "ACTIVE")
		}
		for range rapid.IntRange(0, 2).Draw(rt, "keys") {
			q.Add("sort_key", rapid.SampledFrom([]string{"created_at", "display_name", "vm_state", "uuid", "task_state"}).Draw(rt, "key"))
			q.Add("sort_dir", rapid.SampledFrom([]string{"asc", "desc"}).Draw(rt, "direction"))
		}
		whole := names(w.want(200, "ann", 95, "GET", "/servers?"+q.Encode(), nil))
		q.Set("limit", fmt.Sprint(rapid.IntRange(1, 5).Draw(rt, "limit")))
		var parts []string
		for range 13 {
			r := w.want(200, "ann", 95, "GET", "/servers?"+q.Encode(), nil)
			page := r.list("servers")
			if len(page) == 0 {
				break
			}
			parts = append(parts, names(r))
			q.Set("marker", fmt.Sprint(page[len(page)-1]["id"]))
		}
		if got := strings.Join(parts, " "); got != whole {
			rt.Fatalf("pages %q, whole %q", got, whole)
		}
	})
}
