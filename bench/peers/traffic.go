package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// flow is one iperf3 run between the client and the gateway itself.
type flow struct {
	metric string
	args   string
}

// Flows are told by their direction: up is from the client to the gateway.
var flows = []flow{
	{"tcp 1 up", "-P 1"},
	{"tcp 1 down", "-P 1 -R"},
	{"tcp 4 up", "-P 4"},
	{"tcp 4 down", "-P 4 -R"},
	{"udp 100M up", "-u -l 1300 -b 100M"},
	{"udp 200M up", "-u -l 1300 -b 200M"},
	{"udp 400M up", "-u -l 1300 -b 400M"},
	{"udp 100M down", "-u -l 1300 -b 100M -R"},
	{"udp 400M down", "-u -l 1300 -b 400M -R"},
}

const tries = 10 // to reach the gateway through the tunnel, a second each

// traffic measures what packets cost a gateway with one client.
func (l *lab) traffic(c candidate, o options, add func(string, float64)) error {
	defer l.stopAll()
	devices := l.devicesOf(1)
	g, err := c.start(l, -1, devices)
	if err != nil {
		return err
	}
	if c.name != "openvpn" {
		if err := l.connect(g, devices[0]); err != nil {
			return err
		}
	}
	if _, err := l.in(clientNS, "", "ping", "-q", "-c", fmt.Sprint(tries), "-W", "1", "-i", "0.2", g.inner.String()); err != nil {
		return fmt.Errorf("the tunnel does not carry: %w\n%s", err, g.text())
	}
	server, err := l.start(gatewayNS, -1, nil, "iperf3", "-s", "-B", g.inner.String())
	if err != nil {
		return err
	}
	if err := l.until(server, "iperf3 listens", func() bool { return l.answers(g) }); err != nil {
		return err
	}
	if err := rest(g, "rss, one client, MB", 0, add); err != nil {
		return err
	}
	for _, f := range flows {
		if err := l.flow(g, f, o.seconds, add); err != nil {
			return fmt.Errorf("%s: %w\n%s", f.metric, err, g.text())
		}
	}
	return rest(g, "rss, one client after load, MB", time.Second, add)
}

// answers says whether the iperf3 server is there; asking takes no run of it.
func (l *lab) answers(g *gateway) bool {
	out, err := l.in(gatewayNS, "", "ss", "-Htln", "sport", "=", ":5201")
	return err == nil && strings.TrimSpace(out) != ""
}

// rest waits and takes the memory down.
func rest(g *gateway, metric string, settle time.Duration, add func(string, float64)) error {
	time.Sleep(settle)
	rss, err := g.rss()
	add(metric, rss/1e6)
	return err
}

// report is what iperf3 --json says.
type report struct {
	Error string
	End   struct {
		SumReceived struct {
			Bytes         float64
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Sum struct {
			Packets     float64
			LostPackets float64 `json:"lost_packets"`
		}
	}
}

// flow runs iperf3 once. CPU includes all that the gateway does meanwhile.
func (l *lab) flow(g *gateway, f flow, seconds int, add func(string, float64)) error {
	before, err := g.cpu()
	if err != nil {
		return err
	}
	args := append([]string{"iperf3", "-J", "-c", g.inner.String(), "-t", fmt.Sprint(seconds)}, strings.Fields(f.args)...)
	out, err := l.in(clientNS, "", args...)
	after, err2 := g.cpu()
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return fmt.Errorf("decode iperf3: %w", err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	cpu := (after - before).Seconds()
	if strings.HasPrefix(f.metric, "udp") {
		received := r.End.Sum.Packets - r.End.Sum.LostPackets
		if received <= 0 {
			return errors.New("nothing was received")
		}
		add(f.metric+" µs/packet", cpu*1e6/received)
		add(f.metric+" loss %", 100*r.End.Sum.LostPackets/r.End.Sum.Packets)
		return nil
	}
	if r.End.SumReceived.Bytes == 0 {
		return errors.New("nothing was received")
	}
	add(f.metric+" s/GB", cpu*1e9/r.End.SumReceived.Bytes)
	add(f.metric+" Mb/s", r.End.SumReceived.BitsPerSecond/1e6)
	return nil
}
