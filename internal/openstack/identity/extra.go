package identity

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// appendWithExtra appends v's JSON with the extra properties beside the known ones, which win.
func appendWithExtra(b []byte, v projectView, extra map[string]string) []byte {
	type bare projectView // without the methods, so that encoding does not come back here
	known, err := json.Marshal(bare(v))
	if err != nil {
		panic(err) // strings, flags and lists of them always encode
	}
	var names map[string]json.RawMessage
	if len(extra) > 0 {
		_ = json.Unmarshal(known, &names) // our own encoding
	}
	b = append(b, known[:len(known)-1]...)
	for _, k := range slices.Sorted(maps.Keys(extra)) {
		if _, taken := names[k]; taken {
			continue
		}
		b = append(b, ',')
		b = openstack.AppendString(b, k)
		b = append(b, ':')
		b = openstack.AppendString(b, extra[k])
	}
	return append(b, '}')
}
