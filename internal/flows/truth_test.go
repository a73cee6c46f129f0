package flows

import (
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

func TestOnlyWhatBothHostsSayDecidesAMigrationInDoubt(t *testing.T) {
	at := func(d hostpb.DomainState) sighting { return &hostpb.ServerState{Domain: d} }
	var (
		nobody   sighting
		absent   = at(hostpb.DomainState_DOMAIN_STATE_ABSENT)
		runs     = at(hostpb.DomainState_DOMAIN_STATE_RUNNING)
		paused   = at(hostpb.DomainState_DOMAIN_STATE_PAUSED)
		shutoff  = at(hostpb.DomainState_DOMAIN_STATE_SHUTOFF)
		incoming = at(hostpb.DomainState_DOMAIN_STATE_INCOMING)
		outgoing = at(hostpb.DomainState_DOMAIN_STATE_OUTGOING)
		told     = &hostpb.ServerState{Domain: hostpb.DomainState_DOMAIN_STATE_ABSENT, MigrationId: "m", MigrationOutcome: hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED}
		other    = &hostpb.ServerState{Domain: hostpb.DomainState_DOMAIN_STATE_RUNNING, MigrationId: "older", MigrationOutcome: hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED}
	)
	split := func(d hostpb.DomainState, p hostpb.PostCopy) sighting {
		return &hostpb.ServerState{Domain: d, PostCopy: p}
	}
	var (
		active     = hostpb.PostCopy_POST_COPY_ACTIVE
		lostHalf   = hostpb.PostCopy_POST_COPY_BROKEN
		sourceHalf = split(hostpb.DomainState_DOMAIN_STATE_PAUSED, active)
		targetHalf = split(hostpb.DomainState_DOMAIN_STATE_RUNNING, active)
		brokenHere = split(hostpb.DomainState_DOMAIN_STATE_PAUSED, lostHalf)
		stuckThere = split(hostpb.DomainState_DOMAIN_STATE_RUNNING, lostHalf)
	)
	tests := []struct {
		name           string
		source, target sighting
		lost           time.Duration
		want           conclusion
	}{
		{"source confirms", told, nobody, 0, completed},
		{"source confirms another migration", other, absent, 0, failed},
		{"still copying", outgoing, incoming, 0, goingOn},
		{"post-copy", outgoing, runs, 0, goingOn},
		{"taken back", runs, absent, 0, failed},
		{"taken back, target unreachable", runs, nobody, 0, failed},
		{"left standing on the source", paused, absent, 0, failed},
		{"left standing on the source, target dropped it", paused, shutoff, 0, failed},
		{"left standing on the source, runs on the target", paused, runs, 0, completed},
		{"left standing on the source, target unreachable", paused, nobody, time.Hour, unknown},
		{"standing on both", paused, paused, 0, unknown},
		{"left standing on the source, target has not dropped it yet", paused, incoming, 0, unknown},
		{"both claim to run", runs, runs, 0, unknown},
		{"arrived", absent, runs, 0, completed},
		{"arrived paused", shutoff, paused, 0, completed},
		{"arrived, source unreachable", nobody, runs, 0, completed},
		{"cutting over", absent, incoming, 0, unknown},
		{"source unreachable, just now", nobody, incoming, time.Second, unknown},
		{"source unreachable for long", nobody, incoming, time.Minute, failed},
		{"source unreachable for long, target paused at the switch", nobody, paused, time.Minute, unknown},
		{"source gone, target unreachable", absent, nobody, 0, unknown},
		{"nobody answers", nobody, nobody, time.Hour, unknown},
		{"in post-copy", sourceHalf, targetHalf, 0, goingOn},
		{"in post-copy, source unreachable for long", nobody, targetHalf, time.Hour, goingOn},
		{"in post-copy, target unreachable", sourceHalf, nobody, 0, goingOn},
		{"post-copy broken, target died", brokenHere, shutoff, 0, broken},
		{"post-copy broken, target unreachable", brokenHere, nobody, time.Hour, unknown},
		{"source thinks it broke, target has everything", brokenHere, runs, 0, completed},
		{"post-copy broken, source died", nobody, stuckThere, 0, broken},
		{"post-copy broken on both", brokenHere, stuckThere, 0, broken},
		{"guest died", shutoff, absent, 0, failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := judge(tt.source, tt.target, "m", tt.lost, time.Minute); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
