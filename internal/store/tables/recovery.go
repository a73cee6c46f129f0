package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// HostVerdicts holds what is believed of each host's life, by host name. Written by control, when a verdict changes.
var HostVerdicts = store.NewTable[cloud.HostVerdict]("host-verdicts")

// BMCs holds how hosts are turned off and on, by host name. Written by the edge (operators); control notes what a BMC last answered.
var BMCs = store.NewTable[cloud.BMC]("bmcs")

// RecoveryPermits holds which hosts may be recovered past the brake, by host name. Written by the edge, removed by control.
var RecoveryPermits = store.NewTable[cloud.RecoveryPermit]("recovery-permits")

// Recoveries holds what was done about dead hosts, by id. Written by control.
var Recoveries = store.NewTable("recoveries",
	store.Index(ByHost, func(r *cloud.Recovery) []string { return one(r.Host) }),
	store.Index(ByCreated, func(r *cloud.Recovery) []string { return []string{SortTime(r.Began)} }),
)

// SpareRooms holds whether the fleet could lose its largest hosts, one record under SpareRoomKey. Written by control, when the answer changes.
var SpareRooms = store.NewTable[cloud.SpareRoom]("spare-rooms")

// SpareRoomKey is the only key of SpareRooms.
const SpareRoomKey = "fleet"
