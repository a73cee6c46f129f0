package cloud

import "time"

// The optimiser's nouns follow OpenStack Watcher's: an audit asks for a goal, a strategy answers with an action plan, and a plan that is started
// has its actions carried out.

// AuditID identifies an audit, PlanID an action plan, PlanActionID an action of a plan, AuditTemplateID an audit template. All are UUIDs.
type (
	AuditID         string
	PlanID          string
	PlanActionID    string
	AuditTemplateID string
)

// OptimizeStatus is where an audit, a plan or an action stands, in Watcher's words.
type OptimizeStatus string

// The statuses. Plans are recommended until somebody starts them; audits begin as pending.
const (
	StatusRecommended OptimizeStatus = "RECOMMENDED"
	StatusPending     OptimizeStatus = "PENDING"
	StatusOngoing     OptimizeStatus = "ONGOING"
	StatusSucceeded   OptimizeStatus = "SUCCEEDED"
	StatusFailed      OptimizeStatus = "FAILED"
	StatusCancelling  OptimizeStatus = "CANCELLING"
	StatusCancelled   OptimizeStatus = "CANCELLED"
	StatusSuspended   OptimizeStatus = "SUSPENDED"
	StatusSuperseded  OptimizeStatus = "SUPERSEDED"
)

// Final reports whether nothing more will happen.
func (s OptimizeStatus) Final() bool {
	switch s {
	case StatusSucceeded, StatusFailed, StatusCancelled, StatusSuperseded:
		return true
	default:
		return false
	}
}

// OptimizeGoal is what the fleet is arranged for.
type OptimizeGoal string

// The goals.
const (
	GoalConsolidate OptimizeGoal = "consolidate" // few hosts awake, none short
	GoalBalance     OptimizeGoal = "balance"     // every server gets what it asks for, load alike on all hosts
)

// Automation says how much the optimiser may do by itself.
type Automation string

// The levels. With partial, plans are made by themselves and recommended, and placement may wake hosts; with full they are also started.
const (
	AutomationManual  Automation = "manual"
	AutomationPartial Automation = "partial"
	AutomationFull    Automation = "full"
)

// MetaAutomation is the server metadata key (and the flavor's extra spec) that overrides the automation level for one server: manual (or off)
// keeps it where it is, partial lets it move in plans that a person starts, full in all.
const MetaAutomation = "godwit:automation"

// AuditKind is Watcher's audit_type.
type AuditKind string

// The kinds of audits.
const (
	AuditOneShot    AuditKind = "ONESHOT"
	AuditContinuous AuditKind = "CONTINUOUS"
)

// Audit is a wish for a plan. Created by the edge, carried out by the leader.
type Audit struct {
	ID        AuditID         `json:"id"`
	Number    int             `json:"number"`
	Name      string          `json:"name"`
	Kind      AuditKind       `json:"kind"`
	Goal      OptimizeGoal    `json:"goal"`
	Strategy  string          `json:"strategy"` // a name of consolidate.Parse, or "balance"
	Template  AuditTemplateID `json:"template,omitempty"`
	AutoStart bool            `json:"auto_start"` // start the plan at once (Watcher's auto_trigger)
	Interval  time.Duration   `json:"interval,omitempty"`
	Next      time.Time       `json:"next,omitzero"` // of a continuous audit
	Ends      time.Time       `json:"ends,omitzero"`
	Status    OptimizeStatus  `json:"status"`
	Message   string          `json:"message,omitempty"` // why it failed, or that nothing is to be done
	Plan      PlanID          `json:"plan,omitempty"`    // the newest
	Project   ProjectID       `json:"project,omitempty"`
	User      UserID          `json:"user,omitempty"`
	Created   time.Time       `json:"created"`
	Updated   time.Time       `json:"updated"`
}

// AuditTemplate is a named goal and strategy.
type AuditTemplate struct {
	ID          AuditTemplateID `json:"id"`
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Goal        OptimizeGoal    `json:"goal"`
	Strategy    string          `json:"strategy"`
	Created     time.Time       `json:"created"`
	Updated     time.Time       `json:"updated"`
}

