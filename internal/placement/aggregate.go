package placement

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// aggregateScope marks the extra specs that speak of the host's aggregates. Nova also takes unscoped keys; those clash with keys that mean
// something else, and Nova's own documentation advises against them, so they are not read here.
const aggregateScope = "aggregate_instance_extra_specs:"

// ZoneOf returns the availability zone of a host: that of the first aggregate, by name, that has the host and names a zone; else the host's own;
// else cloud.DefaultZone.
func ZoneOf(h cloud.Host, aggregates []cloud.Aggregate) string {
	zone, by := "", ""
	for i := range aggregates {
		a := &aggregates[i]
		if z := a.Metadata[cloud.MetaZone]; z != "" && (zone == "" || a.Name < by) && slices.Contains(a.Hosts, h.Name) {
			zone, by = z, a.Name
		}
	}
	switch {
	case zone != "":
		return zone
	case h.Zone != "":
		return h.Zone
	}
	return cloud.DefaultZone
}

// requirement is one extra spec that the host's aggregates must meet.
type requirement struct{ key, want string }

// aggregateRule holds the requirements, and for each host the values its aggregates give to the keys concerned.
type aggregateRule struct {
	requirements []requirement
	values       map[cloud.HostName]map[string][]string
}

func newAggregateRule(aggregates []cloud.Aggregate, specs map[string]string) aggregateRule {
	var rule aggregateRule
	for _, spec := range slices.Sorted(maps.Keys(specs)) {
		if key, ok := strings.CutPrefix(spec, aggregateScope); ok {
			rule.requirements = append(rule.requirements, requirement{key, specs[spec]})
		}
	}
	if len(rule.requirements) == 0 {
		return rule
	}
	rule.values = map[cloud.HostName]map[string][]string{}
	for i := range aggregates {
		for _, req := range rule.requirements {
			value, ok := aggregates[i].Metadata[req.key]
			if !ok {
				continue
			}
			for _, host := range aggregates[i].Hosts {
				if rule.values[host] == nil {
					rule.values[host] = map[string][]string{}
				}
				for one := range strings.SplitSeq(value, ",") {
					rule.values[host][req.key] = append(rule.values[host][req.key], strings.TrimSpace(one))
				}
			}
		}
	}
	return rule
}

// refuse appends the requirements that no aggregate of the host meets.
func (a *aggregateRule) refuse(h cloud.HostName, reasons []string) []string {
	for _, req := range a.requirements {
		values := a.values[h][req.key]
		if slices.ContainsFunc(values, func(v string) bool { return MatchSpec(v, req.want) }) {
			continue
		}
		found := "none of the host's aggregates has it"
		if len(values) > 0 {
			found = fmt.Sprintf("the host's aggregates say %s", strings.Join(values, ", "))
		}
		reasons = append(reasons, fmt.Sprintf("aggregate: flavor needs %s %q, %s", req.key, req.want, found))
	}
	return reasons
}

// MatchSpec reports whether value meets an extra spec's requirement, by Nova's rules: "<or> a <or> b", "<in> part", "<all-in> a b", numeric
// =, ==, !=, >=, <= (where = means at least) and textual s==, s!=, s<, s<=, s>, s>=. Anything else must be equal as a whole.
func MatchSpec(value, want string) bool {
	words := strings.Fields(want)
	if len(words) == 0 {
		return value == want
	}
	op, args := words[0], words[1:]
	if op == "<or>" {
		for i := 0; i < len(args); i += 2 { // the odd ones are further <or>s
			if args[i] == value {
				return true
			}
		}
		return false
	}
	if op == "<all-in>" {
		return len(args) > 0 && !slices.ContainsFunc(args, func(a string) bool { return !strings.Contains(value, a) })
	}
	known, met := false, false
	if len(args) > 0 {
		if known, met = matchText(op, value, args[0]); !known {
			known, met = matchNumber(op, value, args[0])
		}
	} else {
		known, _ = matchText(op, "", "")
		if !known {
			known, _ = matchNumber(op, "", "")
		}
	}
	if !known {
		return value == want
	}
	return met
}

func matchText(op, value, arg string) (known, met bool) {
	switch op {
	case "<in>":
		return true, strings.Contains(value, arg)
	case "s==":
		return true, value == arg
	case "s!=":
		return true, value != arg
	case "s<":
		return true, value < arg
	case "s<=":
		return true, value <= arg
	case "s>":
		return true, value > arg
	case "s>=":
		return true, value >= arg
	}
	return false, false
}

// matchNumber compares as numbers; text that is no number meets no numeric requirement.
func matchNumber(op, value, arg string) (known, met bool) {
	if !slices.Contains([]string{"=", "==", "!=", ">=", "<="}, op) {
		return false, false
	}
	x, errX := strconv.ParseFloat(value, 64)
	y, errY := strconv.ParseFloat(arg, 64)
	if errX != nil || errY != nil {
		return true, false
	}
	switch op {
	case "==":
		return true, x == y
	case "!=":
		return true, x != y
	case "<=":
		return true, x <= y
	}
	return true, x >= y // "=" and ">="
}
