package operator

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// VolumeService is everything known of one volume service, in one row.
type VolumeService struct {
	cloud.VolumeService
	// State is HostUp or HostDown.
	State string `json:"state"`
	// Report is what the service last said of itself; absent when it never did.
	Report *cloud.VolumeReport `json:"report,omitempty"`
	// Session is the connection to it; absent when there is none.
	Session *cloud.HostSession `json:"session,omitempty"`
	// Volumes are recorded on it; PromisedGiB is the sum of their sizes. What they take is in the report.
	Volumes     int `json:"volumes"`
	PromisedGiB int `json:"promised_gib"`
	// Troubles are those of its volumes whose servers stand still, by back end, the oldest first. Of very many the oldest; the report has their number.
	Troubles []VolumeTrouble `json:"troubles,omitempty"`
}

func volumeServiceView(v store.View, s *cloud.VolumeService) VolumeService {
	out := VolumeService{VolumeService: *s, State: HostDown}
	if session, ok := store.Lookup(v, tables.VolumeSessions, s.Name); ok {
		out.Session, out.State = session, HostUp
	}
	if report, ok := store.Lookup(v, tables.VolumeReports, s.Name); ok {
		out.Report, out.Troubles = report, troublesOf(v, report)
	}
	for _, volume := range store.By(v, tables.Volumes, tables.ByHost, s.Name) {
		out.Volumes++
		out.PromisedGiB += volume.SizeGiB
	}
	return out
}

// listVolumeServices answers with all volume services, by name.
func (s *Service) listVolumeServices(w http.ResponseWriter, r *openstack.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	v := s.store.View()
	out := []VolumeService{}
	for _, service := range store.All(v, tables.VolumeServices) {
		out = append(out, volumeServiceView(v, service))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"volume_services": out})
}
