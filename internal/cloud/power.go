package cloud

import "time"

// HostPowerState says whether a host sleeps on purpose.
type HostPowerState string

// The states of a host's power. A host without a [HostPower] record is awake.
const (
	HostAwake         HostPowerState = "awake"
	HostFallingAsleep HostPowerState = "falling-asleep" // told to sleep; its agent may still be heard
	HostAsleep        HostPowerState = "asleep"
	HostWaking        HostPowerState = "waking" // woken; its agent is not heard yet
)

// HostPower is what is known of a host's sleep. The state is the leader's, who is told by operators and by the optimiser; the wake test's figures
// are learned from every wake that was seen.
type HostPower struct {
	Host  HostName       `json:"host"`
	State HostPowerState `json:"state"`
	Since time.Time      `json:"since"`
	Mode  SleepMode      `json:"mode,omitempty"` // how it was put to sleep
	// WakeProven is when a wake of this host last succeeded; zero: never. A host that was never woken may not sleep but to prove that it wakes.
	WakeProven time.Time `json:"wake_proven,omitzero"`
	// WakeTook is how long a wake takes, from the request to the agent's first word; learned, the mean leaning to newer wakes.
	WakeTook time.Duration `json:"wake_took,omitempty"`
	// SleepTook is how long going to sleep takes, from the call to the agent's last word; learned in the same way.
	SleepTook time.Duration `json:"sleep_took,omitempty"`
	WakeBy    string        `json:"wake_by,omitempty"` // what woke it last: "bmc" or "lan"
	Reason    string        `json:"reason,omitempty"`  // why it sleeps or woke, or why the last try failed
	// WakeFailures counts tries to wake it that failed since the last that succeeded. A host that does not wake is not put to sleep again.
	WakeFailures int `json:"wake_failures,omitempty"`
	// Asked is what an operator, a plan or placement asked for and the leader has not begun or finished; AskedMode how to sleep.
	Asked     HostPowerAsk `json:"asked,omitempty"`
	AskedMode SleepMode    `json:"asked_mode,omitempty"`
	WakeTries int          `json:"wake_tries,omitempty"` // of the wake under way
	NextTry   time.Time    `json:"next_try,omitzero"`
	// AgentGeneration is that of the agent when the host was told to sleep: a greater one is heard only after it woke.
	AgentGeneration int64 `json:"agent_generation,omitempty"`
}

// SleepMode is how a host sleeps.
type SleepMode string

// The modes of sleep.
const (
	SleepSuspend  SleepMode = "suspend"
	SleepPowerOff SleepMode = "poweroff"
	// SleepBMC: as SleepPowerOff, but the host's BMC presses the button instead of the agent; of hosts without a BMC the agent does.
	SleepBMC SleepMode = "bmc"
)

// Resting reports whether liveness must not judge the host: it is quiet, or will be, because it was told to be.
func (p HostPower) Resting() bool {
	return p.State == HostFallingAsleep || p.State == HostAsleep || p.State == HostWaking
}

// Takes reports whether new servers may be placed on the host at once.
func (p HostPower) Takes() bool { return p.State == "" || p.State == HostAwake }

// HostPowerAsk is what was asked of a host's power.
type HostPowerAsk string

// What can be asked. A test puts an empty host to sleep, wakes it at once and so proves that it can be woken.
const (
	AskNothing HostPowerAsk = ""
	AskSleep   HostPowerAsk = "sleep"
	AskWake    HostPowerAsk = "wake"
	AskTest    HostPowerAsk = "test"
)
