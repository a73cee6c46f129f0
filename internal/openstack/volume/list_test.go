package volume

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// names returns the names of a list, in order.
func names(r reply, list string) string {
	var out []string
	items, _ := r.at(list).([]any)
	for _, v := range items {
		out = append(out, fmt.Sprint(v.(map[string]any)["name"]))
	}
	return strings.Join(out, " ")
}

func TestVolumesAreFilteredSortedAndPaged(t *testing.T) {
	w := newSite(t)
	for i, name := range []string{"a1", "a2", "b1", "b2"} {
		w.volume(func(v *cloud.Volume) {
			v.Name, v.SizeGiB, v.Bootable, v.Created = name, 4-i, i%2 == 0, noon.Add(time.Duration(i)*time.Minute)
			v.Metadata = map[string]string{"tier": name[:1]}
			if name == "b2" {
				v.Status, v.Type = cloud.VolumeInUse, "7a000000-0000-4000-8000-000000000001"
				v.ImageMetadata = map[string]string{"os": "linux"}
			}
		})
	}
	w.volume(func(v *cloud.Volume) { v.Name, v.Project = "foreign", bobProject })
	for _, c := range []struct{ who, query, want string }{
		{"ann", "", "b2 b1 a2 a1"},
		{"ann", "?sort=name", "b2 b1 a2 a1"},
		{"ann", "?sort=name:asc", "a1 a2 b1 b2"},
		{"ann", "?sort_key=size&sort_dir=asc", "b2 b1 a2 a1"},
		{"ann", "?sort=bootable:desc,name:asc", "a1 b1 a2 b2"},
		{"ann", "?name=b1", "b1"},
		{"ann@3.34", "?name~=b", "b2 b1"},
		{"ann", "?status=in-use", "b2"},
		{"ann", "?status=%5B'in-use','error'%5D", "b2"},
		{"ann", "?bootable=false", "b2 a2"},
		{"ann", "?bootable=whatever", "b1 a1"},
		{"ann", "?metadata=%7B'tier':'a'%7D", "a2 a1"},
		{"ann", `?metadata=%7B%22tier%22:%22b%22%7D`, "b2 b1"},
		{"ann@3.4", "?glance_metadata=%7B'os':'linux'%7D", "b2"},
		{"ann", "?glance_metadata=%7B'os':'linux'%7D", "b2 b1 a2 a1"},
		{"ann@3.60", "?created_at=gt:2026-03-04T12:01:00", "b2 b1"},
		{"ann@3.60", "?created_at=gte:2026-03-04T12:01:00,lt:2026-03-04T12:03:00", "b1 a2"},
		{"ann", "?volume_type=gold", "b2"},
		{"ann", "?limit=2", "b2 b1"},
		{"ann", "?limit=2&offset=1", "b1 a2"},
		{"ann", "?offset=99", ""},
		{"ann", "?strange=1", "b2 b1 a2 a1"},
		{"admin", "?all_tenants=1&name=foreign", "foreign"},
		{"admin", "?project_id=" + bobProject, "foreign"},
		{"admin", "", ""},
		{"admin", "?all_tenants=1&host=storage-1@fast%23fast&name=a1", "a1"},
		{"ann@3.65", "?consumes_quota=false", ""},
	} {
		for _, path := range []string{"/v3/volumes", "/v3/volumes/detail"} {
			if got := names(w.want(200, c.who, "GET", path+c.query, nil), "volumes"); got != c.want {
				t.Errorf("%s GET %s%s: %q, want %q", c.who, path, c.query, got, c.want)
			}
		}
	}
	for query, text := range map[string]string{
		"?limit=-1": "", "?limit=few": "", "?offset=-1": "offset param", "?sort=colour": "Sort key is invalid", "?sort=name:up": "Unknown sort direction",
		"?sort=name&sort_dir=asc": "deprecated", "?metadata=x": "not a dictionary", "?strange=1": "Invalid filters strange", "?bootable=maybe": "bootable=maybe",
		"?created_at=gt:yesterday": "ISO 8601", "?all_tenants=perhaps": "all_tenants", "?with_count=perhaps": "with_count",
	} {
		w.refused(400, text, "ann@3.60", "GET", "/v3/volumes"+query, nil)
	}
	w.refused(404, "could not be found", "ann", "GET", "/v3/volumes?marker="+nothing, nil)
}

func TestPagesFollowEachOther(t *testing.T) {
	w := newSite(t)
	for i := range 5 {
		w.volume(func(v *cloud.Volume) { v.Name = fmt.Sprint("v", i) })
	}
	path, got := "/v3/"+annProject+"/volumes?limit=2&sort=name:asc&with_count=true", ""
	for range 3 {
		r := w.want(200, "ann@3.45", "GET", path, nil)
		got += names(r, "volumes") + " "
		if r.str("count") != "5" {
			t.Errorf("count %s", r.str("count"))
		}
		links, _ := r.at("volumes_links").([]any)
		if len(links) == 0 {
			break
		}
		path = strings.TrimPrefix(links[0].(map[string]any)["href"].(string), w.url+"/volume")
	}
	if got != "v0 v1 v2 v3 v4 " {
		t.Errorf("pages show %q", got)
	}
}

