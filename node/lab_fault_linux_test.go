package node_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabFaults takes from the gateway of the most devices what it stands on:
// the TUN, the network card, the address. Its devices are served by the others
// meanwhile; it says what is wrong, is not counted on, and comes back.
func TestLabFaults(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	c := newCrowd(lab, gws[0], size(9, 30))
	c.up(t, time.Second, pingEvery)
	var table labtest.Table
	table.Row("fault", "its devices", "gap p50", "max", "max gap of the others", "out of placement after", "ended", "back after", "it says")
	all := []standing{
		{"TUN deleted", deleteTUN, nil},
		{"socket aborted", func(g *labtest.Gateway) { _, _ = g.Try("", "ss", "-K", "-u", "-a", "sport", "=", ":51820") }, nil},
		{"card down", func(g *labtest.Gateway) { g.Run("ip", "link", "set", "eth0", "down") }, cardUp},
		{"address gone", func(g *labtest.Gateway) { g.Run("ip", "addr", "flush", "dev", "eth0") }, cardUp},
	}
	for _, f := range all[:size(2, 4)] {
		lab.Observe(2 * time.Second)
		owner, counts := c.owners(t, gws)
		victim := largest(counts)
		g := gws[victim]
		g.Process.MayEnd()
		mark := len(g.Process.Log())
		at := time.Now()
		f.do(g)
		out := serving(gws, victim, false, size(2*time.Second, 8*time.Second))
		lab.Observe(time.Until(at.Add(size(3*time.Second, 10*time.Second))))
		c.waitAnswers(time.Now())
		gaps, others, _ := c.gaps(at, time.Now(), func(i int) bool { return owner[i] == victim })
		mended := time.Now()
		if f.undo != nil {
			f.undo(g)
		}
		ended := g.Process.Ended()
		if ended { // as whoever watches over it would
			g.Start()
		}
		waitOneCluster(lab, gws)
		table.Row(f.name, len(gaps), gaps.P(.5), gaps.P(1), others.P(1), out, ended, time.Since(mended), complaint(g.Process.Log()[mark:]))
		lab.Bar(!ended, "a gateway goes on: %s", f.name)
		lab.Bar(gaps.P(1) <= 2*time.Second, "gap of its devices ≤ 2 s: %s: %v", f.name, gaps)
	}
	c.waitAnswers(time.Now())
	c.stop()
	t.Log(&table)
}

// standing is something that a gateway stands on and its loss.
type standing struct {
	name     string
	do, undo func(*labtest.Gateway) // undo is nil where the gateway does it itself
}

func deleteTUN(g *labtest.Gateway) {
	out := g.Run("ip", "-o", "link", "show", "type", "tun")
	if name := regexp.MustCompile(`gatemesh\d+`).FindString(out); name != "" {
		g.Run("ip", "link", "del", name)
	}
}

// cardUp gives a gateway its card, address and route back.
func cardUp(g *labtest.Gateway) {
	g.Run("ip", "link", "set", "eth0", "up")
	g.Run("ip", "addr", "replace", g.Addr.String()+"/24", "dev", "eth0")
	g.Run("ip", "route", "replace", "default", "via", "192.0.2.254")
}

// serving waits until the other gateways say whether that one serves, and
// returns how long that took; 0 stands for never within limit.
func serving(gws []*labtest.Gateway, i int, want bool, limit time.Duration) time.Duration {
	begin := time.Now()
	other := gws[(i+1)%len(gws)]
	for time.Since(begin) < limit {
		var members []labtest.GatewayInfo
		if other.TryJSON(&members, "gateway", "list") != nil {
			continue
		}
		for _, m := range members {
			if m.Name == gws[i].Name && (m.State == "alive" && m.Serving) == want {
				return time.Since(begin)
			}
		}
	}
	return 0
}

// complaint is the first warning or error in a log, without its time.
func complaint(log string) string {
	for line := range strings.Lines(log) {
		if m := regexp.MustCompile(`(WRN|ERR|WARN|ERROR|gatemesh:).*`).FindString(line); m != "" {
			return m
		}
	}
	return "nothing"
}
