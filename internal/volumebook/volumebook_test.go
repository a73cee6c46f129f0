package volumebook_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	put(t, s, tables.VolumeTypes, "default", cloud.VolumeType{ID: "default", Name: cloud.DefaultVolumeType, Public: true})
	return s
}

func put[T any](t *testing.T, s *store.Store, table store.Table[T], key string, v T) {
	t.Helper()
	if _, err := s.UpdateVisible(t.Context(), func(tx *store.Tx) error { return store.Put(tx, table, key, v) }); err != nil {
		t.Fatal(err)
	}
}

func TestPlanSaysWhatAVolumeWillBe(t *testing.T) {
	s := open(t)
	put(t, s, tables.VolumeTypes, "shared", cloud.VolumeType{ID: "shared", Name: "shared", Public: true, ExtraSpecs: map[string]string{cloud.SpecMultiattach: "<is> True"}})
	origin := cloud.Volume{ID: "o", SizeGiB: 3, Type: "shared", Bootable: true, Zone: "east", Status: cloud.VolumeInUse, ImageMetadata: map[string]string{"image_id": "i"}}
	put(t, s, tables.Volumes, "o", origin)
	for _, c := range []struct {
		name string
		wish volumebook.Wish
		want func(v cloud.Volume) bool
	}{
		{"blank", volumebook.Wish{SizeGiB: 2}, func(v cloud.Volume) bool {
			return v.Type == "default" && !v.Bootable && v.SizeGiB == 2 && !v.Multiattach
		}},
		{"image", volumebook.Wish{SizeGiB: 2, Image: &cloud.Image{ID: "i", Name: "deb", Status: cloud.ImageActive, VirtualBytes: 2 << 30}},
			func(v cloud.Volume) bool {
				return v.Bootable && v.SourceImage == "i" && v.ImageMetadata["image_name"] == "deb"
			}},
		{"snapshot", volumebook.Wish{Snapshot: &cloud.VolumeSnapshot{ID: "s", Volume: "o", SizeGiB: 3, Status: cloud.SnapshotAvailable}},
			func(v cloud.Volume) bool {
				return v.SizeGiB == 3 && v.Bootable && v.Type == "shared" && v.Multiattach && v.Zone == "east"
			}},
		{"clone", volumebook.Wish{Source: &origin, SizeGiB: 5}, func(v cloud.Volume) bool {
			return v.SizeGiB == 5 && v.SourceVolume == "o" && v.ImageMetadata["image_id"] == "i"
		}},
	} {
		v, err := volumebook.Plan(s, c.wish)
		if err != nil || !c.want(v) || v.Status != cloud.VolumeCreating {
			t.Errorf("%s: %v, %+v", c.name, err, v)
		}
	}
}

func TestPlanRefusesInCindersWords(t *testing.T) {
	s := open(t)
	put(t, s, tables.VolumeTypes, "gold", cloud.VolumeType{ID: "gold", Name: "gold", Public: true, ExtraSpecs: map[string]string{cloud.SpecBackend: "gold"}})
	gold, err := volumebook.FindType(s, "gold", "p", false)
	if err != nil {
		t.Fatal(err)
	}
	image := func(change func(*cloud.Image)) *cloud.Image {
		i := &cloud.Image{ID: "i", Status: cloud.ImageActive, VirtualBytes: 1 << 30}
		change(i)
		return i
	}
	for text, wish := range map[string]volumebook.Wish{
		"'None' must be an integer and greater than 0":              {},
		"'-1' must be an integer":                                   {SizeGiB: -1},
		"image 3GB is larger than volume size 2GB":                  {SizeGiB: 2, Image: image(func(i *cloud.Image) { i.VirtualBytes = 2<<30 + 1 })},
		"Image i is not active":                                     {SizeGiB: 2, Image: image(func(i *cloud.Image) { i.Status = cloud.ImageQueued })},
		"cannot be smaller than the image minDisk size 9GB":         {SizeGiB: 2, Image: image(func(i *cloud.Image) { i.MinDiskGiB = 9 })},
		"cannot be smaller than the snapshot size 4GB":              {SizeGiB: 2, Snapshot: &cloud.VolumeSnapshot{SizeGiB: 4, Status: cloud.SnapshotAvailable}},
		"Originating snapshot status":                               {Snapshot: &cloud.VolumeSnapshot{SizeGiB: 4, Status: cloud.SnapshotError}},
		"cannot be smaller than original volume size  4GB":          {SizeGiB: 2, Source: &cloud.Volume{SizeGiB: 4, Status: cloud.VolumeAvailable}},
		"Originating source volume status":                          {Source: &cloud.Volume{SizeGiB: 4, Status: cloud.VolumeCreating}},
		"Invalid volume_type provided: gold (requested type is not": {Type: gold, Source: &cloud.Volume{SizeGiB: 4, Status: cloud.VolumeAvailable, Type: "default"}},
	} {
		if _, err := volumebook.Plan(s, wish); !cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q, got %v", text, err)
		}
	}
}

