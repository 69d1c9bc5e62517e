package labtest

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Durations are measured times, in any order.
type Durations []time.Duration

// P returns the smallest value that is not exceeded by q of all (0 < q ≤ 1): P(1) is
// the maximum, P(.5) the lower median. Of none it is zero.
func (d Durations) P(q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	rank := int(q*float64(len(d))+0.9999999) - 1 // nearest rank, rounded up
	return sorted[min(max(rank, 0), len(d)-1)]
}

// String is count, p50, p99 and maximum.
func (d Durations) String() string {
	return fmt.Sprintf("n=%d p50=%v p99=%v max=%v", len(d), Round(d.P(.5)), Round(d.P(.99)), Round(d.P(1)))
}

// Round cuts a duration to three digits or so.
func Round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	default:
		return d.Round(time.Microsecond)
	}
}

// A Table collects figures for the log of a test.
type Table struct {
	rows []string
}

// Row adds a line. The first is the head.
func (t *Table) Row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		switch c := c.(type) {
		case time.Duration:
			text[i] = Round(c).String()
		case float64:
			text[i] = fmt.Sprintf("%.2f", c)
		default:
			text[i] = fmt.Sprint(c)
		}
	}
	t.rows = append(t.rows, strings.Join(text, "\t"))
}

// String returns the lines with their cells aligned, after a line break.
func (t *Table) String() string {
	var b strings.Builder
	b.WriteByte('\n')
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		fmt.Fprintln(w, row)
	}
	w.Flush()
	return b.String()
}
