package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// sample is one figure of one gateway in one round.
type sample struct {
	Gateway string  `json:"gateway"`
	Metric  string  `json:"metric"`
	Round   int     `json:"round"`
	Value   float64 `json:"value"`
	Load    float64 `json:"load"` // average of the machine in the last minute
}

// result is all that was measured.
type result struct {
	Date     time.Time `json:"date"`
	Machine  string    `json:"machine"`
	Rounds   int       `json:"rounds"`
	Seconds  int       `json:"seconds"`
	Gateways []string  `json:"gateways"`
	Samples  []sample  `json:"samples"`
	Failed   []string  `json:"failed"`
	metrics  []string  // in the order of their first sample
}

func newResult(o options) *result {
	return &result{Date: time.Now().UTC(), Machine: machine(), Rounds: o.rounds, Seconds: o.seconds, Gateways: o.only}
}

func machine() string {
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", model, runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version())
}

func loadAverage() (load float64) {
	if f, err := os.Open("/proc/loadavg"); err == nil {
		_, _ = fmt.Fscan(f, &load)
		f.Close()
	}
	return load
}

// add also says it, so that a long run is seen to go on.
func (r *result) add(gateway, metric string, round int, value float64) {
	if !slices.Contains(r.metrics, metric) {
		r.metrics = append(r.metrics, metric)
	}
	s := sample{gateway, metric, round, value, loadAverage()}
	r.Samples = append(r.Samples, s)
	fmt.Fprintf(os.Stderr, "round %d  %-14s %-34s %10.2f  (load %.1f)\n", round+1, gateway, metric, value, s.Load)
}

func (r *result) failed(gateway string, round int, err error) {
	text := fmt.Sprintf("%s, round %d: %v", gateway, round+1, err)
	r.Failed = append(r.Failed, text)
	fmt.Fprintln(os.Stderr, text)
}

func (r *result) failures() error {
	if len(r.Failed) == 0 {
		return nil
	}
	return &hintError{fmt.Errorf("%d measurements failed, the first: %s", len(r.Failed), r.Failed[0]), "the others stand; see that the machine is quiet"}
}

// value is a sample; ok is false when there is none.
func (r *result) value(gateway, metric string, round int) (v float64, ok bool) {
	for _, s := range r.Samples {
		if s.Gateway == gateway && s.Metric == metric && s.Round == round {
			return s.Value, true
		}
	}
	return 0, false
}

// perDevice is what one connected device more costs: the difference between the most and the fewest devices.
func (r *result) perDevice(gateway string, round int, devices []int) {
	few, many := slices.Min(devices), slices.Max(devices)
	for _, m := range []struct {
		of, name string
		scale    float64
	}{
		{"rss, %d connected, MB", "rss/device, KB", 1000},
		{"goroutines, %d connected", "goroutines/device", 1},
	} {
		a, ok1 := r.value(gateway, fmt.Sprintf(m.of, few), round)
		b, ok2 := r.value(gateway, fmt.Sprintf(m.of, many), round)
		if ok1 && ok2 && many > few {
			r.add(gateway, m.name, round, (b-a)*m.scale/float64(many-few))
		}
	}
}

// median is NaN of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// values are the samples of a gateway.
func (r *result) values(gateway, metric string) (v []float64) {
	for round := range r.Rounds {
		if x, ok := r.value(gateway, metric, round); ok {
			v = append(v, x)
		}
	}
	return v
}

// ratios are those within each round of the first gateway to another one.
func (r *result) ratios(metric, other string) (v []float64) {
	for round := range r.Rounds {
		a, ok1 := r.value(r.Gateways[0], metric, round)
		b, ok2 := r.value(other, metric, round)
		if ok1 && ok2 && b != 0 {
			v = append(v, a/b)
		}
	}
	return v
}

// write prints the table, and all samples to a file, to stdout if it is called -.
func (r *result) write(path string) error {
	if path != "-" {
		r.table(os.Stdout)
	}
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if path == "-" {
		_, err = os.Stdout.Write(text)
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// table has medians, and medians of ratios with their least and greatest.
func (r *result) table(out io.Writer) {
	if len(r.Samples) == 0 {
		return
	}
	var loads []float64
	for _, s := range r.Samples {
		loads = append(loads, s.Load)
	}
	b := bufio.NewWriter(out)
	defer b.Flush()
	fmt.Fprintf(b, "%s\n%s\n%d rounds, runs of %d s, load average %.1f to %.1f\n\n",
		r.Machine, r.Date.Format(time.RFC3339), r.Rounds, r.Seconds, slices.Min(loads), slices.Max(loads))
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprint(w, "median")
	for _, g := range r.Gateways {
		fmt.Fprintf(w, "\t%s", g)
	}
	for _, g := range r.Gateways[1:] {
		fmt.Fprintf(w, "\t÷ %s", g)
	}
	fmt.Fprintln(w)
	for _, m := range r.metrics {
		fmt.Fprint(w, m)
		for _, g := range r.Gateways {
			fmt.Fprintf(w, "\t%s", number(median(r.values(g, m))))
		}
		for _, g := range r.Gateways[1:] {
			if v := r.ratios(m, g); len(v) > 0 && !strings.Contains(m, "loss") {
				fmt.Fprintf(w, "\t%.2f [%.2f–%.2f]", median(v), slices.Min(v), slices.Max(v))
			} else {
				fmt.Fprint(w, "\t–")
			}
		}
		fmt.Fprintln(w)
	}
}

func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
