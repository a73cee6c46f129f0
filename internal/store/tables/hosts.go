package tables

import (
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// ByID and ByServiceID find a host by the UUIDs that os-hypervisors and os-services show from 2.53 on; ByHost of Aggregates finds those a host is in.
const (
	ByID        = "id"
	ByServiceID = "service-id"
)

// Hosts holds what operators say of compute hosts, by name. Written by the edge and, on a host's first contact, by session.
var Hosts = store.NewTable("hosts",
	store.Unique(ByID, func(h *cloud.Host) []string { return one(h.ID) }),
	store.Unique(ByServiceID, func(h *cloud.Host) []string { return one(h.ServiceID) }),
	store.Unique(ByNumber, func(h *cloud.Host) []string { return []string{strconv.Itoa(h.Number)} }),
)

// HostReports holds what hosts say of themselves, by host name. Written by session.
var HostReports = store.NewTable[cloud.HostReport]("host-reports")

// HostSessions says which hosts are connected, by host name. Written by session, bound to its lease: present means up.
var HostSessions = store.NewTable[cloud.HostSession]("host-sessions")

// Usages holds the claims on each host, by host name. Written by flows.
var Usages = store.NewTable[cloud.Usage]("usages")

// Aggregates holds host aggregates, by UUID. Written by the edge.
var Aggregates = store.NewTable("aggregates",
	store.Unique(ByNumber, func(a *cloud.Aggregate) []string { return []string{strconv.Itoa(a.Number)} }),
	store.Unique(ByName, func(a *cloud.Aggregate) []string { return one(a.Name) }),
	store.Index(ByHost, func(a *cloud.Aggregate) []string {
		out := make([]string, 0, len(a.Hosts))
		for _, h := range a.Hosts {
			out = append(out, string(h))
		}
		return out
	}),
)
