package tables

import (
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// ByStatus finds migrations by status.
const ByStatus = "status"

// Migrations holds moves of servers, by UUID. Created by the edge as queued, with the flags AbortAsked and CompleteAsked; all else is
// written by the migrate flow.
var Migrations = store.NewTable("migrations",
	store.Unique(ByNumber, func(m *cloud.Migration) []string { return []string{strconv.Itoa(m.Number)} }),
	store.Index(ByServer, func(m *cloud.Migration) []string { return one(m.Server) }),
	store.Index(ByHost, func(m *cloud.Migration) []string {
		if m.Target == "" || m.Target == m.Source {
			return one(m.Source)
		}
		return []string{string(m.Source), string(m.Target)}
	}),
	store.Index(ByStatus, func(m *cloud.Migration) []string { return one(m.Status) }),
	store.Index(ByProject, func(m *cloud.Migration) []string { return one(m.Project) }),
	store.Index(ByCreated, func(m *cloud.Migration) []string { return []string{SortTime(m.Created)} }),
)

// Progress holds the latest figures of running migrations, by migration id. Written by session, removed by the migrate flow.
var Progress = store.NewTable[cloud.MigrationProgress]("progress")

// Intents holds what was asked and is not finished, by id. Created by the edge, removed by the last write of the run that carries it out.
var Intents = store.NewTable("intents",
	store.Index(ByServer, func(i *cloud.Intent) []string { return one(i.Server) }),
	store.Index(ByVolume, func(i *cloud.Intent) []string { return one(i.Volume) }),
)

// Actions holds instance actions, by ActionKey. Created by the edge, extended by flows.
var Actions = store.NewTable("actions",
	store.Index(ByServer, func(a *cloud.Action) []string { return one(a.Server) }),
)

// ActionKey is the key of an instance action. ActionKey(server, "") is the prefix of all of a server's.
func ActionKey(server cloud.ServerID, requestID string) string {
	return string(server) + "/" + requestID
}

// Observations holds what hosts last saw of servers, by ObservationKey. Written by session, removed by the delete and migrate flows.
var Observations = store.NewTable("observations",
	store.Index(ByServer, func(o *cloud.ServerObservation) []string { return one(o.Server) }),
)

// ObservationKey is the key of a host's observation of a server. ObservationKey(host, "") is the prefix of all that the host sees.
func ObservationKey(host cloud.HostName, server cloud.ServerID) string {
	return string(host) + "/" + string(server)
}

// Decisions holds why servers went where they went, by DecisionKey. Written by flows.
var Decisions = store.NewTable[cloud.Decision]("decisions")

// DecisionKey is the key of a placement decision. DecisionKey(server, "") is the prefix of all of a server's.
func DecisionKey(server cloud.ServerID, intent cloud.IntentID) string {
	return string(server) + "/" + string(intent)
}
