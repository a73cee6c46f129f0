package volume

import (
	"crypto/md5" //nolint:gosec // an ETag is a name, not a proof; Cinder's is MD5 too
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"unicode/utf8"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// A holder gives the metadata handlers what they work on: a volume's metadata or a snapshot's.
type holder struct {
	missing string // names the owner in messages
	read    func(c *call) (map[string]string, error)
	write   func(c *call, change func(m map[string]string) (map[string]string, error)) (map[string]string, error)
}

var volumeMetadata = holder{
	missing: "Volume",
	read: func(c *call) (map[string]string, error) {
		v, err := c.volume(reader, "volume:get_volume_metadata")
		if err != nil {
			return nil, err
		}
		return texts(v.Metadata), nil
	},
	write: func(c *call, change func(map[string]string) (map[string]string, error)) (map[string]string, error) {
		v, err := c.changeVolume("volume:update_volume_metadata", func(_ *store.Tx, v *cloud.Volume) (err error) {
			if v.Status == cloud.VolumeMaintenance {
				return invalidVolume("Updating volume metadata is not allowed for volumes in maintenance status.")
			}
			v.Metadata, err = change(texts(v.Metadata))
			return err
		})
		return v.Metadata, err
	},
}

var snapshotMetadata = holder{
	missing: "Snapshot",
	read: func(c *call) (map[string]string, error) {
		s, err := c.snapshot(reader, "volume:get_snapshot_metadata")
		if err != nil {
			return nil, err
		}
		return texts(s.Metadata), nil
	},
	write: func(c *call, change func(map[string]string) (map[string]string, error)) (map[string]string, error) {
		s, err := c.changeSnapshot("volume:update_snapshot_metadata", func(_ *store.Tx, s *cloud.VolumeSnapshot) (err error) {
			s.Metadata, err = change(texts(s.Metadata))
			return err
		})
		return s.Metadata, err
	},
}

var metadataRoutes = append(volumeMetadata.routes("/volumes"), snapshotMetadata.routes("/snapshots")...)

func (h holder) routes(base string) []route {
	path := base + "/{id}/metadata"
	return []route{
		{pattern: "GET " + path, handle: h.show},
		{pattern: "POST " + path, handle: func(c *call) error { return h.change(c, false) }},
		{pattern: "PUT " + path, handle: func(c *call) error { return h.change(c, true) }},
		{pattern: "GET " + path + "/{key}", handle: h.showOne},
		{pattern: "PUT " + path + "/{key}", handle: h.changeOne},
		{pattern: "DELETE " + path + "/{key}", handle: h.delete},
	}
}

func (h holder) show(c *call) error {
	m, err := h.read(c)
	if err != nil {
		return err
	}
	return c.metadata(m)
}

// metadata answers with metadata and, from 3.15 on, its ETag.
func (c *call) metadata(m map[string]string) error {
	body := object{"metadata": texts(m)}
	if c.since(15) {
		c.w.Header().Set("ETag", etag(body))
	}
	return c.ok(body)
}

func etag(body any) string {
	text, err := json.Marshal(body)
	if err != nil {
		return "" // texts always encode
	}
	sum := md5.Sum(text) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

type metadataBody struct {
	Metadata map[string]string `json:"metadata" api:"required"`
}

// change adds pairs, or replaces all.
func (h holder) change(c *call, replace bool) error {
	var body metadataBody
	if err := c.decode(&body); err != nil {
		return err
	}
	m, err := h.write(c, func(have map[string]string) (map[string]string, error) {
		if err := c.etagMatches(object{"metadata": have}); err != nil {
			return nil, err
		}
		out := map[string]string{}
		if !replace {
			maps.Copy(out, have)
		}
		maps.Copy(out, body.Metadata)
		return out, checkMetadata(out)
	})
	if err != nil {
		return err
	}
	return c.metadata(m)
}

func (h holder) showOne(c *call) error {
	m, err := h.read(c)
	if err != nil {
		return err
	}
	value, ok := m[c.path("key")]
	if !ok {
		return h.keyMissing(c)
	}
	return c.ok(object{"meta": map[string]string{c.path("key"): value}})
}

func (h holder) keyMissing(c *call) error {
	return notFound("%s %s has no metadata with key %s.", h.missing, c.path("id"), c.path("key"))
}

func (h holder) changeOne(c *call) error {
	var body struct {
		Meta map[string]string `json:"meta" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	value, ok := body.Meta[c.path("key")]
	if !ok {
		return invalid("Request body and URI mismatch")
	}
	if len(body.Meta) > 1 {
		return invalid("Request body contains too many items")
	}
	_, err := h.write(c, func(have map[string]string) (map[string]string, error) {
		out := maps.Clone(have)
		out[c.path("key")] = value
		return out, checkMetadata(out)
	})
	if err != nil {
		return err
	}
	return c.ok(object{"meta": map[string]string{c.path("key"): value}})
}

func (h holder) delete(c *call) error {
	_, err := h.write(c, func(have map[string]string) (map[string]string, error) {
		if _, ok := have[c.path("key")]; !ok {
			return nil, h.keyMissing(c)
		}
		out := maps.Clone(have)
		delete(out, c.path("key"))
		return out, nil
	})
	if err != nil {
		return err
	}
	return c.status(200)
}

// metadataItemsMax bounds the pairs of one volume, as quota_metadata_items does in Nova; Cinder has no bound and suffers for it.
const metadataItemsMax = 128

func checkMetadata(m map[string]string) error {
	if len(m) > metadataItemsMax {
		return cloud.Errorf(cloud.KindQuota, "Maximum number of metadata items exceeds %d", metadataItemsMax)
	}
	for k, v := range m {
		if n := utf8.RuneCountInString(k); n < 1 || n > textRunesMax || utf8.RuneCountInString(v) > textRunesMax {
			return invalid("Metadata property key and value must have at most %d characters, and the key at least one: '%.60s'", textRunesMax, k)
		}
	}
	return nil
}

// text writes an id of any type as text.
func text(v any) string { return fmt.Sprint(v) }
