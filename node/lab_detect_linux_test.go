package node_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// gatewaysOf starts n gateways, the first of which begins a cluster, and
// returns when each of them sees all.
func gatewaysOf(t *testing.T, lab *labtest.Lab, n int) []*labtest.Gateway {
	t.Helper()
	gws := make([]*labtest.Gateway, n)
	var flags []string
	for i := range gws {
		g := lab.Gateway(fmt.Sprintf("gw%d", i+1))
		gws[i] = g
		g.Start(append([]string{"--name", g.Name, "--public", g.Public().String()}, flags...)...)
		if i == 0 {
			g.WaitReady()
			flags = []string{"--key", g.Key(), "--join", g.Addr.String()}
		}
	}
	waitOneCluster(lab, gws)
	return gws
}

// spin keeps both processors busy, as any other program may.
func spin(n *labtest.Node) (stop func()) {
	var all []*labtest.Process
	for i := range 2 {
		p := n.Start(fmt.Sprint("spin", i), nil, "sh", "-c", "while :; do :; done")
		all = append(all, p)
	}
	return func() {
		for _, p := range all {
			p.Kill()
		}
	}
}

// goneLine is what a gateway logs of another that it gives up.
var goneLine = regexp.MustCompile(`time=(\S+) .*msg="peer gone".* peer=([0-9a-f]+)`)

// gone returns when a log gives up each peer, by the peers' ids.
func gone(log string) map[string][]time.Time {
	at := map[string][]time.Time{}
	for _, m := range goneLine.FindAllStringSubmatch(log, -1) {
		if when, err := time.Parse(time.RFC3339Nano, m[1]); err == nil {
			at[m[2]] = append(at[m[2]], when)
		}
	}
	return at
}

// gaveUp returns when g gave up a peer for the first time since; ok is false
// if it did not.
func gaveUp(g *labtest.Gateway, id string, since time.Time) (at time.Time, ok bool) {
	for _, at := range gone(g.Process.Log())[id] {
		if !at.Before(since.Truncate(time.Millisecond)) { // as exact as the log
			return at, true
		}
	}
	return time.Time{}, false
}

// TestLabDetect kills gateways of five and cuts them off, while both processors
// are busy, and looks when each of the others has noticed.
func TestLabDetect(t *testing.T) {
	lab := newLab(t)
	gws := gatewaysOf(t, lab, 5)
	ids := map[string]string{}
	for _, m := range gws[0].Gateways() {
		ids[m.Name] = m.ID
	}
	stop := spin(lab.Node("busy", labtest.LAN, 190))
	defer stop()
	var table labtest.Table
	table.Row("how", "kills", "seen by", "p50", "p99", "max", "others given up", "one cluster again p50", "max")
	for _, how := range []string{"kill -9", "cut off"} {
		var seen, again labtest.Durations
		wrong := 0
		kills := size(2, 50)
		for i := range kills {
			victim := gws[i%len(gws)]
			id := ids[victim.Name]
			if id == "" {
				t.Fatalf("no id of %s", victim.Name)
			}
			lab.Observe(time.Second)
			at := time.Now()
			if how == "kill -9" {
				victim.Kill()
			} else {
				victim.Loss(100, 100)
			}
			for _, g := range gws {
				if g == victim {
					continue
				}
				var noticed time.Time
				lab.Eventually(recoverLimit, g.Name+" gives it up", func() (ok bool) {
					noticed, ok = gaveUp(g, id, at)
					return ok
				})
				seen = append(seen, noticed.Sub(at))
				for other, times := range gone(g.Process.Log()) {
					if other != id && times[len(times)-1].After(at) {
						wrong++
					}
				}
			}
			back := time.Now()
			if how == "kill -9" {
				victim.Start()
				victim.WaitReady()
			} else {
				victim.Loss(0, 0)
			}
			waitOneCluster(lab, gws)
			again = append(again, time.Since(back))
		}
		table.Row(how, kills, len(seen), seen.P(.5), seen.P(.99), seen.P(1), wrong, again.P(.5), again.P(1))
		bar := map[string]time.Duration{"kill -9": time.Second, "cut off": 2 * time.Second}[how]
		lab.Bar(seen.P(.99) <= bar, "noticed after %s, p99 ≤ %v: %v", how, bar, seen)
		lab.Bar(wrong == 0, "nobody else is given up: %d", wrong)
	}
	t.Log(&table)
}

// TestLabFalseDeaths loads the tunnels of five gateways as much as the machine
// gives, and counts whom they give up: nobody dies.
func TestLabFalseDeaths(t *testing.T) {
	lab := newLab(t)
	gws := gatewaysOf(t, lab, 5)
	host := lab.Host("host")
	clients := addClients(t, lab, gws[0], 5)
	connect(t, lab, clients)
	length := max(labtest.Steady(), size(5*time.Second, 5*time.Minute))
	for i, c := range clients {
		port := fmt.Sprint(5300 + i)
		host.Start("iperf3-"+port, nil, "iperf3", "-s", "-p", port).MayEnd()
		flags := []string{"iperf3", "-c", host.LAN.String(), "-p", port, "-t", "0", "-i", "0"}
		if i%2 == 1 {
			flags = append(flags, "-R")
		}
		lab.Observe(200 * time.Millisecond)
		c.Start("load-"+port, nil, flags...).MayEnd()
	}
	lab.Observe(time.Second)
	begin, before := time.Now(), gws[0].Devices()
	from := make([]int, len(gws))
	cpu := make([]time.Duration, len(gws))
	for i, g := range gws {
		from[i], cpu[i] = len(g.Process.Log()), g.Process.Usage().CPU
	}
	lab.Observe(length)
	took := time.Since(begin)
	var table labtest.Table
	table.Row("gateway", "CPU s/s", "peers given up", "stalls", "takeovers")
	deaths := 0
	for i, g := range gws {
		log := g.Process.Log()[from[i]:]
		n := len(goneLine.FindAllString(log, -1))
		deaths += n
		table.Row(g.Name, (g.Process.Usage().CPU-cpu[i]).Seconds()/took.Seconds(), n,
			strings.Count(log, "this process stood still"), strings.Count(log, "took over"))
	}
	bytes := moved(gws[0].Devices()) - moved(before)
	t.Logf("%v of load, %.1f GB, %.0f Mbit/s%v", took.Round(time.Second), float64(bytes)/1e9,
		float64(bytes)*8/1e6/took.Seconds(), &table)
	if bytes < 1<<20 {
		t.Error("there was no load")
	}
	lab.Bar(deaths == 0, "nobody is given up in %v of full load: %d", took.Round(time.Second), deaths)
}

// moved sums up the bytes of all devices.
func moved(devices []labtest.DeviceInfo) (n uint64) {
	for _, d := range devices {
		n += d.RxBytes + d.TxBytes
	}
	return n
}
