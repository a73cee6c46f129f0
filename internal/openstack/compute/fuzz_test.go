package compute

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// FuzzCreateBody feeds arbitrary text to everything that judges a create request before the store is looked at: whatever it is, the answer is a
// plan or a refusal, at every microversion.
func FuzzCreateBody(f *testing.F) {
	f.Add(`{"server": {"name": "vm", "imageRef": "`+imageID+`", "flavorRef": 1, "networks": "auto"}}`, 95)
	f.Add(`{"server": {"name": "vm", "flavorRef": "1", "networks": [{"uuid": "x", "tag": "y", "port": null}], "hostname": "a.b"}}`, 32)
	f.Add(`{"server": {"name": "vm", "flavorRef": "1", "block_device_mapping_v2": [{"source_type": "image", "boot_index": "0", "odd": 1}]}}`, 1)
	f.Add(`{"server": {"name": "vm", "flavorRef": "1"}, "os:scheduler_hints": {"group": 5}}`, 60)
	f.Fuzz(func(t *testing.T, text string, minor int) {
		version := openstack.Microversion{Major: 2, Minor: 1 + (minor%95+95)%95}
		o, err := openstack.ParseObject([]byte(text))
		if err != nil {
			return
		}
		body := &createBody{}
		check := func(err error) bool {
			if err != nil && !cloud.Is(err, cloud.KindInvalid) {
				t.Errorf("%s at %s: %v is not a refusal", text, version, err)
			}
			return err == nil
		}
		if !check(openstack.Bind(o, body, version)) || !check(body.Server.Networks.parse(version)) || !check(body.Server.Hostname.check(version.Minor)) ||
			!check(body.Server.refuseUnsupported(version.Minor)) || !check(body.Hints.refuseUnsupported()) {
			return
		}
		if body.Server.Name == "" || body.Server.FlavorRef == "" {
			t.Errorf("%s at %s: accepted without name or flavor", text, version)
		}
		if _, _, err := parseZone(string(body.Server.Zone)); err != nil {
			check(err)
		}
	})
}
