package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// A share is one directory of server disks as the hosts that have it see it.
type share struct {
	ID          string           `json:"id"`
	Kind        string           `json:"kind"`
	Source      string           `json:"source"`
	Hosts       []cloud.HostName `json:"hosts"`
	Writable    bool             `json:"writable"` // on every host
	Quorum      bool             `json:"quorum"`   // on every host
	HealPending int              `json:"heal_pending"`
	SplitBrain  int              `json:"split_brain"`
	Bricks      []brick          `json:"bricks,omitempty"`
	Problems    []string         `json:"problems,omitempty"` // with the host that says so
	Dangers     []string         `json:"dangers,omitempty"`  // settings that can lose writes, as any host has them
}

// brick is a brick as the worst placed host sees it.
type brick struct {
	cloud.Brick
	Missed []cloud.HostName `json:"missed,omitempty"` // hosts that do not reach it
}

func newStorageCommand(a *access) *cobra.Command {
	return &cobra.Command{
		Use: "storage", Short: "Health of the directories that hosts share for server disks", Args: cobra.NoArgs,
		Long: "Health of the directories that hosts share for server disks: bricks, quorum, what waits to be healed, what is split.\n\n" +
			"It is what the hosts reported last, a few seconds old. Figures of healing count a file once for each brick that knows of it.",
		Example: "  godwit storage\n  godwit storage -o json | jq '.[].split_brain'",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			hosts, err := c.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			all := sharesOf(hosts)
			w := cmd.OutOrStdout()
			if a.out.json() {
				return printJSON(w, all)
			}
			if len(all) == 0 {
				_, err := fmt.Fprintln(w, "no host keeps server disks on a file system of the network")
				return err
			}
			t, bricks := shareTables(all)
			if err := a.out.print(w, all, t); err != nil || len(bricks.rows) == 0 {
				return err
			}
			fmt.Fprintln(w)
			if err := a.out.print(w, all, bricks); err != nil {
				return err
			}
			for _, s := range all {
				for _, p := range slices.Concat(s.Problems, s.Dangers) {
					fmt.Fprintf(w, "\n%s: %s", s.Source, p)
				}
			}
			_, err = fmt.Fprintln(w)
			return err
		}),
	}
}

// sharesOf gathers what hosts say by the directory's identity.
func sharesOf(hosts []operator.Host) []share {
	all := []share{}
	for _, h := range hosts {
		if h.Report == nil || h.Report.Shared == nil {
			continue
		}
		i := slices.IndexFunc(all, func(s share) bool { return s.ID == h.Report.SharedDiskID })
		if i < 0 {
			i = len(all)
			all = append(all, share{ID: h.Report.SharedDiskID, Kind: h.Report.Shared.Kind, Source: h.Report.Shared.Source, Writable: true, Quorum: true})
		}
		all[i].add(h.Name, h.State, h.Report.Shared)
	}
	slices.SortFunc(all, func(a, b share) int { return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.ID, b.ID)) })
	return all
}

// add takes one host's word in. One that is not up says what was true once, and only counts as a user.
func (s *share) add(host cloud.HostName, state string, seen *cloud.SharedStorage) {
	s.Hosts = append(s.Hosts, host)
	if state != operator.HostUp {
		s.Problems = append(s.Problems, fmt.Sprintf("host %s is %s: what it sees is not known", host, state))
		return
	}
	s.Writable, s.Quorum = s.Writable && seen.Writable, s.Quorum && seen.Quorum
	s.HealPending, s.SplitBrain = max(s.HealPending, seen.HealPending), max(s.SplitBrain, seen.SplitBrain)
	for _, danger := range seen.Dangers {
		if !slices.Contains(s.Dangers, danger) {
			s.Dangers = append(s.Dangers, danger)
		}
	}
	if seen.Error != "" {
		s.Problems = append(s.Problems, fmt.Sprintf("host %s: %s", host, seen.Error))
	}
	for _, b := range seen.Bricks {
		i := slices.IndexFunc(s.Bricks, func(have brick) bool { return have.Name == b.Name })
		if i < 0 {
			i = len(s.Bricks)
			s.Bricks = append(s.Bricks, brick{Brick: b})
		}
		have := &s.Bricks[i]
		have.Online, have.HealPending = have.Online && b.Online, max(have.HealPending, b.HealPending)
		if !b.Online {
			have.Missed = append(have.Missed, host)
		}
	}
}

func (s *share) online() (n int) {
	for _, b := range s.Bricks {
		if b.Online {
			n++
		}
	}
	return n
}

func shareTables(all []share) (shares, bricks table) {
	shares.header = []string{"SOURCE", "KIND", "HOSTS", "WRITABLE", "QUORUM", "BRICKS", "HEAL PENDING", "SPLIT-BRAIN"}
	bricks.header = []string{"BRICK", "SET", "ONLINE", "HEAL PENDING", "NOT REACHED BY"}
	for i := range all {
		s := &all[i]
		count := ""
		if len(s.Bricks) > 0 {
			count = fmt.Sprintf("%d of %d", s.online(), len(s.Bricks))
		}
		shares.add(s.Source, s.Kind, strconv.Itoa(len(s.Hosts)), yes(s.Writable), yes(s.Quorum), count, strconv.Itoa(s.HealPending), strconv.Itoa(s.SplitBrain))
		for _, b := range s.Bricks {
			bricks.add(b.Name, strconv.Itoa(b.ReplicaSet), yes(b.Online), strconv.Itoa(b.HealPending), names(b.Missed))
		}
	}
	return shares, bricks
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

func names(hosts []cloud.HostName) string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = string(h)
	}
	return strings.Join(out, ", ")
}
