package operator

import (
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// VolumeTrouble says of a volume why its servers stand still. As an event it is sent when that begins, and with Over when it has ended.
type VolumeTrouble struct {
	cloud.VolumeTrouble
	Name    string         `json:"name,omitempty"` // the volume's
	Service cloud.HostName `json:"service"`
	Backend string         `json:"backend"`
	// Servers are those that have the volume attached.
	Servers []cloud.ServerID `json:"servers,omitempty"`
	Over    bool             `json:"over,omitempty"`
}

// troubleView adds what the store knows of the volume.
func troubleView(v store.View, service cloud.HostName, backend string, t cloud.VolumeTrouble) VolumeTrouble {
	out := VolumeTrouble{VolumeTrouble: t, Service: service, Backend: backend}
	if volume, ok := store.Lookup(v, tables.Volumes, t.Volume); ok {
		out.Name = volume.Name
	}
	for _, a := range store.By(v, tables.Attachments, tables.ByVolume, t.Volume) {
		if a.Server != "" && !slices.Contains(out.Servers, a.Server) {
			out.Servers = append(out.Servers, a.Server)
		}
	}
	return out
}

// troublesOf are all that a service's report names; none without a report.
func troublesOf(v store.View, r *cloud.VolumeReport) (out []VolumeTrouble) {
	if r == nil {
		return nil
	}
	for _, b := range r.Backends {
		for _, t := range b.Troubles {
			out = append(out, troubleView(v, r.Service, b.Name, t))
		}
	}
	return out
}

// sendTroubles sends which volumes' troubles have begun or ended since the last look; at first, those there are.
func (st *stream) sendTroubles() error {
	view, changes := st.storage.Take()
	for _, c := range changes {
		before, now := troublesOf(view, c.Old), troublesOf(view, c.New)
		if !st.started {
			before = nil
		}
		var news []VolumeTrouble
		for _, t := range now {
			if !t.among(before) {
				news = append(news, t)
			}
		}
		for _, t := range before {
			if !t.among(now) {
				t.Over = true
				news = append(news, t)
			}
		}
		for _, t := range news {
			if st.filter != (eventFilter{}) && (st.filter.migration != "" || !slices.Contains(t.Servers, st.filter.server)) {
				continue
			}
			if err := st.out.event(view.Revision(), EventVolumeTrouble, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// among reports whether the list has the same trouble of the same volume.
func (t VolumeTrouble) among(list []VolumeTrouble) bool {
	return slices.ContainsFunc(list, func(o VolumeTrouble) bool {
		return o.Volume == t.Volume && o.What == t.What && o.Since.Equal(t.Since)
	})
}
