package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Healings holds what is done about servers whose guests fail, by server. Written by control.
var Healings = store.NewTable[cloud.Healing]("healings")

// Segments holds Masakari's failover segments, by id. Written by the edge.
var Segments = store.NewTable("segments",
	store.Index(ByName, func(s *cloud.Segment) []string { return one(s.Name) }),
)

// BySegment indexes segment hosts by their segment.
const BySegment = "segment"

// SegmentHosts holds the members of segments, by host name: a host is in at most one. Written by the edge; control marks reserved hosts as used.
var SegmentHosts = store.NewTable("segment-hosts",
	store.Index(BySegment, func(h *cloud.SegmentHost) []string { return one(h.Segment) }),
)

// Notifications holds the news of failures, by id, bounded by control. Written by the edge (monitors) and by control.
var Notifications = store.NewTable("notifications",
	store.Index(ByCreated, func(n *cloud.Notification) []string { return []string{SortTime(n.Created)} }),
	store.Index(ByServer, func(n *cloud.Notification) []string { return one(n.Server) }),
)
