package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds     int
	seconds    int // of one iperf3 run
	devices    []int
	handshakes int
	settle     time.Duration
	only       []string
	parts      string
	json       string
}

func main() {
	runtime.LockOSThread() // children die with the thread that started them
	if len(os.Args) > 1 && os.Args[1] == loadCommand {
		exit(runLoad())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, parse()))
}

func exit(err error) {
	var h *hintError
	switch {
	case errors.As(err, &h):
		fmt.Fprintf(os.Stderr, "peers: %v\nhint: %s\n", err, h.hint)
		os.Exit(1)
	case err != nil:
		fmt.Fprintf(os.Stderr, "peers: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse() (o options) {
	short := flag.Bool("short", false, "one round of runs of one second")
	only := flag.String("only", strings.Join(names(), ","), "gateways to measure; the first one is what ratios are of")
	flag.StringVar(&o.parts, "parts", "traffic,handshakes", "what to measure")
	flag.IntVar(&o.rounds, "rounds", 4, "rounds; an even number balances the order")
	flag.IntVar(&o.seconds, "seconds", 3, "length of one iperf3 run")
	flag.IntVar(&o.handshakes, "handshakes", 5000, "handshakes of one run, beside the first one of each device")
	flag.DurationVar(&o.settle, "settle", 3*time.Second, "rest before memory is read")
	flag.StringVar(&o.json, "json", "", "file for all samples; -: stdout, instead of the table")
	flag.Parse()
	o.devices = []int{1000, 10000}
	o.only = strings.Split(*only, ",")
	if *short {
		o.rounds, o.seconds, o.handshakes = 1, 1, 2000
	}
	return o
}

// run measures and prints. What it makes on the machine it removes, whatever happens.
func run(ctx context.Context, o options) (err error) {
	for _, name := range o.only {
		if !slices.Contains(names(), name) {
			return &hintError{fmt.Errorf("no gateway is called %q", name), "-only takes some of " + strings.Join(names(), ",")}
		}
	}
	if o.rounds < 1 || o.seconds < 1 || o.handshakes < 1 {
		return &hintError{errors.New("nothing to measure"), "-rounds, -seconds and -handshakes are at least 1"}
	}
	if err := check(o.only); err != nil {
		return err
	}
	l, err := newLab(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	r := newResult(o)
	for round := 0; round < o.rounds && ctx.Err() == nil; round++ {
		order := slices.Clone(o.only)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			if ctx.Err() == nil {
				l.round(candidates[name], round, o, r)
			}
		}
	}
	return errors.Join(r.write(o.json), context.Cause(ctx), r.failures()) // what was measured stands
}

// round measures one gateway once. What fails has no figure in this round: a machine with neighbours that starve it
// must not spoil an hour.
func (l *lab) round(c candidate, round int, o options, r *result) {
	add := func(metric string, value float64) { r.add(c.name, metric, round, value) }
	if strings.Contains(o.parts, "traffic") {
		if err := l.traffic(c, o, add); err != nil {
			r.failed(c.name, round, fmt.Errorf("traffic: %w", err))
		}
	}
	if c.name == "openvpn" || !strings.Contains(o.parts, "handshakes") { // OpenVPN's is another one altogether
		return
	}
	for _, n := range o.devices {
		if err := l.handshakes(c, n, o, add); err != nil {
			r.failed(c.name, round, fmt.Errorf("handshakes of %d devices: %w", n, err))
		}
	}
	r.perDevice(c.name, round, o.devices)
}
