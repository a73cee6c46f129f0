package compute

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestCreateImageAnswersByMicroversion(t *testing.T) {
	for _, minor := range []int{1, 44, 45, 95} {
		w := newSite(t)
		s := w.addServer(1, "compute-1")
		r := w.want(202, "ann", minor, "POST", "/servers/"+string(s.ID)+"/action", m{"createImage": m{"name": "keep", "metadata": m{"why": "backup"}}})
		i := w.intents(s.ID)
		if len(i) != 1 || i[0].Kind != cloud.IntentCapture {
			t.Fatalf("2.%d: intents %+v", minor, i)
		}
		image, ok := store.Lookup(w.store, tables.Images, i[0].Image)
		if !ok || image.Name != "keep" || image.Status != cloud.ImageQueued || image.Properties["instance_uuid"] != string(s.ID) || image.Properties["why"] != "backup" ||
			image.Properties["base_image_ref"] != string(s.Image) || image.Owner != s.Project {
			t.Errorf("2.%d: image %+v", minor, image)
		}
		if body, location := strings.Contains(string(r.text), string(i[0].Image)), strings.HasSuffix(r.header.Get("Location"), string(i[0].Image)); body != (minor >= 45) || location == body {
			t.Errorf("2.%d answers %s, Location %q", minor, r.text, r.header.Get("Location"))
		}
		if got := w.server(s.ID).Task; got != cloud.TaskImageSnapshotPending {
			t.Errorf("2.%d: task %q", minor, got)
		}
	}
}

func TestRebuildChangesWhatItNames(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1", func(s *cloud.Server) { s.KeyName, s.PublicKey, s.Flavor.ExtraSpecs = "old", "ssh-ed25519 x", nil })
	path := "/servers/" + string(s.ID) + "/action"
	w.want(202, "ann", 95, "POST", path, m{"rebuild": m{"imageRef": imageID, "name": "anew", "metadata": m{"a": "b"}, "key_name": nil, "hostname": "fresh"}})
	got, i := w.server(s.ID), w.intents(s.ID)
	if got.Name != "anew" || got.Metadata["a"] != "b" || got.KeyName != "" || got.Hostname != "fresh" || got.Task != cloud.TaskRebuilding {
		t.Errorf("server %+v", got)
	}
	if len(i) != 1 || i[0].Kind != cloud.IntentRebuild || i[0].Reimage == nil || string(i[0].Reimage.Image) != imageID || i[0].Reimage.Stopped {
		t.Errorf("intents %+v", i)
	}
	if statusOf(got) != "REBUILD" {
		t.Errorf("its owner sees %s", statusOf(got))
	}
}

func TestImagesRebuildsAndShelvingAreRefusedInNovasWords(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1", func(s *cloud.Server) { s.Flavor.ExtraSpecs = nil })
	path := "/servers/" + string(s.ID) + "/action"
	for _, c := range []struct {
		as      string
		minor   int
		body    m
		status  int
		message string
	}{
		{"ann", 95, m{"createImage": m{}}, 400, "'name' is a required property"},
		{"ann", 95, m{"rebuild": m{"imageRef": strings.Replace(imageID, imageID[:8], "00000000", 1)}}, 400, "Cannot find image for rebuild"},
		{"ann", 95, m{"rebuild": m{"imageRef": imageID, "key_name": "none"}}, 400, "Invalid key_name provided."},
		{"ann", 53, m{"rebuild": m{"imageRef": imageID, "key_name": "none"}}, 400, "('key_name' was unexpected)"},
		{"ann", 95, m{"shelveOffload": nil}, 403, "Policy doesn't allow"},
		{"admin", 95, m{"shelveOffload": nil}, 409, fmt.Sprintf("Cannot 'shelveOffload' instance %s while it is in vm_state active", s.ID)},
		{"ann", 95, m{"unshelve": nil}, 409, fmt.Sprintf("Cannot 'unshelve' instance %s while it is in vm_state active", s.ID)},
	} {
		w.refused(c.status, c.message, c.as, c.minor, "POST", path, c.body)
	}
	w.settle(s.ID, func(s *cloud.Server) { s.VMState = cloud.VMError })
	w.refused(409, "Cannot 'createImage'", "ann", 95, "POST", path, m{"createImage": m{"name": "x"}})
	w.refused(409, "Cannot 'shelve'", "ann", 95, "POST", path, m{"shelve": nil})
	if got := w.server(s.ID); got.Task != cloud.TaskNone || len(w.intents(s.ID)) != 0 {
		t.Errorf("refusals left traces: task %q", got.Task)
	}
}

func TestAShelvedServerComesBackFromItsImage(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	w.want(202, "ann", 95, "POST", path, m{"shelve": nil})
	i := w.intents(s.ID)
	if len(i) != 1 || i[0].Kind != cloud.IntentShelve || i[0].Image == "" {
		t.Fatalf("intents %+v", i)
	}
	image := i[0].Image
	if kept, ok := store.Lookup(w.store, tables.Images, image); !ok || kept.Name != s.Name+"-shelved" {
		t.Errorf("image %+v", kept)
	}
	w.settle(s.ID, func(s *cloud.Server) {
		s.VMState, s.Task, s.Host, s.Shelved = cloud.VMOffloaded, cloud.TaskNone, "", &cloud.Shelved{Image: image}
	})
	if got := statusOf(w.server(s.ID)); got != "SHELVED_OFFLOADED" {
		t.Errorf("its owner sees %s", got)
	}
	w.refused(409, "is not active", "ann", 95, "POST", path, m{"unshelve": nil})
	w.change(func(tx *store.Tx) error {
		kept, err := store.Get(tx, tables.Images, image)
		if err != nil {
			return err
		}
		kept.Status, kept.Hash, kept.SizeBytes, kept.VirtualBytes = cloud.ImageActive, "beef", 5, 5
		return store.Put(tx, tables.Images, image, kept)
	})
	w.refused(403, "Policy doesn't allow", "ann", 95, "POST", path, m{"unshelve": m{"host": "compute-2"}})
	w.refused(400, "Compute host nowhere could not be found.", "admin", 95, "POST", path, m{"unshelve": m{"host": "nowhere"}})
	w.refused(400, "('host' was unexpected)", "admin", 90, "POST", path, m{"unshelve": m{"host": "compute-2"}})
	w.want(202, "admin", 95, "POST", path, m{"unshelve": m{"host": "compute-2"}})
	got := w.server(s.ID)
	if got.Image != image || got.ImageHash != "beef" || got.Shelved.AskedHost != "compute-2" || got.Shelved.Pinned || got.Task != cloud.TaskUnshelving {
		t.Errorf("server %+v, %+v", got, got.Shelved)
	}
}
