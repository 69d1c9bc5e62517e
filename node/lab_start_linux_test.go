package node_test

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatemesh/node/labtest"
)

// TestLabZeroConfig starts three gateways within a second with one key and
// nothing else. They find each other and are one cluster.
func TestLabZeroConfig(t *testing.T) {
	lab := newLab(t)
	key := drawKey(lab)
	var table labtest.Table
	table.Row("run", "starts", "ready", "one cluster")
	var took labtest.Durations
	for run := range size(2, 10) {
		// A subtest, so that the machines of a run are gone before the next.
		t.Run(strconv.Itoa(run+1), func(t *testing.T) {
			offsets, ready, one := startTogether(labtest.New(t), key)
			table.Row(run+1, offsets, ready, one)
			took = append(took, one)
		})
	}
	t.Log(&table)
	lab.Bar(took.P(1) <= 5*time.Second, "three gateways started with a key are one cluster ≤ 5 s after the last start: %v", took)
}

// drawKey has a gateway make a key, as a user would.
func drawKey(lab *labtest.Lab) string {
	g := lab.Gateway("first")
	g.Start()
	g.WaitReady()
	key := g.Key()
	g.Stop()
	return key
}

// startTogether starts three gateways at random moments of one second. It
// returns these, and how long after the last start all were ready and saw each
// other.
func startTogether(lab *labtest.Lab, key string) (offsets []time.Duration, ready, one time.Duration) {
	var gws []*labtest.Gateway
	for _, name := range []string{"a", "b", "c"} {
		gws = append(gws, lab.Gateway(name))
	}
	offsets = []time.Duration{0, rand.N(time.Second).Round(time.Millisecond), rand.N(time.Second).Round(time.Millisecond)}
	if offsets[1] > offsets[2] {
		offsets[1], offsets[2] = offsets[2], offsets[1]
	}
	begin := time.Now()
	for i, g := range gws {
		lab.Observe(time.Until(begin.Add(offsets[i])))
		g.Start("--key", key)
	}
	last := time.Now()
	for _, g := range gws {
		g.WaitReady()
	}
	ready = time.Since(last)
	waitOneCluster(lab, gws)
	return offsets, ready, time.Since(last)
}

// TestLabLinkLocal starts three gateways on a LAN on which hosts have no address
// but the one that IPv6 gives each of them, and one more link that leads
// nowhere, as that to containers does.
func TestLabLinkLocal(t *testing.T) {
	patient(t)
	lab := newLab(t)
	var gws []*labtest.Gateway
	for i := range 3 {
		n := lab.Node(string(rune('a'+i)), labtest.LAN, 10+i)
		n.Run("ip", "-4", "addr", "flush", "dev", "eth1")
		n.Run("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "inside")
		n.Run("ip", "link", "set", "docker0", "up")
		n.Run("ip", "link", "set", "inside", "up")
		lab.Eventually(recoverLimit, n.Name+" has its address", func() bool {
			out := n.Run("ip", "-6", "addr", "show", "dev", "eth1")
			return strings.Contains(out, "fe80::") && !strings.Contains(out, "tentative")
		})
		gws = append(gws, n.Gateway(n.Name, 0))
	}
	key := drawKey(lab)
	started := time.Now()
	for _, g := range gws {
		g.Start("--name", g.Name, "--key", key)
	}
	waitOneCluster(lab, gws)
	t.Logf("one cluster after %v", time.Since(started).Round(time.Millisecond))
	for _, m := range gws[0].Gateways() {
		if !strings.HasPrefix(m.Mesh, "[fe80::") {
			t.Errorf("%s is at %s", m.Name, m.Mesh)
		}
	}
	id := gatewayIDs(gws)[2]
	at := gws[2].Kill()
	for _, g := range gws[:2] {
		var noticed time.Time
		lab.Eventually(recoverLimit, g.Name+" gives it up", func() (ok bool) {
			noticed, ok = gaveUp(g, id, at)
			return ok
		})
		t.Logf("%s noticed the death after %v", g.Name, noticed.Sub(at))
	}
	gws[2].Start()
	waitOneCluster(lab, gws)
}

// TestLabRestartAll kills all gateways and starts them again without a flag.
// They are the same cluster with the same devices, and the clients come back
// without help.
func TestLabRestartAll(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := addClients(t, lab, gws[1], size(9, 20))
	connect(t, lab, clients)
	before, cluster := enrolled(gws[1]), gws[1].Status().Cluster
	p := startPings(lab, clients)

	killed := time.Now()
	for _, g := range gws {
		g.Kill()
	}
	lab.Observe(time.Second)
	started := time.Now()
	for _, g := range gws {
		g.Start()
	}
	for _, g := range gws {
		g.WaitReady()
	}
	ready := time.Since(started)
	waitOneCluster(lab, gws)
	one := time.Since(started)
	back := p.waitBack(started, func(*labtest.Client) bool { return true })
	p.stop()

	for _, g := range gws {
		if diff := cmp.Diff(before, enrolled(g)); diff != "" {
			t.Errorf("devices at %s after the restart: %s", g.Name, diff)
		}
		if got := g.Status().Cluster; got != cluster {
			t.Errorf("%s is in cluster %s, was in %s", g.Name, got, cluster)
		}
	}
	counts, _ := owners(t, gws, clients)
	var table labtest.Table
	table.Row("down", "ready", "one cluster", "clients back p50", "max", "now at")
	table.Row(started.Sub(killed), ready, one, back.P(.5), back.P(1), counts)
	t.Log(&table)
	lab.Bar(back.P(1) <= 20*time.Second, "clients are back ≤ 20 s after the gateways started again: %v", back)
}
