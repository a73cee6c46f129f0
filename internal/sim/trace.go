package sim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Trace is the CPU that one server uses over a day, as shares of what it may use, one per sample.
type Trace []float64

// Workload is a day's traces, each with a name; the order decides which server type a trace meets.
type Workload struct {
	Name   string
	Names  []string
	Traces []Trace
}

// Samples returns how many samples each trace has.
func (w *Workload) Samples() int {
	if len(w.Traces) == 0 {
		return 0
	}
	return len(w.Traces[0])
}

// Mean returns the mean share over all traces and samples, and the standard deviation.
func (w *Workload) Mean() (mean, deviation float64) {
	n, sum, squares := 0, 0.0, 0.0
	for _, t := range w.Traces {
		for _, v := range t {
			n++
			sum += v
			squares += v * v
		}
	}
	if n == 0 {
		return 0, 0
	}
	mean = sum / float64(n)
	return mean, math.Sqrt(max(0, squares/float64(n)-mean*mean))
}

// samplesMax bounds a trace: a week of samples per second.
const samplesMax = 7 * 24 * 3600

// ReadWorkload reads a folder of traces in PlanetLab's format: one file per server, one CPU percentage per line. Files are taken by
// name, hidden ones are not. All must be equally long.
func ReadWorkload(folder fs.FS, name string) (*Workload, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, fmt.Errorf("traces %s: %w", name, err)
	}
	w := &Workload{Name: name}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		trace, err := readTrace(folder, e.Name())
		if err != nil {
			return nil, fmt.Errorf("trace %s: %w", path.Join(name, e.Name()), err)
		}
		if len(w.Traces) > 0 && len(trace) != w.Samples() {
			return nil, fmt.Errorf("trace %s: has %d samples, %s has %d", path.Join(name, e.Name()), len(trace), w.Names[0], w.Samples())
		}
		w.Names, w.Traces = append(w.Names, e.Name()), append(w.Traces, trace)
	}
	if len(w.Traces) == 0 {
		return nil, fmt.Errorf("traces %s: no trace files in this folder", name)
	}
	return w, nil
}

func readTrace(folder fs.FS, name string) (Trace, error) {
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	trace, err := ParseTrace(f)
	return trace, errors.Join(err, f.Close())
}

// ParseTrace reads one percentage per line; empty lines at the end are ignored.
func ParseTrace(r io.Reader) (Trace, error) {
	var trace Trace
	scanner := bufio.NewScanner(r)
	for line := 1; scanner.Scan(); line++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" {
			continue
		}
		percent, err := strconv.ParseFloat(text, 64)
		if err != nil || !(percent >= 0 && percent <= 100) {
			return nil, fmt.Errorf("line %d: %q is no percentage", line, text)
		}
		if len(trace) == samplesMax {
			return nil, fmt.Errorf("line %d: more than %d samples", line, samplesMax)
		}
		trace = append(trace, percent/100)
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	if len(trace) == 0 {
		return nil, errors.New("no samples")
	}
	return trace, nil
}

// at returns the share at a time: samples are apart by step seconds and joined by lines; after the last it stays.
func (t Trace) at(seconds, step float64) float64 {
	x := seconds / step
	low := int(math.Floor(x))
	if low >= len(t)-1 {
		return t[len(t)-1]
	}
	if x == math.Floor(x) {
		return t[low]
	}
	return t[low] + (t[low+1]-t[low])/step*(seconds-float64(low)*step)
}
