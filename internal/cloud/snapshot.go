package cloud

import "time"

// HostView is all that a decider may know of one host.
type HostView struct {
	Host   Host
	Report HostReport // zero when the host never reported
	Up     bool       // a session exists and nobody forced the host down
	Usage  Usage
	Zone   string // after aggregates
	// Segment, when not empty, is the failover segment the host is in, with its recovery method; Reserved keeps the host for that segment's recovery.
	Segment        SegmentID
	RecoveryMethod RecoveryMethod
	Reserved       bool
}

// Snapshot is a consistent, read-only picture of the fleet. Deciders must not modify anything reachable from it.
type Snapshot struct {
	Revision   int64 // of the store
	Now        time.Time
	Hosts      []HostView // sorted by name
	Aggregates []Aggregate
	Groups     map[GroupID]ServerGroup
}

// Decision is why a server went where it went: kept for `godwit why`.
type Decision struct {
	Server   ServerID  `json:"server"`
	Intent   IntentID  `json:"intent"`
	Purpose  string    `json:"purpose"` // boot, migrate
	Chosen   HostName  `json:"chosen,omitempty"`
	Verdicts []Verdict `json:"verdicts"`
	At       time.Time `json:"at"`
}

// Verdict is placement's word on one host.
type Verdict struct {
	Host    HostName `json:"host"`
	Fits    bool     `json:"fits"`
	Score   float64  `json:"score"`             // greater is better; meaningful only when Fits
	Reasons []string `json:"reasons,omitempty"` // why it was refused, each a sentence with the figures
}
