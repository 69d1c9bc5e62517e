package main

import (
	"math"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1}, 2.5}, {[]float64{5, 1, 2, 9}, 3.5}} {
		if got := median(c.of); got != c.want {
			t.Errorf("median of %v: %v", c.of, got)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("there is a median of nothing")
	}
}

// TestRatios are those within a round; one in which a figure is missing does not count.
func TestRatios(t *testing.T) {
	r := &result{Rounds: 3, Gateways: []string{"a", "b"}}
	for _, s := range []sample{
		{"a", "x", 0, 1, 0}, {"b", "x", 0, 2, 0}, {"b", "x", 1, 4, 0}, {"b", "x", 2, 1, 0}, {"a", "x", 2, 3, 0},
	} {
		r.add(s.Gateway, s.Metric, s.Round, s.Value)
	}
	if got := r.ratios("x", "b"); len(got) != 2 || got[0] != .5 || got[1] != 3 {
		t.Errorf("ratios %v", got)
	}
	var out strings.Builder
	r.table(&out)
	if !strings.Contains(out.String(), "1.75 [0.50–3.00]") {
		t.Error(out.String())
	}
}
