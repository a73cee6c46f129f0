// Package tables names every table of godwit's store: its record type, its key and the orders in which its records are found.
//
// A table is a name and a type; it holds no data. Whoever may write a table is said beside it, and nobody else writes it:
//
//	edge     openstack/* and the operator API, on a caller's behalf
//	flows    a run of the workflow engine, under the leader
//	control  the leader's loops
//	session  the server instance that holds a host's stream, for what that host reports
//
// Keys are the identifiers themselves. Where a record belongs to another (an action to its server), the owner's key comes first and a
// slash follows, so that a prefix lists them: see [ActionKey] and its like.
//
// Values of indexes that sort by time use [SortTime], whose text order is the order of time.
package tables

import (
	"time"

	"github.com/godwit-cloud/godwit/internal/store"
)

// All returns every table, for store.Options.
func All() []store.AnyTable {
	return []store.AnyTable{
		Hosts, HostReports, HostSessions, HostPowers, Checkups, Usages, Aggregates,
		AuditTemplates, Audits, ActionPlans, Accounts,
		Flavors, Keypairs, Servers, Graves, ServerGroups, Quotas, QuotaUsages,
		Migrations, Progress, Intents, Actions, Observations, Decisions,
		Images,
		Volumes, VolumeSnapshots, VolumeTypes, Attachments, VolumeQuotas, VolumeUsages, VolumeServices, VolumeReports, VolumeSessions,
		Networks, Subnets, Ports, AddressClaims, SecurityGroups,
		Domains, Projects, Users, Roles, Assignments, AppCredentials, Revocations, SigningKeys,
		HostVerdicts, BMCs, Recoveries, RecoveryPermits, SpareRooms,
		Healings, Segments, SegmentHosts, Notifications,
		Counters, Secrets,
		store.Runs,
	}
}

// Names of indexes that several tables have.
const (
	ByProject = "project" // the owning project
	ByHost    = "host"    // the compute host (of a migration: either of the two)
	ByServer  = "server"  // the server
	ByName    = "name"
	ByNumber  = "number" // the integer id of older microversions, as decimal text; unique
	ByCreated = "created"
	ByUser    = "user"
	ByNetwork = "network"
)

// sortLayout keeps nine decimals, so that text order is time order.
const sortLayout = "2006-01-02T15:04:05.000000000Z"

// SortTime returns t in UTC as text whose order is the order of time.
func SortTime(t time.Time) string { return t.UTC().Format(sortLayout) }

// one returns v as an index's only value, or no value when it is empty.
func one[S ~string](v S) []string {
	if v == "" {
		return nil
	}
	return []string{string(v)}
}