func TestTheLastOfAQuotaGoesOnce(t *testing.T) {
	s := open(t)
	put(t, s, tables.VolumeQuotas, "p", cloud.VolumeQuota{Project: "p", Volumes: 3, Snapshots: 0, GiB: -1, PerVolumeGiB: 5})
	var made sync.Map
	var wg sync.WaitGroup
	for i := range 8 {
		id := fmt.Sprintf("v%d", i)
		wg.Go(func() {
			_, err := s.UpdateVisible(t.Context(), func(tx *store.Tx) error {
				return volumebook.Create(tx, cloud.Volume{ID: cloud.VolumeID(id), Project: "p", SizeGiB: 5}, cloud.Intent{ID: cloud.IntentID(id)})
			})
			switch {
			case err == nil:
				made.Store(id, true)
			case !cloud.Is(err, cloud.KindQuota) || !strings.Contains(err.Error(), "number of volumes allowed (3)"):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	made.Range(func(k, _ any) bool {
		n++
		_, err := s.UpdateVisible(t.Context(), func(tx *store.Tx) error { return volumebook.Bury(tx, cloud.VolumeID(k.(string))) })
		if err != nil {
			t.Error(err)
		}
		return true
	})
	if u := volumebook.Usage(s, "p"); n != 3 || u != (cloud.VolumeUsage{Project: "p"}) {
		t.Errorf("%d volumes were made; after their removal the usage is %+v", n, u)
	}
	try := func(size int, d cloud.VolumeUsage) error {
		_, err := s.UpdateVisible(t.Context(), func(tx *store.Tx) error {
			if err := volumebook.AffordSize(tx, "p", size); err != nil {
				return err
			}
			return volumebook.Take(tx, "p", d)
		})
		return err
	}
	if err := try(6, cloud.VolumeUsage{}); !cloud.Is(err, cloud.KindQuota) {
		t.Errorf("a volume beyond the size limit: %v", err)
	}
	if err := try(1, cloud.VolumeUsage{Snapshots: 1}); !cloud.Is(err, cloud.KindQuota) {
		t.Errorf("a snapshot beyond the limit: %v", err)
	}
}

func TestAnOriginThatWentAwayMeanwhileIsNoticed(t *testing.T) {
	s := open(t)
	for _, v := range []cloud.Volume{{ID: "a", SourceSnapshot: "gone"}, {ID: "b", SourceVolume: "gone"}} {
		_, err := s.UpdateVisible(t.Context(), func(tx *store.Tx) error { return volumebook.Create(tx, v, cloud.Intent{ID: "i"}) })
		if !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("volume %s: %v", v.ID, err)
		}
	}
}

func TestTypesAreForThoseWhoMayUseThem(t *testing.T) {
	s := open(t)
	put(t, s, tables.VolumeTypes, "x", cloud.VolumeType{ID: "x", Name: "secret", Access: []cloud.ProjectID{"friend"}})
	for _, c := range []struct {
		project cloud.ProjectID
		admin   bool
		want    bool
	}{{"friend", false, true}, {"stranger", false, false}, {"stranger", true, true}} {
		if _, err := volumebook.FindType(s, "secret", c.project, c.admin); (err == nil) != c.want {
			t.Errorf("%s: %v", c.project, err)
		}
	}
}
