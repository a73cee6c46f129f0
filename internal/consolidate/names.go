package consolidate

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The defaults of the 2012 paper's build and of neat.conf.
const (
	regressionLength  = 10  // steps; short enough to follow the newest
	fallbackThreshold = 0.7 // while the history is too short for the detector
	overloadShare     = 0.8 // from which Neat calls a host overloaded
	neatLimit         = 30  // steps that Neat's regressions want
	neatLastN         = 2
)

// detectors make an overload detector from its parameter; each is named as in the paper or in Neat.
var detectors = map[string]func(parameter float64) Detector{
	"thr": func(s float64) Detector { return Threshold{Share: s} },
	"avg": func(s float64) Detector { return MeanThreshold{Share: s, N: neatLastN} },
	"mad": func(s float64) Detector { return MAD{Safety: s, Fallback: Threshold{fallbackThreshold}} },
	"iqr": func(s float64) Detector { return IQR{Safety: s, Fallback: Threshold{fallbackThreshold}} },
	"lr": func(s float64) Detector {
		return Regression{Safety: s, Length: regressionLength, Limit: 1, Fallback: Threshold{fallbackThreshold}}
	},
	"lrr": func(s float64) Detector {
		return Regression{Safety: s, Length: regressionLength, Limit: 1, Weighted: true, Robust: true, Fallback: Threshold{fallbackThreshold}}
	},
	"loess": func(s float64) Detector { return Regression{Safety: s, Length: neatLimit, Limit: 1, Weighted: true} },
	"loess_robust": func(s float64) Detector {
		return Regression{Safety: s, Length: neatLimit, Limit: 1, Weighted: true, Robust: true}
	},
	"otft": func(otf float64) Detector { return OverloadTime{Share: overloadShare, OTF: otf, StepsMin: neatLimit} },
	"otftm": func(otf float64) Detector {
		return OverloadTime{Share: overloadShare, OTF: otf, StepsMin: neatLimit, CountMigration: true}
	},
	"mhod": func(otf float64) Detector { return DefaultMHOD(otf) },
}

// DefaultMHOD returns MHOD with neat.conf's parameters and an overload time goal.
func DefaultMHOD(otf float64) MHOD {
	return MHOD{
		StateLimits: []float64{overloadShare}, OTF: otf, WindowSizes: []int{30, 40, 50, 60, 70, 80, 90, 100}, GridStep: 0.5, LearningSteps: 10,
	}
}

// bestParameters are the parameters that the paper found best, and Neat's defaults.
var bestParameters = map[string]float64{
	"thr": 0.8, "avg": 0.8, "mad": 2.5, "iqr": 1.5, "lr": 1.2, "lrr": 1.2, "loess": 1.2, "loess_robust": 1.2, "otft": 0.1, "otftm": 0.1, "mhod": 0.1,
}

var selectors = map[string]Selector{
	"mmt": MinimumMigrationTime{}, "rs": RandomSelection{}, "mu": MinimumUtilisation{}, "mc": MaximumCorrelation{Fallback: MinimumMigrationTime{}},
	"mmtmc": MMTMaxCPU{N: neatLastN},
}

// underloads are Neat's, by its names, with the share in percent where there is one: a host that is used less is emptied.
var underloads = map[string]func(share float64) Underload{
	"last_n_average_threshold": func(share float64) Underload { return LastNAverage{Share: share, N: neatLastN} },
	"threshold":                func(share float64) Underload { return LastBelow{Share: share} },
	"always_underloaded":       func(float64) Underload { return AlwaysUnderloaded{} },
}

// underloadShare is neat.conf's.
const underloadShare = 0.5

// parseUnderload reads NAME or NAME-SHARE.
func parseUnderload(text string) (Underload, error) {
	name, parameter, given := strings.Cut(text, "-")
	with, ok := underloads[name]
	if !ok {
		return nil, fmt.Errorf("underload %q is none of %s", name, list(underloads))
	}
	share := underloadShare
	if given {
		var err error
		if share, err = strconv.ParseFloat(parameter, 64); err != nil || !(share >= 0 && share <= 1) {
			return nil, fmt.Errorf("underload %q: share %q is no number from 0 to 1", name, parameter)
		}
	}
	return with(share), nil
}

// named are the policies with a name of their own.
var named = map[string]func() Planner{
	"dvfs":    func() Planner { return Static{} },
	"npa":     func() Planner { return Static{} },
	"godwit":  func() Planner { return DefaultGodwit() },
	"balance": func() Planner { return DefaultBalance() },
	"neat": func() Planner {
		return Neat{
			Underload: LastNAverage{Share: 0.5, N: neatLastN}, Overload: DefaultMHOD(0.1), Select: MMTMaxCPU{N: neatLastN},
			Pack: BestFit{CPUShare: 0.8, RAMShare: 0.95, LastN: neatLastN},
		}
	},
}

// Parse makes a planner from its name: godwit, balance, neat, dvfs, npa, or one of the paper's as it writes them, OVERLOAD-SELECTION-PARAMETER
// such as lr-mmt-1.2; without a parameter the best one the paper found is taken. A name in front, neat/, plans as Neat does: neat/thr-mmtmc-0.8, also
// with another underload than its default: neat/threshold-0.4/thr-mmtmc-0.8.
func Parse(name string) (Planner, error) {
	lower := strings.ToLower(name)
	if p, ok := named[lower]; ok {
		return p(), nil
	}
	combination, isNeat := strings.CutPrefix(lower, "neat/")
	neat := named["neat"]().(Neat)
	if under, rest, ok := strings.Cut(combination, "/"); ok && isNeat {
		var err error
		if neat.Underload, err = parseUnderload(under); err != nil {
			return nil, fmt.Errorf("policy %q: %w", name, err)
		}
		combination = rest
	}
	parts := strings.SplitN(combination, "-", 3)
	detect, ok := detectors[parts[0]]
	if !ok || len(parts) < 2 {
		return nil, fmt.Errorf("policy %q: want one of %s, or OVERLOAD-SELECTION-PARAMETER with overload one of %s and selection one of %s",
			name, list(named), list(detectors), list(selectors))
	}
	selector, ok := selectors[parts[1]]
	if !ok {
		return nil, fmt.Errorf("policy %q: selection %q is none of %s", name, parts[1], list(selectors))
	}
	parameter := bestParameters[parts[0]]
	if len(parts) == 3 {
		value, err := strconv.ParseFloat(parts[2], 64)
		if err != nil || !(value > 0) || math.IsInf(value, 0) {
			return nil, fmt.Errorf("policy %q: parameter %q is no positive number", name, parts[2])
		}
		parameter = value
	}
	if isNeat {
		neat.Overload, neat.Select = detect(parameter), selector
		return neat, nil
	}
	return Paper{Overload: detect(parameter), Select: selector}, nil
}

func list[T any](m map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