// ActionPlan is what the optimiser would do, or does. Written by the leader; the edge may ask for its start or its end.
type ActionPlan struct {
	ID       PlanID         `json:"id"`
	Audit    AuditID        `json:"audit,omitempty"` // none: made by the automation
	Goal     OptimizeGoal   `json:"goal"`
	Strategy string         `json:"strategy"`
	Status   OptimizeStatus `json:"status"`
	Message  string         `json:"message,omitempty"`
	Actions  []PlanAction   `json:"actions"`
	Refused  []RefusedMove  `json:"refused,omitempty"`
	Effect   PlanEffect     `json:"effect"`
	Revision int64          `json:"revision"` // of the store it was decided on
	Created  time.Time      `json:"created"`
	Updated  time.Time      `json:"updated"`
	Finished time.Time      `json:"finished,omitzero"`
}

// PlanActionKind is what an action does.
type PlanActionKind string

// The kinds of actions.
const (
	ActionWake    PlanActionKind = "wake"
	ActionMigrate PlanActionKind = "migrate"
	ActionSleep   PlanActionKind = "sleep"
)

// PlanAction is one step of a plan: wakes come first, then moves, then the sleep of hosts that the moves emptied.
type PlanAction struct {
	ID         PlanActionID   `json:"id"`
	Kind       PlanActionKind `json:"kind"`
	Server     ServerID       `json:"server,omitempty"`
	ServerName string         `json:"server_name,omitempty"`
	Host       HostName       `json:"host"`             // of a move: its source
	Target     HostName       `json:"target,omitempty"` // of a move
	Reason     string         `json:"reason"`
	Gain       float64        `json:"gain"` // of the move's group, see PlanEffect.Unit
	Cost       *MoveCost      `json:"cost,omitempty"`
	// Of a move: the server's score (see PlanEffect) as it was measured, and as it is expected.
	ScoreBefore float64        `json:"score_before,omitempty"`
	ScoreAfter  float64        `json:"score_after,omitempty"`
	Status      OptimizeStatus `json:"status"`
	Migration   MigrationID    `json:"migration,omitempty"`
	Error       string         `json:"error,omitempty"`
	Began       time.Time      `json:"began,omitzero"`
	Finished    time.Time      `json:"finished,omitzero"`
}

// MoveCost is what a live migration is expected to cost.
type MoveCost struct {
	Bytes               int64         `json:"bytes"`
	BytesPerSecond      int64         `json:"bytes_per_second"`
	DirtyBytesPerSecond int64         `json:"dirty_bytes_per_second"` // -1: unknown
	Takes               time.Duration `json:"takes"`
	Downtime            time.Duration `json:"downtime"`
	WattHours           float64       `json:"watt_hours"`
	CPUSeconds          float64       `json:"cpu_seconds"` // that the moving server does without
}

// RefusedMove is a move that was thought of and not made, and why.
type RefusedMove struct {
	Server     ServerID `json:"server,omitempty"`
	ServerName string   `json:"server_name,omitempty"`
	Host       HostName `json:"host"`
	Target     HostName `json:"target,omitempty"`
	Reason     string   `json:"reason"`
}

// PlanEffect is what a plan changes, by the power models of the hosts and the load as it was seen.
type PlanEffect struct {
	WattsBefore   float64 `json:"watts_before"`
	WattsAfter    float64 `json:"watts_after"`
	AwakeBefore   int     `json:"awake_before"`
	AwakeAfter    int     `json:"awake_after"`
	SpreadBefore  float64 `json:"spread_before"` // standard deviation of the load of awake hosts
	SpreadAfter   float64 `json:"spread_after"`
	ShortBefore   float64 `json:"short_before"` // CPUs that hosts lack for what is asked of them
	ShortAfter    float64 `json:"short_after"`
	GainWattHours float64 `json:"gain_watt_hours"` // over the horizon, less the moves' cost
	// Scores say how well servers get what they ask for, 0 to 100: the mean of all, and the least. After: as it is expected.
	ScoreBefore      float64 `json:"score_before"`
	ScoreAfter       float64 `json:"score_after"`
	ScoreLeastBefore float64 `json:"score_least_before"`
	ScoreLeastAfter  float64 `json:"score_least_after"`
}
