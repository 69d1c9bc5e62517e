package node_test

import (
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabCrowdKill kills the gateway of the most of two hundred pinging stock
// devices, several times, and counts what each kill costs: silence, pings, and
// handshakes on the wire.
func TestLabCrowdKill(t *testing.T) {
	lab := newLab(t)
	gws := threeGateways(t, lab)
	c := newCrowd(lab, gws[0], size(24, 200))
	c.up(t, size(time.Second, 4*time.Second), pingEvery)
	w := captureAll(gws)

	var table labtest.Table
	table.Row("kill", "gateway", "its devices", "gap p50", "p99", "max", "pings lost", "max gap of the others",
		"handshake messages in 1 s", "in 2 s", "in 5 s", "frames missed", "dropped by the machine")
	var all labtest.Durations
	orphans, early := 0, 0
	for kill := range size(1, 5) {
		lab.Observe(size(3*time.Second, 5*time.Second)) // sessions come to rest
		owner, counts := c.owners(t, gws)
		victim := largest(counts)
		before, dropped := w.handshakes(victim), labtest.Dropped()
		at := gws[victim].Kill()
		var wired [3]int
		for i, after := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second} {
			lab.Observe(time.Until(at.Add(after)))
			wired[i] = w.handshakes(victim) - before
		}
		c.waitAnswers(time.Now())
		gaps, others, lost := c.gaps(at, time.Now(), func(i int) bool { return owner[i] == victim })
		table.Row(kill+1, gws[victim].Name, len(gaps), gaps.P(.5), gaps.P(.99), gaps.P(1), lost, others.P(1),
			wired[0], wired[1], wired[2], w.missed(), labtest.Dropped()-dropped)
		all = append(all, gaps...)
		orphans += counts[victim]
		early += wired[0]
		if _, after := c.owners(t, gws); after[victim] != 0 {
			t.Errorf("%d devices still send to the gateway that is dead", after[victim])
		}
		gws[victim].Start()
		gws[victim].WaitReady()
		waitOneCluster(lab, gws)
	}
	c.stop()
	t.Log(&table)
	failures, known := authFailures(gws)
	lab.Bar(all.P(.99) <= 300*time.Millisecond, "gap after kill -9, p99 ≤ 300 ms: %v", all)
	lab.Bar(early*10 <= orphans, "handshake messages in the first second ≤ a tenth of the devices: %d of %d", early, orphans)
	lab.Bar(known && failures == 0, "0 packets fail authentication: %d", failures)
}

// gaps returns the longest silence of each device between two moments, of those
// wanted and of the others, and how many pings of the wanted were lost.
func (c *crowd) gaps(from, until time.Time, wanted func(i int) bool) (gaps, others labtest.Durations, lost int) {
	for i, log := range c.logs() {
		gap, _ := log.Gap(from, until)
		if !wanted(i) {
			others = append(others, gap)
			continue
		}
		gaps = append(gaps, gap)
		lost += log.LostSince(from)
	}
	return gaps, others, lost
}

// TestLabDrain asks the gateway of the most devices to end. It hands them over
// before it does, and no ping is lost.
func TestLabDrain(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	c := newCrowd(lab, gws[0], size(12, 200))
	c.up(t, size(time.Second, 4*time.Second), 2*pingEvery)
	w := captureAll(gws)

	var table labtest.Table
	table.Row("stop", "gateway", "its devices", "ended after", "gap p50", "max", "pings lost",
		"gap of the others p50", "max", "pings lost", "handshake messages in 1 s", "frames dropped by the machine")
	lost := 0
	for stop := range size(1, 3) {
		lab.Observe(3 * time.Second)
		owner, counts := c.owners(t, gws)
		victim := largest(counts)
		before, dropped := w.handshakes(-1), labtest.Dropped()
		at := time.Now()
		gws[victim].Stop()
		took := time.Since(at)
		lab.Observe(time.Until(at.Add(time.Second)))
		wired := w.handshakes(-1) - before
		lab.Observe(time.Until(at.Add(3 * time.Second)))
		c.waitAnswers(time.Now())
		until := time.Now()
		gaps, others, gone := c.gaps(at, until, func(i int) bool { return owner[i] == victim })
		_, _, all := c.gaps(at, until, func(int) bool { return true })
		table.Row(stop+1, gws[victim].Name, len(gaps), took, gaps.P(.5), gaps.P(1), gone, others.P(.5), others.P(1), all-gone, wired, labtest.Dropped()-dropped)
		lost += all
		gws[victim].Start()
		gws[victim].WaitReady()
		waitOneCluster(lab, gws)
	}
	c.stop()
	t.Log(&table)
	lab.Bar(lost == 0, "0 pings lost while a gateway ends as asked: %d", lost)
}
