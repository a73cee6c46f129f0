package operator

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/fence"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// HostLife is what is believed of a host, why, and what was done about it.
type HostLife struct {
	Host       cloud.HostName        `json:"host"`
	Verdict    *cloud.HostVerdict    `json:"verdict,omitempty"` // absent: it was never silent
	Permit     *cloud.RecoveryPermit `json:"permit,omitempty"`
	Recoveries []*cloud.Recovery     `json:"recoveries"` // newest first
}

// BMC is a host's BMC without its password.
type BMC struct {
	Host        cloud.HostName `json:"host"`
	Protocol    string         `json:"protocol"`
	Address     string         `json:"address"`
	User        string         `json:"user,omitempty"`
	PasswordSet bool           `json:"password_set"`
	Cipher      int            `json:"cipher,omitempty"`
	System      string         `json:"system,omitempty"`
	CASet       bool           `json:"ca_set,omitempty"`
	Power       string         `json:"power,omitempty"` // as last told
	Confirmed   time.Time      `json:"confirmed,omitzero"`
	Error       string         `json:"error,omitempty"` // of the last attempt
	Updated     time.Time      `json:"updated"`
}

func bmcView(b *cloud.BMC) BMC {
	return BMC{Host: b.Host, Protocol: b.Protocol, Address: b.Address, User: b.User, PasswordSet: b.Password != "", Cipher: b.Cipher, System: b.System, CASet: b.CA != "",
		Power: b.Power, Confirmed: b.Confirmed, Error: b.Error, Updated: b.Updated}
}

// recoveryRoutes are the routes of this file.
func (s *Service) recoveryRoutes() []route {
	return []route{
		{"GET /v1/spare-room", "godwit:hosts:list", s.showSpareRoom},
		{"GET /v1/recoveries", "godwit:recoveries:list", s.listRecoveries},
		{"GET /v1/hosts/{name}/life", "godwit:hosts:show", s.showLife},
		{"PUT /v1/hosts/{name}/recovery-permit", "godwit:recoveries:allow", s.allowRecovery},
		{"DELETE /v1/hosts/{name}/recovery-permit", "godwit:recoveries:allow", s.forbidRecovery},
		{"GET /v1/hosts/{name}/bmc", "godwit:bmcs:show", s.showBMC},
		{"PUT /v1/hosts/{name}/bmc", "godwit:bmcs:set", s.setBMC},
		{"DELETE /v1/hosts/{name}/bmc", "godwit:bmcs:delete", s.deleteBMC},
		{"POST /v1/hosts/{name}/bmc/test", "godwit:bmcs:test", s.testBMC},
	}
}

// route is one entry of the table in Mount.
type route struct {
	pattern string
	rule    string
	handler openstack.Handler
}

func knownHost(v store.View, name string) (*cloud.Host, error) {
	h, ok := store.Lookup(v, tables.Hosts, name)
	if !ok {
		return nil, cloud.Errorf(cloud.KindNotFound, "host %s does not exist", name)
	}
	return h, nil
}

func recoveriesOf(v store.View, host cloud.HostName) []*cloud.Recovery {
	out := store.By(v, tables.Recoveries, tables.ByHost, host)
	slices.SortFunc(out, func(a, b *cloud.Recovery) int {
		return cmp.Or(b.Began.Compare(a.Began), strings.Compare(string(a.ID), string(b.ID)))
	})
	if out == nil {
		out = []*cloud.Recovery{}
	}
	return out
}

// showSpareRoom answers with whether the servers of the largest hosts would find room elsewhere. Hosts is 0 where that is not judged, or not yet.
func (s *Service) showSpareRoom(w http.ResponseWriter, r *openstack.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	out := cloud.SpareRoom{Lost: []cloud.HostName{}}
	if held, ok := store.Lookup(s.store.View(), tables.SpareRooms, tables.SpareRoomKey); ok {
		out = *held
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]cloud.SpareRoom{"spare_room": out})
}

// listRecoveries answers with what was done about dead hosts, newest first.
func (s *Service) listRecoveries(w http.ResponseWriter, r *openstack.Request) error {
	q, err := parameters(r, "host")
	if err != nil {
		return err
	}
	v := s.store.View()
	out := []*cloud.Recovery{}
	for _, rec := range store.All(v, tables.Recoveries) {
		if host := q.Get("host"); host == "" || string(rec.Host) == host {
			out = append(out, rec)
		}
	}
	slices.SortFunc(out, func(a, b *cloud.Recovery) int {
		return cmp.Or(b.Began.Compare(a.Began), strings.Compare(string(a.ID), string(b.ID)))
	})
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"recoveries": out})
}

