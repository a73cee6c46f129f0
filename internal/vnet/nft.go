package vnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// nftMax bounds one run of nft; a transaction takes some 10 ms.
const nftMax = 30 * time.Second

// nft runs the kernel's packet filter by its own tool, whose language is what an operator reads with `nft list ruleset`.
type nft struct {
	path string
	ns   namespace
}

func findNft(ns namespace) (nft, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		path = "/usr/sbin/nft" // a PATH without sbin is common
		if _, serr := os.Stat(path); serr != nil {
			return nft{}, fmt.Errorf("nft is required: install nftables: %w", err)
		}
	}
	return nft{path: path, ns: ns}, nil
}

// apply carries out a script as one transaction: all of it or nothing.
func (n nft) apply(ctx context.Context, s *script) error {
	_, err := n.run(ctx, s.String(), "-f", "-")
	return err
}

func (n nft) run(ctx context.Context, input string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, nftMax)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, n.path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := n.ns.do(cmd.Start); err != nil { // the child is born in the namespace
		return nil, fmt.Errorf("nft: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("nft: %w: %s", err, firstLine(errs.String()))
	}
	return out.Bytes(), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// probe finds the best way this kernel has to tell established connections, by trying it on a table that the same transaction removes.
func (n nft) probe(ctx context.Context) (tracking, error) {
	trial := func(family, rule string) error {
		var s script
		s.line("add table %s godwit-probe", family)
		s.line("add chain %s godwit-probe c { type filter hook prerouting priority 0; }", family)
		s.line("add rule %s godwit-probe c %s", family, rule)
		s.line("delete table %s godwit-probe", family)
		return n.apply(ctx, &s)
	}
	if err := trial("bridge", "ether type arp accept"); err != nil {
		return trackNone, fmt.Errorf("this kernel cannot filter on bridges: %w", err)
	}
	if trial("bridge", "ct state established ct zone set 1") == nil {
		return trackBridge, nil
	}
	if trial("inet", "ct state established ct zone set 1") != nil {
		return trackNone, nil
	}
	err := n.ns.do(func() error {
		return errors.Join(setSysctl("bridge/bridge-nf-call-iptables", "1"), setSysctl("bridge/bridge-nf-call-ip6tables", "1"))
	})
	if err != nil { // br_netfilter is not there
		return trackNone, nil
	}
	return trackMarked, nil
}

// ports returns the interface names that the table has elements for in a map.
func (n nft) ports(ctx context.Context, family, m string) ([]string, error) {
	out, err := n.run(ctx, "", "-j", "list", "map", family, "godwit", m)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Nftables []struct {
			Map *struct {
				Elem [][]json.RawMessage `json:"elem"`
			} `json:"map"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, fmt.Errorf("nft: list map %s: %w", m, err)
	}
	var names []string
	for _, item := range doc.Nftables {
		if item.Map == nil {
			continue
		}
		for _, pair := range item.Map.Elem {
			var name string
			if len(pair) == 2 && json.Unmarshal(pair[0], &name) == nil {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
