package volume

import (
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// FuzzVolumeBodies feeds arbitrary text to the bodies of volumes and snapshots: whatever it is, it is bound or refused, at every microversion.
func FuzzVolumeBodies(f *testing.F) {
	f.Add(`{"volume": {"size": "5", "imageRef": "x", "metadata": {"a": "b"}, "multiattach": "true"}, "OS-SCH-HNT:scheduler_hints": {}}`, 53)
	f.Add(`{"volume": {"name": null, "description": "", "odd": [1]}}`, 0)
	f.Add(`{"volume": {"size": 99999999999999999999}}`, 70)
	f.Fuzz(func(t *testing.T, text string, minor int) {
		version := openstack.Microversion{Major: 3, Minor: (minor%71 + 71) % 71}
		o, err := openstack.ParseObject([]byte(text))
		if err != nil {
			return
		}
		for _, body := range []any{&volumeCreate{}, &volumeUpdate{}, &metadataBody{}} {
			if err := openstack.Bind(o, body, version); err != nil && !cloud.Is(err, cloud.KindInvalid) {
				t.Errorf("%s at %s: %v is not a refusal", text, version, err)
			}
		}
		create := &volumeCreate{}
		if openstack.Bind(o, create, version) == nil && create.Volume.Size != nil && *create.Volume.Size < 0 {
			t.Errorf("%s at %s: accepted %d GiB", text, version, *create.Volume.Size)
		}
	})
}

// FuzzFilters feeds arbitrary text to what a list's query may hold: dictionaries, times, lists.
func FuzzFilters(f *testing.F) {
	for _, text := range []string{`{'a': 'b'}`, `{"a": 1, "b": "c"}`, `{u'a': "it's"}`, `['x','y']`, `gt:2026-01-02T15:04:05,lte:2027-01-01`, `[`, `None`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, ok := parseDictionary(text); ok != (d != nil) {
			t.Errorf("%q: %v, %v", text, d, ok)
		}
		var times filter[cloud.Volume]
		if err := filterTime(&times, "created_at", text, func(v *cloud.Volume) time.Time { return v.Created }); err == nil {
			times.accepts(&cloud.Volume{})
		} else if !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%q: %v is not a refusal", text, err)
		}
		if !textMatches(text, text) && text != "" && text[0] != '[' {
			t.Errorf("%q does not match itself", text)
		}
	})
}
