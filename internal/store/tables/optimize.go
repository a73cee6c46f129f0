package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// AuditTemplates holds named goals, by UUID. Written by the edge.
var AuditTemplates = store.NewTable("audit-templates", store.Unique(ByName, func(t *cloud.AuditTemplate) []string { return one(t.Name) }))

// Audits holds wishes for plans, by UUID. Created and cancelled by the edge, carried out by control.
var Audits = store.NewTable("audits", store.Index(ByCreated, func(a *cloud.Audit) []string { return []string{SortTime(a.Created)} }))

// ActionPlans holds what the optimiser would do or does, by UUID. Written by control; the edge sets the status of one that is not under way
// (start, delete) and asks for the end of one that is.
var ActionPlans = store.NewTable("action-plans", store.Index(ByCreated, func(p *cloud.ActionPlan) []string { return []string{SortTime(p.Created)} }))

// Accounts holds what hosts and servers used, by AccountKey. Written by control.
var Accounts = store.NewTable[cloud.Account]("accounts")

// AccountKey is the key of a day's account. AccountKey(day, "", "") is the prefix of a day's.
func AccountKey(day string, kind cloud.AccountKind, subject string) string {
	if kind == "" {
		return day + "/"
	}
	return day + "/" + string(kind) + "/" + subject
}
