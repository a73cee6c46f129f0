package main

import "testing"

func TestMedianAndQuantiles(t *testing.T) {
	s := sample{5, 1, 4, 2, 3}
	if s.median() != 3 || s.min() != 1 || s.max() != 5 || s.quantile(0.99) != 5 {
		t.Errorf("median %v min %v max %v p99 %v", s.median(), s.min(), s.max(), s.quantile(0.99))
	}
	if even := (sample{1, 2, 3, 10}); even.median() != 2.5 {
		t.Errorf("median of an even series: %v", even.median())
	}
	if got := ratios(sample{2, 9}, sample{1, 3}); got[0] != 2 || got[1] != 3 {
		t.Errorf("ratios %v", got)
	}
}

func TestTableRendersMarkdown(t *testing.T) {
	tb := table{head: []string{"what", "value"}}
	tb.add("a", "1")
	if got, want := tb.String(), "| what | value |\n|---|---|\n| a | 1 |\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
