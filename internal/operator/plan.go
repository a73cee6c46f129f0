package operator

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Plan is what a live migration would do if it were asked for now. Making one changes nothing and reserves nothing.
type Plan struct {
	Server PlanServer `json:"server"`
	// Asked and AskedTarget repeat the request.
	Asked       cloud.MigrationKind `json:"asked"`
	AskedTarget cloud.HostName      `json:"asked_target,omitempty"`
	// Possible says whether the move would be accepted and find a host; Refusal says why not.
	Possible bool   `json:"possible"`
	Refusal  string `json:"refusal,omitempty"`
	// Target is the host placement would choose, Kind what would be copied; empty when there is none.
	Target cloud.HostName      `json:"target,omitempty"`
	Kind   cloud.MigrationKind `json:"kind,omitempty"`
	// Candidates are all hosts, those that fit first, best first.
	Candidates []Candidate `json:"candidates"`
	Estimate   *Estimate   `json:"estimate,omitempty"` // absent without a target
	Revision   int64       `json:"revision"`           // of the store, that the plan was made on
}

// PlanServer is the server a plan is about.
type PlanServer struct {
	ID      cloud.ServerID  `json:"id"`
	Name    string          `json:"name"`
	Host    cloud.HostName  `json:"host,omitempty"`
	VMState cloud.VMState   `json:"vm_state"`
	Task    cloud.TaskState `json:"task"`
}

// Candidate is placement's verdict on one host, with what a move there would copy.
type Candidate struct {
	cloud.Verdict
	Kind cloud.MigrationKind `json:"kind,omitempty"` // empty for the source itself
}

// planBody is the body of migrate-plan.
type planBody struct {
	Host cloud.HostName      `json:"host" api:"null;len=..255"`
	Kind cloud.MigrationKind `json:"kind" api:"null;enum=auto|block|shared"`
}

// planMigration answers what a live migration would do.
func (s *Service) planMigration(w http.ResponseWriter, r *openstack.Request) error {
	var body planBody
	if err := r.Decode(w, &body); err != nil {
		return err
	}
	v := s.store.View()
	subject, err := server(v, r.PathValue("id"))
	if err != nil {
		return err
	}
	if body.Host != "" {
		if _, ok := store.Lookup(v, tables.Hosts, body.Host); !ok {
			return cloud.Errorf(cloud.KindNotFound, "host %s does not exist", body.Host)
		}
	}
	if body.Kind == "" {
		body.Kind = cloud.MigrateAuto
	}
	snap := tables.Snapshot(v, s.now())
	p := plan(s.policy, &snap, subject, &cloud.Migration{Asked: body.Kind, AskedTarget: body.Host})
	if p.Target != "" {
		e := estimate(subject, p.Kind, history(v, subject.ID))
		p.Estimate = &e
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]Plan{"plan": p})
}

// plan decides as the migrate flow will. It is pure.
func plan(policy placement.Policy, snap *cloud.Snapshot, s *cloud.Server, m *cloud.Migration) Plan {
	p := Plan{
		Server: PlanServer{ID: s.ID, Name: s.Name, Host: s.Host, VMState: s.VMState, Task: s.Task},
		Asked:  m.Asked, AskedTarget: m.AskedTarget, Candidates: []Candidate{}, Revision: snap.Revision,
	}
	hosts := map[cloud.HostName]*cloud.HostView{}
	for i := range snap.Hosts {
		hosts[snap.Hosts[i].Host.Name] = &snap.Hosts[i]
	}
	source := hosts[s.Host]
	verdicts := placement.Rank(policy, snap, placement.ForMigration(s, m))
	for _, verdict := range verdicts {
		c := Candidate{Verdict: verdict}
		if source != nil && verdict.Host != s.Host {
			c.Kind = placement.KindOf(s, source.Report, hosts[verdict.Host].Report)
		}
		p.Candidates = append(p.Candidates, c)
	}
	switch err := s.Allow(cloud.OpLiveMigrate); {
	case err != nil:
		p.Refusal = err.Error()
	case source == nil || !source.Up:
		p.Refusal = fmt.Sprintf("host %s, where server %s runs, is down: its agent is not connected", s.Host, s.ID)
	case len(verdicts) == 0 || !verdicts[0].Fits:
		p.Refusal = placement.NoValidHost(asked(verdicts, m.AskedTarget)).Error()
	default:
		p.Possible, p.Target, p.Kind = true, p.Candidates[0].Host, p.Candidates[0].Kind
	}
	return p
}

// asked returns the verdict on the host that was asked for, all of them when none was: that the others were not asked for explains nothing.
func asked(verdicts []cloud.Verdict, host cloud.HostName) []cloud.Verdict {
	for i, v := range verdicts {
		if v.Host == host {
			return verdicts[i : i+1]
		}
	}
	return verdicts
}

// historyMax bounds how far an estimate looks back: at the most a thousand records are touched for each plan.
const historyMax = 1000

// history returns migrations newest first: the cloud's latest, and all of the server's however old they are.
func history(v store.View, id cloud.ServerID) []*cloud.Migration {
	var out []*cloud.Migration
	for _, m := range store.Descend(v, tables.Migrations, tables.ByCreated, store.Cursor{}) {
		if len(out) == historyMax {
			break
		}
		out = append(out, m)
	}
	if len(out) < historyMax {
		return out
	}
	oldest := out[len(out)-1].Created
	for _, m := range store.By(v, tables.Migrations, tables.ByServer, id) {
		if m.Created.Before(oldest) {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b *cloud.Migration) int { return b.Created.Compare(a.Created) })
	return out
}
