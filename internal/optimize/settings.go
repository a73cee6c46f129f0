package optimize

import (
	"fmt"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// Settings are the operator's part of the decision. Start from DefaultSettings.
type Settings struct {
	Goal      cloud.OptimizeGoal // when the schedule says nothing
	Schedule  []Period
	Strategy  string // of consolidate.Parse, for GoalConsolidate
	MovesMax  int    // of one plan, but that a host with more servers than these is emptied by a plan of its own
	Window    time.Duration
	Horizon   time.Duration // over which a host's sleep must pay
	Factor    float64       // how many times its cost a move must gain
	Failover  int           // hosts that may fail at once
	Reserve   float64       // share of the awake hosts' CPU that stays free of what is expected
	AwakeMin  time.Duration
	Sleep     bool // hosts may sleep
	WakeValid time.Duration
	// OverloadGoal is the share of the awake hosts' time that may be short of CPU; 0: none is stated. See Caution.
	OverloadGoal float64
	Caution      float64 // multiplies what planners keep free; 0 means 1
	// Bandwidth bounds a migration, bytes per second; 0: as fast as the last ones were.
	Bandwidth int64
	// Converges: a migration that dirties memory faster than it is copied ends all the same (auto-converge or post-copy).
	Converges bool
	Power     consolidate.PowerModel // of hosts whose aggregates say nothing
}

// DefaultSettings returns the defaults.
func DefaultSettings() Settings {
	return Settings{
		Goal: cloud.GoalConsolidate, Strategy: "godwit", MovesMax: 10, Window: 30 * time.Minute, Horizon: 30 * time.Minute, Factor: 1.5, Failover: 1,
		Reserve: 0.1, AwakeMin: 10 * time.Minute, Sleep: true, WakeValid: 30 * 24 * time.Hour, Power: consolidate.ProLiantG5,
	}
}

// Period is a time of day, in minutes since midnight, that has a goal of its own. One that ends before it begins goes over midnight.
type Period struct {
	From, To int
	Goal     cloud.OptimizeGoal
}

// ParsePeriod reads "22:00-06:00=consolidate".
func ParsePeriod(text string) (Period, error) {
	var p Period
	span, goal, ok := strings.Cut(text, "=")
	from, to, also := strings.Cut(span, "-")
	if !ok || !also {
		return p, fmt.Errorf("period %q: want such as 22:00-06:00=consolidate", text)
	}
	for value, into := range map[string]*int{from: &p.From, to: &p.To} {
		t, err := time.Parse("15:04", strings.TrimSpace(value))
		if err != nil {
			return p, fmt.Errorf("period %q: %q is no time of day such as 06:00", text, value)
		}
		*into = t.Hour()*60 + t.Minute()
	}
	p.Goal = cloud.OptimizeGoal(strings.TrimSpace(goal))
	if p.Goal != cloud.GoalConsolidate && p.Goal != cloud.GoalBalance {
		return p, fmt.Errorf("period %q: goal %q: want consolidate or balance", text, p.Goal)
	}
	return p, nil
}

// GoalAt returns the goal at a time, by that time's own time zone.
func (s Settings) GoalAt(now time.Time) cloud.OptimizeGoal {
	minute := now.Hour()*60 + now.Minute()
	for _, p := range s.Schedule {
		if p.From <= p.To && minute >= p.From && minute < p.To || p.From > p.To && (minute >= p.From || minute < p.To) {
			return p.Goal
		}
	}
	return s.Goal
}

// MetaPower is the aggregate metadata key that gives the power model of its hosts.
const MetaPower = "godwit:power_model"

// ParsePower reads a power model: g4, g5, or watts at 0, 10, ... 100 % utilisation, or watts when idle and at full load, separated by commas.
func ParsePower(text string) (consolidate.PowerModel, error) {
	switch strings.ToLower(text) {
	case "g4":
		return consolidate.ProLiantG4, nil
	case "g5":
		return consolidate.ProLiantG5, nil
	}
	var model consolidate.PowerModel
	var watts []float64
	for word := range strings.SplitSeq(text, ",") {
		var w float64
		if _, err := fmt.Sscanf(strings.TrimSpace(word), "%g", &w); err != nil || !(w > 0) || w > 1e6 || len(watts) > 0 && w < watts[len(watts)-1] {
			return model, fmt.Errorf("power model %q: want g4, g5, 2 or 11 numbers of watts that do not fall", text)
		}
		watts = append(watts, w)
	}
	switch len(watts) {
	case len(model):
		copy(model[:], watts)
	case 2:
		for i := range model {
			model[i] = watts[0] + (watts[1]-watts[0])*float64(i)/float64(len(model)-1)
		}
	default:
		return model, fmt.Errorf("power model %q: want g4, g5, 2 or 11 numbers of watts", text)
	}
	return model, nil
}

// CautionAfter moves the caution of a fleet by what was seen: up when hosts were short for a larger share of the time than the goal allows, slowly
// back when it was clearly less. It is how an overload-time goal acts on any planner that keeps room free.
func CautionAfter(caution, seen, goal float64) float64 {
	const up, down, most = 1.25, 0.97, 6
	if caution == 0 {
		caution = 1
	}
	switch {
	case goal <= 0:
		return 1
	case seen > goal:
		return min(most, caution*up)
	case seen < goal/2:
		return max(1, caution*down)
	}
	return caution
}
