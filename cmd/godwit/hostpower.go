package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// powerCommands are `godwit hosts sleep|wake|wake-test`.
func powerCommands(a *access) []*cobra.Command {
	return []*cobra.Command{
		a.powerCommand(powerVerb{
			use: "sleep", ask: cloud.AskSleep, short: "Put a host to sleep on which no server runs",
			long: "Put a host to sleep. It must have been seen to wake (wake-test), and servers that run on it must be moved first; stopped ones sleep with it.",
			done: func(p cloud.HostPower) bool { return p.State == cloud.HostAsleep },
		}),
		a.powerCommand(powerVerb{
			use: "wake", ask: cloud.AskWake, short: "Wake a host, by its BMC and by magic packets",
			long: "Wake a host, by its BMC if one is known, and by Wake-on-LAN packets that other hosts send.",
			done: func(p cloud.HostPower) bool { return p.Takes() && p.Asked == cloud.AskNothing },
		}),
		a.powerCommand(powerVerb{
			use: "wake-test", ask: cloud.AskTest, short: "Put an empty host to sleep and wake it at once, to prove that it wakes",
			long: "Put an empty host to sleep and wake it at once. Only hosts that were seen to wake may be put to sleep by the optimiser; the time it takes is learned.",
			done: func(p cloud.HostPower) bool { return p.Takes() && p.Asked == cloud.AskNothing },
		}),
	}
}

type powerVerb struct {
	use, short, long string
	ask              cloud.HostPowerAsk
	done             func(cloud.HostPower) bool
}

func (a *access) powerCommand(v powerVerb) *cobra.Command {
	var mode string
	var wait time.Duration
	var dry bool
	cmd := &cobra.Command{
		Use: v.use + " HOST", Short: v.short, Long: v.long, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeHost,
		Example: "  godwit hosts " + v.use + " compute-3",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if dry {
				h, err := c.Host(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printHost(cmd.OutOrStdout(), h)
			}
			h, err := c.AskPower(cmd.Context(), args[0], v.ask, cloud.SleepMode(mode))
			if err != nil {
				return err
			}
			began := h
			err = poll(cmd.Context(), wait, func() (bool, error) {
				detail, err := c.Host(cmd.Context(), args[0])
				h = detail.Host
				return h.Power == nil || v.done(*h.Power) || h.Power.WakeFailures > 0 && h.Power.WakeTries > 0, err
			})
			if err != nil {
				return err
			}
			if h.Power != nil && !v.done(*h.Power) {
				return cloud.Errorf(cloud.KindUnavailable, "host %s is %s: %s", args[0], h.Power.State, h.Power.Reason)
			}
			if v.ask == cloud.AskTest && (h.Power == nil || began.Power != nil && !h.Power.WakeProven.After(began.Power.WakeProven)) {
				return cloud.Errorf(cloud.KindUnavailable, "host %s has not proven that it wakes: %s", args[0], reasonOf(h))
			}
			return a.out.print(cmd.OutOrStdout(), h, hostTable(h))
		}),
	}
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for it")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show the host")
	if v.ask != cloud.AskWake {
		cmd.Flags().StringVar(&mode, "mode", "", "suspend, poweroff or bmc (default the cloud's)")
		complete(cmd, "mode", "suspend", "poweroff", "bmc")
	}
	return cmd
}

func reasonOf(h operator.Host) string {
	if h.Power == nil {
		return "nothing is known of its power"
	}
	return h.Power.Reason
}

// powerText says in a line what is known of a host's power.
func powerText(p cloud.HostPower) string {
	text := string(p.State)
	if !p.Since.IsZero() {
		text += " since " + p.Since.Local().Format(time.DateTime)
	}
	if p.Reason != "" {
		text += " (" + p.Reason + ")"
	}
	if p.WakeProven.IsZero() {
		return text + "; never seen to wake"
	}
	return text + fmt.Sprintf("; last woke at %s, a wake takes about %s", p.WakeProven.Local().Format(time.DateTime), p.WakeTook.Round(100*time.Millisecond))
}
