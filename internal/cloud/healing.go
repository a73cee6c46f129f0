package cloud

import (
	"strings"
	"time"
)

// GuestFailure is what went wrong with a guest, as its host saw it; the words are godwit's, and Masakari's events are made from them.
type GuestFailure string

// The failures.
const (
	FailureNone     GuestFailure = ""
	FailureCrashed  GuestFailure = "crashed"  // QEMU ended without being asked to
	FailurePanicked GuestFailure = "panicked" // the guest's kernel said so
	FailureWatchdog GuestFailure = "watchdog" // its watchdog device expired
	FailureIOError  GuestFailure = "io-error" // stopped on a disk error that does not go away by itself
	FailureNoSpace  GuestFailure = "no-space" // stopped because there is no room for what it writes, and that stays so
	FailureSilent   GuestFailure = "silent"   // its guest agent, which answered before, answers no more
	FailureReported GuestFailure = "reported" // somebody outside the cluster said so: a VM notification
)

// HealStatus is where the healing of a server stands.
type HealStatus string

// The statuses.
const (
	HealWaiting    HealStatus = "waiting"    // the next attempt is at Healing.Next
	HealRestarting HealStatus = "restarting" // an attempt is under way on its own host
	HealMoving     HealStatus = "moving"     // it is being started on another host
	HealDone       HealStatus = "healed"     // the last attempt succeeded, or the guest came back by itself
	HealLeft       HealStatus = "left"       // nobody wants it healed, or there is nothing to do
	HealGaveUp     HealStatus = "gave-up"    // a person is asked
)

// HealStatuses returns all statuses.
func HealStatuses() []HealStatus {
	return []HealStatus{HealWaiting, HealRestarting, HealMoving, HealDone, HealLeft, HealGaveUp}
}

// Settled reports whether nothing is to be done about the failure any more, by the cluster or by a person.
func (s HealStatus) Settled() bool { return s == HealDone || s == HealLeft }

// Healing is what is done about a server whose guest fails. Control owns it; it stays for as long as the server, so that attempts are counted over time.
type Healing struct {
	Server  ServerID      `json:"server"`
	Host    HostName      `json:"host"`   // that saw the failure
	Number  int64         `json:"number"` // of the failure on that host
	Failure GuestFailure  `json:"failure"`
	Detail  string        `json:"detail,omitempty"`
	Seen    time.Time     `json:"seen"` // when the failure was first told
	Status  HealStatus    `json:"status"`
	Reason  string        `json:"reason"`           // a sentence: why it is where it is
	Next    time.Time     `json:"next,omitzero"`    // when the next attempt is made
	Intent  IntentID      `json:"intent,omitempty"` // of the attempt under way
	Tries   []HealAttempt `json:"tries,omitempty"`  // newest last, at most HealTriesMax
	Updated time.Time     `json:"updated"`
	// Notification is the Masakari notification that shows it.
	Notification NotificationID `json:"notification,omitempty"`
}

// HealTriesMax bounds how many attempts a record keeps.
const HealTriesMax = 20

// HealAttempt is one attempt to bring a guest back.
type HealAttempt struct {
	At        time.Time    `json:"at"`
	Failure   GuestFailure `json:"failure"`
	Elsewhere bool         `json:"elsewhere,omitempty"` // on another host
	Intent    IntentID     `json:"intent"`
	Host      HostName     `json:"host"` // where it failed
	Ended     time.Time    `json:"ended,omitzero"`
	Error     string       `json:"error,omitempty"`
}

// The names of Nova and Masakari for what a server wants of its host when its guest fails.
const (
	// MetaHAEnabled is Masakari's server metadata: with evacuate_all_instances off only servers that say True are recovered. Here "False" opts out and
	// "True" opts in where the cloud's setting is off.
	MetaHAEnabled = "HA_Enabled"
	// PropertyWatchdog (image) and SpecWatchdog (flavor, which counts more) ask for a watchdog device and say what it does.
	PropertyWatchdog = "hw_watchdog_action"
	SpecWatchdog     = "hw:watchdog_action"
	// PropertyGuestAgent (image) says that qemu-guest-agent runs in the guest.
	PropertyGuestAgent = "hw_qemu_guest_agent"
)

// WatchdogAction returns what the server's watchdog device does when it expires; empty: it has none.
func (s *Server) WatchdogAction() string {
	action := s.ImageProperties[PropertyWatchdog]
	if spec := s.Flavor.ExtraSpecs[SpecWatchdog]; spec != "" {
		action = spec
	}
	switch action = strings.ToLower(action); action {
	case "reset", "poweroff", "pause", "none":
		return action
	}
	return "" // "disabled", or a word that no device knows
}

// HasGuestAgent reports whether the server's image says that qemu-guest-agent runs in it.
func (s *Server) HasGuestAgent() bool { return truth(s.ImageProperties[PropertyGuestAgent]) }

// HealWanted reports whether the server's guest is to be brought back when it fails, where byDefault is the cloud's setting, and who said so.
func (s *Server) HealWanted(byDefault bool) (wanted bool, said string) {
	if mode := s.RecoveryPolicy().Mode; mode != "" {
		return mode == "on", MetaRecovery + "=" + mode
	}
	for _, words := range []map[string]string{s.Metadata, s.Flavor.ExtraSpecs} {
		if word, ok := words[MetaHAEnabled]; ok {
			return truth(word), MetaHAEnabled + "=" + word
		}
	}
	return byDefault, "the cloud's setting"
}

// truth reads a word as OpenStack's bool_from_string does.
func truth(word string) bool {
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "1", "t", "true", "on", "y", "yes":
		return true
	}
	return false
}
