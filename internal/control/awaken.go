package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// awakenMaxMin is how long an intent waits at least for its server's host to wake; a host that was timed gets three times what it took. Then
	// the run begins all the same and fails in its own way, so that the server's owner hears of it.
	awakenMaxMin = 5 * time.Minute
	awakenTimes  = 3
)

// awaken asks hosts to wake whose stopped servers somebody wants something of, and returns the intents that wait for that. A server stays on its host
// when that goes to sleep (package hostpower), so whatever is asked of it, its start above all, needs the host first. Only an evacuation does not.
func (l *leader) awaken(ctx context.Context, v store.View, intents []*cloud.Intent, started map[cloud.IntentID]bool) (held map[cloud.IntentID]bool, err error) {
	held = map[cloud.IntentID]bool{}
	now := time.Now().UTC()
	var errs []error
	for _, i := range intents {
		s, ok := store.Lookup(v, tables.Servers, i.Server)
		if !ok || s.Host == "" || started[i.ID] || i.Kind == cloud.IntentEvacuate {
			continue
		}
		p, ok := store.Lookup(v, tables.HostPowers, s.Host)
		if !ok || !p.Resting() || now.Sub(i.Created) > max(awakenMaxMin, awakenTimes*p.WakeTook) {
			continue
		}
		held[i.ID] = true
		if p.State == cloud.HostWaking || p.Asked == cloud.AskWake || p.Asked == cloud.AskTest {
			continue
		}
		wish := hostpower.Wish{Host: s.Host, Ask: cloud.AskWake, Reason: fmt.Sprintf("server %s is asked to %s", s.ID, i.Kind)}
		_, err := l.records.UpdateVisible(ctx, func(tx *store.Tx) error { return hostpower.Ask(tx, wish, now) })
		errs = append(errs, err)
	}
	return held, errors.Join(errs...)
}