func TestViewsShowWhatTheirMicroversionHas(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	put(w, tables.VolumeSnapshots, nothing, cloud.VolumeSnapshot{ID: nothing, Volume: v.ID, Project: annProject, User: "ann", SizeGiB: 2, Status: cloud.SnapshotAvailable})
	volumePath, snapshotPath := "/v3/volumes/"+string(v.ID), "/v3/snapshots/"+nothing
	for _, c := range []struct {
		path, object, key string
		since             int
		admin             bool
	}{
		{volumePath, "volume", "replication_status", 0, false}, {volumePath, "volume", "os-vol-tenant-attr:tenant_id", 0, false},
		{volumePath, "volume", "os-vol-host-attr:host", 0, true}, {volumePath, "volume", "os-vol-mig-status-attr:name_id", 0, true},
		{volumePath, "volume", "group_id", 13, false}, {volumePath, "volume", "provider_id", 21, true}, {volumePath, "volume", "shared_targets", 48, false},
		{volumePath, "volume", "service_uuid", 48, false}, {volumePath, "volume", "cluster_name", 61, true}, {volumePath, "volume", "volume_type_id", 63, false},
		{volumePath, "volume", "consumes_quota", 65, false},
		{snapshotPath, "snapshot", "os-extended-snapshot-attributes:progress", 0, false}, {snapshotPath, "snapshot", "group_snapshot_id", 14, false},
		{snapshotPath, "snapshot", "user_id", 41, false}, {snapshotPath, "snapshot", "consumes_quota", 65, false},
	} {
		for _, who := range []string{"ann", "admin"} {
			for _, minor := range []int{max(0, c.since-1), c.since, 70} {
				body := w.want(200, fmt.Sprintf("%s@3.%d", who, minor), "GET", c.path, nil).at(c.object).(map[string]any)
				_, shown := body[c.key]
				if want := minor >= c.since && (!c.admin || who == "admin"); shown != want {
					t.Errorf("%s at 3.%d: %s shown %v, want %v", who, minor, c.key, shown, want)
				}
			}
		}
	}
}

func TestAVolumeShowsWhoUsesIt(t *testing.T) {
	w := newSite(t)
	v := w.volume(func(v *cloud.Volume) {
		v.Status, v.AttachmentIDs = cloud.VolumeInUse, []cloud.AttachmentID{"a", "move", "wait"}
	})
	for _, a := range []cloud.Attachment{
		{ID: "a", Server: serverID, Host: "compute-1", Device: "/dev/vdb", Status: cloud.AttachmentAttached, Attached: noon},
		{ID: "move", Server: serverID, Host: "compute-2", Migration: "m", Status: cloud.AttachmentAttached}, {ID: "wait", Status: cloud.AttachmentReserved},
	} {
		a.Volume, a.Project = v.ID, annProject
		put(w, tables.Attachments, a.ID, a)
	}
	for who, host := range map[string]string{"ann": "<nil>", "admin": "compute-1"} {
		list := w.want(200, who, "GET", "/v3/volumes/"+string(v.ID), nil).at("volume", "attachments").([]any)
		if len(list) != 1 {
			t.Fatalf("%s sees attachments %v", who, list)
		}
		a := list[0].(map[string]any)
		if a["attachment_id"] != "a" || a["server_id"] != serverID || a["device"] != "/dev/vdb" || fmt.Sprint(a["host_name"]) != host || a["attached_at"] != "2026-03-04T12:00:00.000000" {
			t.Errorf("%s sees %v", who, a)
		}
	}
}

func TestTheSummaryAddsUp(t *testing.T) {
	w := newSite(t)
	for i := range 3 {
		w.volume(func(v *cloud.Volume) { v.SizeGiB, v.Metadata = i+1, map[string]string{"k": fmt.Sprint(i / 2)} })
	}
	r := w.want(200, "ann@3.36", "GET", "/v3/volumes/summary", nil)
	if r.str("volume-summary", "total_size") != "6" || r.str("volume-summary", "total_count") != "3" || r.str("volume-summary", "metadata") != "map[k:[0 1]]" {
		t.Errorf("%s", r.text)
	}
	if r := w.want(200, "ann@3.12", "GET", "/v3/volumes/summary", nil); r.at("volume-summary", "metadata") != nil {
		t.Errorf("%s", r.text)
	}
	w.want(404, "ann@3.11", "GET", "/v3/volumes/summary", nil)
}

func TestSnapshotsAreFiltered(t *testing.T) {
	w := newSite(t)
	v, other := w.volume(), w.volume()
	for i, name := range []string{"one", "two", "three"} {
		s := cloud.VolumeSnapshot{ID: cloud.SnapshotID(newID()), Name: name, Volume: v.ID, Project: annProject, SizeGiB: i + 1, Status: cloud.SnapshotAvailable,
			Created: noon.Add(time.Duration(i) * time.Second), Metadata: map[string]string{"n": name[:1]}}
		if name == "three" {
			s.Volume, s.Status = other.ID, cloud.SnapshotError
		}
		put(w, tables.VolumeSnapshots, s.ID, s)
	}
	for query, want := range map[string]string{
		"": "three two one", "?name=two": "two", "?status=error": "three", "?volume_id=" + string(v.ID): "two one", "?sort=name:asc": "one three two",
		"?metadata=%7B'n':'t'%7D": "three two", "?limit=1": "three",
	} {
		if got := names(w.want(200, "ann@3.30", "GET", "/v3/snapshots/detail"+query, nil), "snapshots"); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
	if got := names(w.want(200, "bob", "GET", "/v3/snapshots", nil), "snapshots"); got != "" {
		t.Errorf("bob sees %s", got)
	}
}
