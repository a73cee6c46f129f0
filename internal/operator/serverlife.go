package operator

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// ServerLife is how a server's guest failed, how its hosts did, and what was done about either.
type ServerLife struct {
	Server cloud.ServerID `json:"server"`
	// Healing is where the last failure of its guest stands, with the attempts that count; absent when it never failed.
	Healing *cloud.Healing `json:"healing,omitempty"`
	// Failures are those of its guest that are remembered, and Recoveries those from its hosts, both newest first.
	Failures   []ServerFailure  `json:"failures"`
	Recoveries []ServerRecovery `json:"recoveries"`
}

// ServerFailure is one failure of a guest with all that was done about it.
type ServerFailure struct {
	At           time.Time                `json:"at"`
	Host         cloud.HostName           `json:"host"`
	Failure      cloud.GuestFailure       `json:"failure"`
	Detail       string                   `json:"detail,omitempty"`
	Status       cloud.NotificationStatus `json:"status"`
	Notification cloud.NotificationID     `json:"notification"` // Masakari's API shows it too
	Steps        []cloud.ProgressDetail   `json:"steps"`        // oldest first
}

// ServerRecovery is what the recovery of a dead host did about one server.
type ServerRecovery struct {
	Recovery cloud.RecoveryID      `json:"recovery"`
	Host     cloud.HostName        `json:"host"` // that died
	Began    time.Time             `json:"began"`
	Outcome  cloud.RecoveryOutcome `json:"outcome"`
	Target   cloud.HostName        `json:"target,omitempty"`
	Reason   string                `json:"reason,omitempty"`
	Ended    time.Time             `json:"ended,omitzero"`
}

// showServerLife answers what befell a server. Of a deleted one nothing is remembered.
func (s *Service) showServerLife(w http.ResponseWriter, r *openstack.Request) error {
	v, id := s.store.View(), cloud.ServerID(r.PathValue("id"))
	if _, buried := store.Lookup(v, tables.Graves, string(id)); !buried {
		if _, err := server(v, string(id)); err != nil {
			return err
		}
	}
	out := ServerLife{Server: id, Failures: failuresOf(v, id), Recoveries: serverRecoveries(v, id)}
	out.Healing, _ = store.Lookup(v, tables.Healings, id)
	return openstack.WriteJSON(w, http.StatusOK, map[string]ServerLife{"life": out})
}

func failuresOf(v store.View, id cloud.ServerID) []ServerFailure {
	out := []ServerFailure{}
	for _, n := range store.All(v, tables.Notifications) { // control bounds them
		if n.Server != id || n.Type != cloud.NotifyVM {
			continue
		}
		kind, detail := cloud.FailureReported, "a monitor reported it"
		if n.ByCluster {
			word, _ := n.Payload[cloud.PayloadFailure].(string)
			kind = cloud.GuestFailure(word)
			detail, _ = n.Payload[cloud.PayloadDetail].(string)
		}
		steps := append([]cloud.ProgressDetail{}, n.Details...)
		out = append(out, ServerFailure{At: n.Generated, Host: n.Host, Failure: kind, Detail: detail, Status: n.Status, Notification: n.ID, Steps: steps})
	}
	slices.SortFunc(out, func(a, b ServerFailure) int {
		return cmp.Or(b.At.Compare(a.At), strings.Compare(string(a.Notification), string(b.Notification)))
	})
	return out
}

func serverRecoveries(v store.View, id cloud.ServerID) []ServerRecovery {
	out := []ServerRecovery{}
	for _, rec := range store.All(v, tables.Recoveries) {
		for i := range rec.Servers {
			if s := &rec.Servers[i]; s.Server == id {
				out = append(out, ServerRecovery{Recovery: rec.ID, Host: rec.Host, Began: rec.Began, Outcome: s.Outcome, Target: s.Target, Reason: s.Reason, Ended: s.Ended})
			}
		}
	}
	slices.SortFunc(out, func(a, b ServerRecovery) int {
		return cmp.Or(b.Began.Compare(a.Began), strings.Compare(string(a.Recovery), string(b.Recovery)))
	})
	return out
}