func (s *Service) showLife(w http.ResponseWriter, r *openstack.Request) error {
	v := s.store.View()
	h, err := knownHost(v, r.PathValue("name"))
	if err != nil {
		return err
	}
	out := HostLife{Host: h.Name, Recoveries: recoveriesOf(v, h.Name)}
	out.Verdict, _ = store.Lookup(v, tables.HostVerdicts, h.Name)
	out.Permit, _ = store.Lookup(v, tables.RecoveryPermits, h.Name)
	return openstack.WriteJSON(w, http.StatusOK, map[string]HostLife{"life": out})
}

// allowRecovery lets a host's recovery go on past the brake. It changes nothing for a host that is heard.
func (s *Service) allowRecovery(w http.ResponseWriter, r *openstack.Request) error {
	h, err := knownHost(s.store.View(), r.PathValue("name"))
	if err != nil {
		return err
	}
	verdict, judged := store.Lookup(s.store.View(), tables.HostVerdicts, h.Name)
	if !judged || verdict.Verdict == "alive" {
		return cloud.Errorf(cloud.KindConflict, "host %s is heard: there is nothing to recover", h.Name)
	}
	permit := cloud.RecoveryPermit{Host: h.Name, User: r.Caller.User, At: s.now().UTC()}
	_, err = s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return store.Put(tx, tables.RecoveryPermits, h.Name, permit) })
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"permit": permit})
}

func (s *Service) forbidRecovery(w http.ResponseWriter, r *openstack.Request) error {
	h, err := knownHost(s.store.View(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return store.Delete(tx, tables.RecoveryPermits, h.Name) }); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) heldBMC(name string) (*cloud.BMC, error) {
	b, ok := store.Lookup(s.store.View(), tables.BMCs, name)
	if !ok {
		return nil, cloud.Errorf(cloud.KindNotFound, "no BMC of host %s is known", name)
	}
	return b, nil
}

func (s *Service) showBMC(w http.ResponseWriter, r *openstack.Request) error {
	b, err := s.heldBMC(r.PathValue("name"))
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]BMC{"bmc": bmcView(b)})
}

// bmcBody is what PUT bmc takes. A password that is left out stays as it is.
type bmcBody struct {
	Protocol string  `json:"protocol" api:"required;enum=ipmi|redfish"`
	Address  string  `json:"address" api:"required;len=1..255"`
	User     string  `json:"user" api:"len=..255"`
	Password *string `json:"password" api:"len=..255"`
	Cipher   int     `json:"cipher" api:"range=0..255"`
	System   string  `json:"system" api:"len=..255"`
	CA       string  `json:"ca" api:"len=..65536"`
}

func (s *Service) setBMC(w http.ResponseWriter, r *openstack.Request) error {
	var body bmcBody
	if err := r.Decode(w, &body); err != nil {
		return err
	}
	h, err := knownHost(s.store.View(), r.PathValue("name"))
	if err != nil {
		return err
	}
	b := cloud.BMC{Host: h.Name, Protocol: body.Protocol, Address: body.Address, User: body.User, Cipher: body.Cipher, System: body.System, CA: body.CA, Updated: s.now().UTC()}
	if held, ok := store.Lookup(s.store.View(), tables.BMCs, h.Name); ok {
		b.Password = held.Password
	}
	if body.Password != nil {
		b.Password = *body.Password
	}
	if _, err := fence.New(fence.SettingsOf(&b)); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return store.Put(tx, tables.BMCs, h.Name, b) }); err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]BMC{"bmc": bmcView(&b)})
}

func (s *Service) deleteBMC(w http.ResponseWriter, r *openstack.Request) error {
	b, err := s.heldBMC(r.PathValue("name"))
	if err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return store.Delete(tx, tables.BMCs, b.Host) }); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// testBMC reads the power state; it changes nothing at the host.
func (s *Service) testBMC(w http.ResponseWriter, r *openstack.Request) error {
	b, err := s.heldBMC(r.PathValue("name"))
	if err != nil {
		return err
	}
	driver, err := fence.New(fence.SettingsOf(b))
	if err != nil {
		return err
	}
	power, failure := driver.State(r.Context())
	tested := *b
	tested.Power, tested.Error = power.String(), ""
	if failure != nil {
		tested.Error = failure.Error()
	} else {
		tested.Confirmed = s.now().UTC()
	}
	_, err = s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error {
		held, err := store.Peek(tx, tables.BMCs, b.Host)
		if err != nil || held == nil || !held.Updated.Equal(b.Updated) {
			return err // it was set anew meanwhile
		}
		return store.Put(tx, tables.BMCs, b.Host, tested)
	})
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]BMC{"bmc": bmcView(&tested)})
}
