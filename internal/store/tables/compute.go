package tables

import (
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Orders in which servers are found besides the common ones.
const (
	ByProjectCreated = "project-created" // project, "/", SortTime(Created): Nova's order of a project's list
	ByImage          = "image"
	ByUpdated        = "updated" // SortTime(Updated): changes-since
	ByReservation    = "reservation"
	ByGroup          = "group"
)

// Servers holds the servers that exist, by id. Created by the edge; names, metadata and locks are the edge's, all else is written by flows.
var Servers = store.NewTable("servers", serverIndexes()...)

// Graves holds deleted servers for a while, by id, for `deleted=true` and `changes-since`. Written by the delete flow, pruned by control.
var Graves = store.NewTable("graves", serverIndexes()...)

func serverIndexes() []store.Option[cloud.Server] {
	return []store.Option[cloud.Server]{
		store.Index(ByProject, func(s *cloud.Server) []string { return one(s.Project) }),
		store.Index(ByHost, func(s *cloud.Server) []string { return one(s.Host) }),
		store.Index(ByName, func(s *cloud.Server) []string { return one(s.Name) }),
		store.Index(ByImage, func(s *cloud.Server) []string { return one(s.Image) }),
		store.Index(ByReservation, func(s *cloud.Server) []string { return one(s.Reservation) }),
		store.Index(ByGroup, func(s *cloud.Server) []string { return one(s.Group) }),
		store.Index(ByCreated, func(s *cloud.Server) []string { return []string{SortTime(s.Created)} }),
		store.Index(ByUpdated, func(s *cloud.Server) []string { return []string{SortTime(s.Updated)} }),
		store.Index(ByProjectCreated, func(s *cloud.Server) []string {
			return []string{string(s.Project) + "/" + SortTime(s.Created)}
		}),
	}
}

// Flavors holds flavors, by id. Written by the edge.
var Flavors = store.NewTable("flavors",
	store.Unique(ByName, func(f *cloud.Flavor) []string { return one(f.Name) }),
)

// Keypairs holds SSH public keys, by KeypairKey. Written by the edge.
var Keypairs = store.NewTable("keypairs",
	store.Index(ByUser, func(k *cloud.Keypair) []string { return one(k.User) }),
	store.Unique(ByNumber, func(k *cloud.Keypair) []string { return []string{strconv.Itoa(k.Number)} }),
)

// KeypairKey is the key of a user's keypair. KeypairKey(user, "") is the prefix of all of them.
func KeypairKey(user cloud.UserID, name string) string { return string(user) + "/" + name }

// ServerGroups holds server groups, by id. Created by the edge; Members and Placed also change with boot, delete and migrate.
var ServerGroups = store.NewTable("server-groups",
	store.Index(ByProject, func(g *cloud.ServerGroup) []string { return one(g.Project) }),
)

// Quotas holds the limits that operators set, by project; a project without a record has cloud.DefaultQuota. Written by the edge.
var Quotas = store.NewTable[cloud.Quota]("quotas")

// QuotaUsages counts what projects have, by project. Written by the edge (create) and the delete flow, in the same transaction as the server.
var QuotaUsages = store.NewTable[cloud.QuotaUsage]("quota-usages")
