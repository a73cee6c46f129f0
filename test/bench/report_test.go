package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADocumentKeepsTheSectionsThatAreNotMeasuredAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	before := "# Benchmarks\n\nold words\n\n## " + sections[0].title + "\n\nfirst\n\n### part\n\nof first\n\n## A section that is no more\n\ngone\n\n## " +
		sections[1].title + "\n\nsecond\n"
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, err := readDocument(path)
	if err != nil {
		t.Fatal(err)
	}
	doc.parts[sections[1].title] = "new second"
	got := doc.text(t.Context())
	for _, want := range []string{"\n## " + sections[0].title + "\n\nfirst\n\n### part\n\nof first\n", "\n## " + sections[1].title + "\n\nnew second\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	for _, not := range []string{"old words", "gone", "\nsecond\n"} {
		if strings.Contains(got, not) {
			t.Errorf("%q is still in:\n%s", not, got)
		}
	}
}

func TestFioReportIsReadWhateverIsSaidBeforeIt(t *testing.T) {
	report := `note: both iodepth >= 1 and synchronous I/O engine
{ "jobs" : [ { "error" : 0, "usr_cpu" : 12.5, "sys_cpu" : 50.0,
  "read" : { "iops" : 0.0, "total_ios" : 0, "clat_ns" : {} },
  "write" : { "iops" : 2000.5, "total_ios" : 1000, "clat_ns" : { "percentile" : { "50.000000" : 1500, "99.000000" : 9000 } } } } ] }`
	got, err := parseFio([]byte(report))
	if err != nil {
		t.Fatal(err)
	}
	if want := (fioResult{perSecond: 2000.5, requests: 1000, p50: 1.5, p99: 9, clientCPU: 0.625}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFioReportThatTellsOfAnErrorIsAnError(t *testing.T) {
	for _, report := range []string{
		`{"jobs":[{"error":5,"read":{"total_ios":7}}]}`, `{"jobs":[]}`, `{"jobs":[{"error":0,"read":{"total_ios":0}}]}`, `nothing`,
	} {
		if got, err := parseFio([]byte(report)); err == nil {
			t.Errorf("%s: %+v", report, got)
		}
	}
}

func TestInterleavedTurnsReverseEveryOtherRound(t *testing.T) {
	var got strings.Builder
	turn := func(name string) func() error { return func() error { got.WriteString(name); return nil } }
	if err := interleave(3, []func() error{turn("A"), turn("B"), turn("C")}); err != nil {
		t.Fatal(err)
	}
	if got.String() != "ABCCBAABC" {
		t.Error(got.String())
	}
}

func TestAPlotIsAnSVGWithItsNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plot.svg")
	c := barChart{title: "Speed", unit: "per second", groups: []string{"one", "two"}, series: []barSeries{
		{"ours", []sample{{1, 2, 3}, {4}}}, {"theirs", []sample{{2}, {5, 6}}},
	}}
	if err := c.save(path); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", ">Speed<", ">ours<", ">theirs<", ">one<", ">two<"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in the plot", want)
		}
	}
}

func TestTheCommandOfASectionSaysWhatWasChosen(t *testing.T) {
	b := &bench{rounds: 4, span: spanDefault}
	if got, want := b.commandLine("nbd"), "go run ./test/bench -only nbd -rounds 4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b.span, b.loads = spanDefault/2, "depth 1,"
	if got, want := b.commandLine("nbd"), `go run ./test/bench -only nbd -rounds 4 -span 150ms -loads "depth 1,"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := b.commandLine("copy"), "go run ./test/bench -only copy -rounds 4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
