package node_test

import (
	"math/rand/v2"
	"strconv"
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
