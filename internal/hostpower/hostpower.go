// Package hostpower is the rule by which a host is asked to sleep or to wake, inside the transaction of whoever asks: the edge for operators, the
// leader for plans, flows for a server that fits nowhere else. What was asked is carried out by the leader (control), one step at a time:
//
//	awake --Ask sleep--> falling-asleep --agent gone--> asleep --Ask wake--> waking --agent heard--> awake
//	awake --Ask test---> falling-asleep --agent gone--> asleep ------------> waking --agent heard--> awake, proven
package hostpower

import (
	"errors"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Wish is what is asked of a host.
type Wish struct {
	Host   cloud.HostName
	Ask    cloud.HostPowerAsk
	Mode   cloud.SleepMode // of AskSleep and AskTest; empty: the cloud's
	Reason string
}

// Ask writes a wish. To ask for what is so already, or is under way, is no error and changes nothing. Sleep is refused (cloud.KindConflict) while
// something but stopped servers is claimed on the host, of a host that was never seen to wake, and when nobody would be left to wake it.
func Ask(tx *store.Tx, w Wish, now time.Time) error {
	host, err := store.Get(tx, tables.Hosts, w.Host)
	if err != nil {
		return err
	}
	p, err := Get(tx, w.Host)
	if err != nil {
		return err
	}
	switch w.Ask {
	case cloud.AskWake:
		if p.Takes() && p.Asked == cloud.AskNothing || p.State == cloud.HostWaking || p.Asked == cloud.AskWake {
			return nil
		}
	case cloud.AskSleep, cloud.AskTest:
		if p.Resting() {
			if w.Ask == cloud.AskTest {
				return cloud.Errorf(cloud.KindConflict, "host %s is %s: only one that is awake can be tested", w.Host, p.State)
			}
			return nil
		}
		if err := mayRest(tx, host, p, w.Ask); err != nil {
			return err
		}
	case cloud.AskNothing:
	}
	p.Asked, p.AskedMode, p.Reason, p.NextTry = w.Ask, w.Mode, w.Reason, now
	return store.Put(tx, tables.HostPowers, w.Host, p)
}

// Get returns a host's power, awake when there is no record.
func Get(tx *store.Tx, host cloud.HostName) (cloud.HostPower, error) {
	p, err := store.Get(tx, tables.HostPowers, host)
	if cloud.Is(err, cloud.KindNotFound) {
		return cloud.HostPower{Host: host, State: cloud.HostAwake}, nil
	}
	return p, err
}

func mayRest(tx *store.Tx, host cloud.Host, p cloud.HostPower, ask cloud.HostPowerAsk) error {
	if ask == cloud.AskSleep && p.WakeProven.IsZero() {
		return cloud.Errorf(cloud.KindConflict, "host %s was never seen to wake: prove it first (`godwit hosts wake-test %s`)", host.Name, host.Name)
	}
	if ask == cloud.AskSleep && p.WakeFailures > 0 {
		return cloud.Errorf(cloud.KindConflict, "host %s failed to wake %d times: prove that it does (`godwit hosts wake-test %s`)", host.Name, p.WakeFailures, host.Name)
	}
	if host.ForcedDown {
		return cloud.Errorf(cloud.KindConflict, "host %s is forced down", host.Name)
	}
	return errors.Join(others(tx, host.Name), Quiet(tx, host.Name))
}

// Quiet returns cloud.KindConflict when something on the host would notice that it sleeps: servers that run, are about to come or are being changed.
// Stopped servers do not; their host is woken when something is wanted of them.
func Quiet(tx *store.Tx, host cloud.HostName) error {
	usage, err := store.Get(tx, tables.Usages, host)
	if err != nil {
		if cloud.Is(err, cloud.KindNotFound) {
			return nil
		}
		return err
	}
	stopped := map[cloud.ServerID]bool{}
	for _, c := range usage.Claims {
		s, err := store.Get(tx, tables.Servers, c.Server)
		if err != nil && !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		if err != nil || c.Migration != "" || !s.AtRest() || s.Host != host {
			return cloud.Errorf(cloud.KindConflict, "host %s has %d servers, one is %s: move them first", host, len(usage.Claims), c.Server)
		}
		stopped[c.Server] = true
	}
	return unwanted(tx, host, stopped)
}

// unwanted returns cloud.KindConflict when something is asked of one of the servers.
func unwanted(tx *store.Tx, host cloud.HostName, servers map[cloud.ServerID]bool) error {
	if len(servers) == 0 {
		return nil
	}
	intents, err := store.PeekList(tx, tables.Intents, "")
	if err != nil {
		return err
	}
	for _, i := range intents {
		if servers[i.Server] {
			return cloud.Errorf(cloud.KindConflict, "host %s: server %s is asked to %s", host, i.Server, i.Kind)
		}
	}
	return nil
}

// others returns cloud.KindConflict when nobody could wake the host again: it has no BMC, and no other host is awake to send it a magic packet.
func others(tx *store.Tx, host cloud.HostName) error {
	if bmc, err := store.Peek(tx, tables.BMCs, host); err != nil || bmc != nil {
		return err
	}
	sessions, err := store.PeekList(tx, tables.HostSessions, "")
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.Host == host {
			continue
		}
		p, err := store.Peek(tx, tables.HostPowers, s.Host)
		if err != nil {
			return err
		}
		if p == nil || p.Takes() && p.Asked == cloud.AskNothing {
			return nil
		}
	}
	return cloud.Errorf(cloud.KindConflict, "no other host is awake to wake host %s, and it has no BMC", host)
}
