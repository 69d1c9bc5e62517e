package node_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatemesh/node/labtest"
)

func nodesOf(gws []*labtest.Gateway) (nodes []*labtest.Node) {
	for _, g := range gws {
		nodes = append(nodes, g.Node)
	}
	return nodes
}

// TestLabSplit parts six gateways into two threes, changes the configuration on
// both sides, one thing on both, and heals.
func TestLabSplit(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := gatewaysOf(t, lab, 6)
	left, right := gws[:3], gws[3:]
	c := newCrowd(lab, gws[0], size(6, 20))
	c.up(t, time.Second, pingEvery)
	gws[0].CLI("device", "add", "contested")
	lab.Observe(time.Second)

	begin := time.Now()
	lab.Cut(nodesOf(left), nodesOf(right))
	seen := lab.Eventually(recoverLimit, "two clusters", func() bool { return sideSees(left) && sideSees(right) })
	left[0].CLI("device", "add", "on-the-left")
	right[0].CLI("device", "add", "on-the-right")
	left[1].CLI("device", "rename", "contested", "left")
	right[1].CLI("device", "rename", "contested", "right")
	lab.Observe(time.Until(begin.Add(size(15*time.Second, 2*time.Minute))))
	lab.Mend()
	healed := time.Now()
	took := waitOneCluster(lab, gws)
	lab.Eventually(recoverLimit, "the same devices everywhere", func() bool {
		want := enrolled(gws[0])
		for _, g := range gws[1:] {
			if !cmp.Equal(want, enrolled(g)) {
				return false
			}
		}
		return len(want) == len(c.devices)+3
	})
	equal := time.Since(healed)
	lab.Eventually(recoverLimit, "all list the contested change", func() bool {
		for _, g := range gws {
			var conflicts []struct{ Kind, Name, Field, Reason string }
			g.JSON(&conflicts, "conflicts")
			if len(conflicts) != 1 || conflicts[0].Kind != "device" || conflicts[0].Field != "name" {
				return false
			}
		}
		return true
	})
	listed := time.Since(healed)
	lab.Observe(5 * time.Second)
	c.waitAnswers(time.Now())
	gaps, _, lost := c.gaps(healed, time.Now(), func(int) bool { return true })
	c.stop()
	var table labtest.Table
	table.Row("apart for", "both sides knew after", "one cluster", "same configuration", "conflict listed", "devices",
		"gap after healing p50", "max", "pings lost")
	table.Row(healed.Sub(begin), seen, took, equal, listed, len(gaps), gaps.P(.5), gaps.P(1), lost)
	t.Log(&table)
	lab.Bar(took <= 10*time.Second, "one cluster ≤ 10 s after healing: %v", took)
	lab.Bar(gaps.P(1) <= time.Second, "no device is silent for more than 1 s after healing: %v", gaps)
}

// sideSees says whether the gateways of a side see each other and nobody else.
func sideSees(side []*labtest.Gateway) bool {
	for _, g := range side {
		var s labtest.StatusInfo
		if g.TryJSON(&s, "status") != nil || s.Gateways != len(side) {
			return false
		}
	}
	return true
}

// TestLabOneWay lets one gateway not hear another, while a third hears both:
// nobody is given up, and no device notices.
func TestLabOneWay(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	c := newCrowd(lab, gws[0], 9)
	c.up(t, time.Second, pingEvery)
	lab.Observe(6 * time.Second) // the second handshake of some stock clients
	owner, _ := c.owners(t, gws)
	at := time.Now()
	lab.CutOneWay(nodesOf(gws[:1]), nodesOf(gws[1:2]))
	lab.Observe(size(8*time.Second, time.Minute))
	lab.Mend()
	healed := time.Now()
	lab.Observe(2 * time.Second)
	took := time.Since(healed)
	if !oneCluster(gws) {
		took = waitOneCluster(lab, gws)
	}
	gaps, _, lost := c.gaps(at, time.Now(), func(int) bool { return true })
	after, _ := c.owners(t, gws)
	c.stop()
	deaths := 0
	for _, g := range gws {
		deaths += len(goneLine.FindAllString(g.Process.Log(), -1))
	}
	moves := 0
	for i := range owner {
		if owner[i] != after[i] {
			moves++
		}
	}
	var table labtest.Table
	table.Row("for", "given up", "devices moved", "longest silence", "pings lost", "one cluster after")
	table.Row(healed.Sub(at), deaths, moves, gaps.P(1), lost, took)
	t.Log(&table)
	if deaths > 0 || moves > 0 {
		t.Errorf("%d gateways were given up, %d devices moved", deaths, moves)
	}
	lab.Bar(lost == 0, "0 pings lost: %d", lost)
}
