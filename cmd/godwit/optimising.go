package main

import (
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/control"
	"github.com/godwit-cloud/godwit/internal/optimize"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

// optimisingOf is what the configuration says of the optimiser. Names that it does not know are refused with the setting's name.
func optimisingOf(all config.Config) (control.Optimising, error) {
	c := all.Optimize
	out := control.Optimising{Automation: cloud.Automation(c.Automation), SleepMode: cloud.SleepMode(c.SleepMode), AccountEvery: c.Accounting / control.FlushTimes}
	if _, err := consolidate.Parse(c.Strategy); err != nil {
		return out, cloud.E(cloud.KindInvalid, "optimize.strategy", "", err)
	}
	s := optimize.Settings{
		Goal: cloud.OptimizeGoal(c.Goal), Strategy: c.Strategy, MovesMax: c.MovesMax, Window: c.Window, Horizon: c.Horizon, Factor: c.GainFactor,
		Failover: c.FailoverHosts, Reserve: c.Reserve, AwakeMin: c.AwakeMin, Sleep: c.Sleep, WakeValid: c.WakeValid, OverloadGoal: c.OverloadGoal,
		Bandwidth: int64(all.Migration.Bandwidth),
		// A move that does not end by itself is slowed down or forced: see migration.timeout_action.
		Converges: all.Migration.AutoConverge || all.Migration.TimeoutPerGiB > 0 && all.Migration.TimeoutAction == "force_complete",
	}
	var err error
	if s.Power, err = optimize.ParsePower(c.PowerModel); err != nil {
		return out, cloud.E(cloud.KindInvalid, "optimize.power_model", "", err)
	}
	for i, text := range c.Schedule {
		p, err := optimize.ParsePeriod(text)
		if err != nil {
			return out, cloud.E(cloud.KindInvalid, fmt.Sprintf("optimize.schedule[%d]", i), "", err)
		}
		s.Schedule = append(s.Schedule, p)
	}
	out.Settings = s
	if c.Telemetry > 0 {
		out.Book = telemetry.NewBook(c.Step)
	}
	return out, nil
}
