package operator

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/planbook"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// optimizeRoutes are mounted with the others.
func (s *Service) optimizeRoutes() []route {
	return []route{
		{"POST /v1/audits", "godwit:audits:create", s.createAudit},
		{"GET /v1/audits/{id}", "godwit:audits:show", s.showAudit},
		{"GET /v1/plans", "godwit:plans:list", s.listPlans},
		{"GET /v1/plans/{id}", "godwit:plans:show", s.showPlan},
		{"POST /v1/plans/{id}/start", "godwit:plans:start", s.startPlan},
		{"POST /v1/plans/{id}/cancel", "godwit:plans:cancel", s.cancelPlan},
		{"POST /v1/hosts/{name}/power", "godwit:hosts:power", s.askPower},
		{"GET /v1/accounting", "godwit:accounting:list", s.listAccounts},
	}
}

type auditBody struct {
	Goal     cloud.OptimizeGoal `json:"goal" api:"null;enum=consolidate|balance"`
	Strategy string             `json:"strategy" api:"null;len=..64"`
	Start    bool               `json:"start"`
}

// createAudit asks for a plan. The leader makes it; the audit names it when it has.
func (s *Service) createAudit(w http.ResponseWriter, r *openstack.Request) error {
	var body auditBody
	if err := r.Decode(w, &body); err != nil {
		return err
	}
	audit := cloud.Audit{
		Goal: cmp.Or(body.Goal, cloud.GoalConsolidate), Strategy: body.Strategy, AutoStart: body.Start, Project: r.Caller.Project, User: r.Caller.User,
	}
	_, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return planbook.Ask(tx, &audit, s.now().UTC()) })
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusAccepted, map[string]cloud.Audit{"audit": audit})
}

func (s *Service) showAudit(w http.ResponseWriter, r *openstack.Request) error {
	a, ok := store.Lookup(s.store.View(), tables.Audits, r.PathValue("id"))
	if !ok {
		return cloud.Errorf(cloud.KindNotFound, "audit %s does not exist", r.PathValue("id"))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]*cloud.Audit{"audit": a})
}

// listPlans answers with plans, newest first.
func (s *Service) listPlans(w http.ResponseWriter, r *openstack.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	plans := store.All(s.store.View(), tables.ActionPlans)
	slices.SortFunc(plans, func(a, b *cloud.ActionPlan) int { return b.Created.Compare(a.Created) })
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"plans": append([]*cloud.ActionPlan{}, plans...)})
}

func (s *Service) showPlan(w http.ResponseWriter, r *openstack.Request) error {
	p, ok := store.Lookup(s.store.View(), tables.ActionPlans, r.PathValue("id"))
	if !ok {
		return cloud.Errorf(cloud.KindNotFound, "plan %s does not exist", r.PathValue("id"))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]*cloud.ActionPlan{"plan": p})
}

func (s *Service) startPlan(w http.ResponseWriter, r *openstack.Request) error {
	return s.changePlan(w, r, planbook.Start)
}

func (s *Service) cancelPlan(w http.ResponseWriter, r *openstack.Request) error {
	return s.changePlan(w, r, planbook.Cancel)
}

func (s *Service) changePlan(w http.ResponseWriter, r *openstack.Request, change func(*store.Tx, cloud.PlanID, time.Time) (cloud.ActionPlan, error)) error {
	var p cloud.ActionPlan
	_, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) (err error) {
		p, err = change(tx, cloud.PlanID(r.PathValue("id")), s.now().UTC())
		return err
	})
	if err != nil {
		return err
	}
	return openstack.WriteJSON(w, http.StatusAccepted, map[string]cloud.ActionPlan{"plan": p})
}

type powerBody struct {
	Ask  cloud.HostPowerAsk `json:"ask" api:"required;enum=sleep|wake|test"`
	Mode cloud.SleepMode    `json:"mode" api:"null;enum=suspend|poweroff|bmc"`
}

// askPower asks a host to sleep, to wake, or to prove that it wakes. The leader does it; the host's power shows how far it is.
func (s *Service) askPower(w http.ResponseWriter, r *openstack.Request) error {
	var body powerBody
	if err := r.Decode(w, &body); err != nil {
		return err
	}
	name := cloud.HostName(r.PathValue("name"))
	if _, ok := store.Lookup(s.store.View(), tables.Hosts, name); !ok {
		return cloud.Errorf(cloud.KindNotFound, "host %s does not exist", name)
	}
	wish := hostpower.Wish{Host: name, Ask: body.Ask, Mode: body.Mode, Reason: "an operator asked"}
	_, err := s.store.UpdateVisible(r.Context(), func(tx *store.Tx) error { return hostpower.Ask(tx, wish, s.now().UTC()) })
	if err != nil {
		return err
	}
	h, _ := store.Lookup(s.store.View(), tables.Hosts, name)
	return openstack.WriteJSON(w, http.StatusAccepted, map[string]Host{"host": s.hostView(s.store.View(), h)})
}

// listAccounts answers with what was used: ?by=host|server|project, ?since= and ?until= days (UTC, inclusive; today by default), one row for each subject.
func (s *Service) listAccounts(w http.ResponseWriter, r *openstack.Request) error {
	q, err := parameters(r, "by", "since", "until")
	if err != nil {
		return err
	}
	today := s.now().UTC().Format(time.DateOnly)
	since, until := cmp.Or(q.Get("since"), today), cmp.Or(q.Get("until"), today)
	for _, day := range []string{since, until} {
		if _, err := time.Parse(time.DateOnly, day); err != nil {
			return cloud.Errorf(cloud.KindInvalid, "%q is no day such as 2026-01-31", day)
		}
	}
	by := cloud.AccountKind(cmp.Or(q.Get("by"), string(cloud.AccountHost)))
	if by != cloud.AccountHost && by != cloud.AccountServer && by != cloud.AccountProject {
		return cloud.Errorf(cloud.KindInvalid, "by %q: want host, server or project", by)
	}
	var days []*cloud.Account
	for _, a := range store.All(s.store.View(), tables.Accounts) { // some hundred days of a fleet: a scan is milliseconds
		if a.Day >= since && a.Day <= until {
			days = append(days, a)
		}
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"since": since, "until": until, "by": by, "accounts": sumAccounts(days, by)})
}

// sumAccounts adds days up, and servers to projects.
func sumAccounts(days []*cloud.Account, by cloud.AccountKind) []cloud.Account {
	sums := map[string]*cloud.Account{}
	for _, a := range days {
		kind, subject := a.Kind, a.Subject
		if by == cloud.AccountProject && kind == cloud.AccountServer {
			kind, subject = cloud.AccountProject, string(a.Project)
		}
		if kind != by {
			continue
		}
		sum := sums[subject]
		if sum == nil {
			sum = &cloud.Account{Kind: kind, Subject: subject}
			sums[subject] = sum
		}
		if kind == cloud.AccountServer {
			sum.Name, sum.Project = a.Name, a.Project
		}
		sum.Add(a)
		if a.Updated.After(sum.Updated) {
			sum.Updated = a.Updated
		}
	}
	out := make([]cloud.Account, 0, len(sums))
	for _, a := range sums {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b cloud.Account) int {
		return cmp.Or(cmp.Compare(b.WattSeconds, a.WattSeconds), cmp.Compare(a.Subject, b.Subject))
	})
	return out
}
