package consolidate

import "math"

// HostClass is a number of hosts that are alike.
type HostClass struct {
	Count  int
	CPU    float64
	RAMMiB float64 // 0 sets no limit
	Power  *PowerModel
}

// Prices are what one more unit of each resource costs a fleet in watts, at best: the shadow prices of the fluid problem "serve this
// much CPU and hold this much memory with the least power", in which hosts may be split at will.
type Prices struct {
	CPU    float64 // watts per unit of CPU
	RAMMiB float64 // watts per MiB
	Watts  float64 // the least power itself; no real placement draws less
}

// priceSearchSteps is how often each golden section search halves its range, almost: 0.618^60 is 3e-13.
const priceSearchSteps = 60

// ShadowPrices solves the fluid problem by its dual. Any pair of prices gives a valid lower bound, so what the search leaves to wish
// for makes the bound a little weaker and never wrong. Demand that the hosts cannot serve at all is priced at the worst host.
func ShadowPrices(classes []HostClass, cpu, ramMiB float64) Prices {
	cpuMax, ramMax := 0.0, 0.0
	for _, c := range classes {
		cpuMax = max(cpuMax, c.Power[1]/(c.CPU/10))
		if c.RAMMiB > 0 {
			ramMax = max(ramMax, c.Power.Max()/c.RAMMiB)
		}
	}
	best := Prices{Watts: math.Inf(-1)}
	consider := func(l, m float64) float64 {
		watts := dualWatts(classes, cpu, ramMiB, l, m)
		if watts > best.Watts {
			best = Prices{CPU: l, RAMMiB: m, Watts: watts}
		}
		return watts
	}
	if ramMax == 0 {
		maximise(0, cpuMax, func(l float64) float64 { return consider(l, 0) })
		return best
	}
	maximise(0, ramMax, func(m float64) float64 {
		return maximise(0, cpuMax, func(l float64) float64 { return consider(l, m) })
	})
	return best
}

// dualWatts is the dual's value: what the resources are worth at these prices less what hosts would earn by selling more than they draw.
func dualWatts(classes []HostClass, cpu, ramMiB, priceCPU, priceRAM float64) float64 {
	watts := priceCPU*cpu + priceRAM*ramMiB
	for _, c := range classes {
		if earned := -c.reducedWatts(priceCPU, priceRAM); earned > 0 {
			watts -= earned * float64(c.Count)
		}
	}
	return watts
}

// reducedWatts returns the least that a host of the class draws beyond what its CPU and memory are worth: 0 for the classes that the
// fluid solution uses, more for those it leaves asleep, less than 0 for those it would like more of.
func (c *HostClass) reducedWatts(priceCPU, priceRAM float64) float64 {
	least := math.Inf(1)
	for tenth, watts := range c.Power {
		least = min(least, watts-priceCPU*c.CPU*float64(tenth)/10)
	}
	return least - priceRAM*c.RAMMiB
}

// maximise finds the maximum of a concave function on a range by golden section and returns it.
func maximise(low, high float64, f func(float64) float64) float64 {
	const golden = 0.6180339887498949
	a, b := high-golden*(high-low), low+golden*(high-low)
	fa, fb := f(a), f(b)
	best := max(f(low), fa, fb)
	for range priceSearchSteps {
		if fa >= fb {
			high, b, fb = b, a, fa
			a = high - golden*(high-low)
			fa = f(a)
			best = max(best, fa)
		} else {
			low, a, fa = a, b, fb
			b = low + golden*(high-low)
			fb = f(b)
			best = max(best, fb)
		}
	}
	return best
}

// classesOf groups a fleet's hosts; class says which class each host is of.
func classesOf(f *Fleet) (classes []HostClass, class []int) {
	type key struct {
		cpu, ram float64
		power    PowerModel
	}
	known := map[key]int{}
	class = make([]int, len(f.Hosts))
	for i := range f.Hosts {
		h := &f.Hosts[i]
		k := key{h.CPU, h.RAMMiB, *h.Power}
		c, ok := known[k]
		if !ok {
			c = len(classes)
			known[k] = c
			classes = append(classes, HostClass{CPU: h.CPU, RAMMiB: h.RAMMiB, Power: h.Power})
		}
		classes[c].Count++
		class[i] = c
	}
	return classes, class
}
