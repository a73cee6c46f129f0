package config

import "time"

// validate checks what needs no knowledge of policies; their names, schedules and power models are checked by the server when it starts.
func (o *Optimize) validate(v *validator) {
	v.oneOf("optimize.automation", o.Automation, "manual", "partial", "full")
	v.oneOf("optimize.goal", o.Goal, "consolidate", "balance")
	v.oneOf("optimize.sleep_mode", o.SleepMode, "poweroff", "suspend", "bmc")
	v.must(o.Step >= time.Second, "optimize.step", "must be at least 1s, is %s", o.Step)
	v.must(o.Telemetry == 0 || o.Telemetry >= 200*time.Millisecond && o.Telemetry <= o.Step, "optimize.telemetry", "must be 0 or 200ms to optimize.step (%s), is %s", o.Step, o.Telemetry)
	v.must(o.MovesMax >= 1, "optimize.moves_max", "must be at least 1, is %d", o.MovesMax)
	v.must(o.Window >= 0, "optimize.window", "must not be negative")
	v.must(o.Horizon > 0, "optimize.horizon", "must be greater than 0")
	v.must(o.GainFactor >= 1, "optimize.gain_factor", "must be at least 1, is %v: less would move at a loss", o.GainFactor)
	v.must(o.OverloadGoal >= 0 && o.OverloadGoal < 1, "optimize.overload_goal", "must be 0 to less than 1, is %v", o.OverloadGoal)
	v.must(o.FailoverHosts >= 0, "optimize.failover_hosts", "must not be negative")
	v.must(o.Reserve >= 0 && o.Reserve < 1, "optimize.reserve", "must be 0 to less than 1, is %v", o.Reserve)
	v.must(o.AwakeMin >= 0, "optimize.awake_min", "must not be negative")
	v.must(o.Accounting >= time.Second && o.Accounting <= time.Hour, "optimize.accounting", "must be 1s to 1h, is %s", o.Accounting)
	v.must(o.WakeValid > 0, "optimize.wake_valid", "must be greater than 0")
}
