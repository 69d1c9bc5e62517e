package node_test

import (
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabKill kills gateways with SIGKILL under pinging clients. The clients
// hear from another gateway without doing anything.
func TestLabKill(t *testing.T) {
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := addClients(t, lab, gws[0], size(20, 60))
	connect(t, lab, clients)

	var table labtest.Table
	table.Row("kill", "gateway", "its clients", "gap p50", "p99", "max", "pings lost", "max gap of the others")
	var all labtest.Durations
	for kill := range size(2, 5) {
		counts, owner := owners(t, gws, clients)
		victim := largest(counts)
		p := startPings(lab, clients)
		at := gws[victim].Kill()
		p.waitBack(at, func(c *labtest.Client) bool { return owner[c] == victim })
		lab.Observe(2 * time.Second) // what comes back stays
		end := time.Now()
		var gaps, others labtest.Durations
		lost := 0
		for i, log := range p.stop() {
			gap, _ := log.Gap(at, end)
			if owner[clients[i]] != victim {
				others = append(others, gap)
				continue
			}
			gaps = append(gaps, gap)
			lost += log.LostSince(at)
		}
		table.Row(kill+1, gws[victim].Name, len(gaps), gaps.P(.5), gaps.P(.99), gaps.P(1), lost, others.P(1))
		all = append(all, gaps...)
		if after, _ := owners(t, gws, clients); after[victim] != 0 {
			t.Errorf("%d clients still send to the gateway that is dead", after[victim])
		}
		gws[victim].Start()
		gws[victim].WaitReady()
		waitOneCluster(lab, gws)
	}
	t.Log(&table)
	lab.Bar(all.P(.99) <= time.Second, "gap after kill -9, p99 ≤ 1 s: %v", all)
}

// TestLabFreeze stops a gateway for a while. Others take its clients, and when
// it goes on it takes none back and disturbs none.
func TestLabFreeze(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := addClients(t, lab, gws[0], size(9, 20))
	connect(t, lab, clients)
	counts, owner := owners(t, gws, clients)
	victim := largest(counts)
	p := startPings(lab, clients)

	frozen := gws[victim].Freeze()
	p.waitBack(frozen, func(c *labtest.Client) bool { return owner[c] == victim })
	lab.Observe(time.Until(frozen.Add(size(10*time.Second, 30*time.Second))))
	thawed := gws[victim].Thaw()
	// A client that lost its gateway tries again after 15 s.
	lab.Observe(size(5*time.Second, 25*time.Second))
	after, _ := owners(t, gws, clients)
	end := time.Now()

	var gaps, since labtest.Durations
	lost := 0
	for i, log := range p.stop() {
		lost += log.LostSince(thawed)
		gap, back := log.Gap(thawed, end)
		since = append(since, gap)
		if !back {
			t.Errorf("%s: no answer after the thaw", clients[i].Name)
		}
		if owner[clients[i]] == victim {
			gap, _ := log.Gap(frozen, thawed)
			gaps = append(gaps, gap)
		}
	}
	waitOneCluster(lab, gws)
	var table labtest.Table
	table.Row("frozen for", "its clients", "gap p50", "p99", "max", "after the thaw: pings lost", "longest silence", "clients back at it")
	table.Row(thawed.Sub(frozen), len(gaps), gaps.P(.5), gaps.P(.99), gaps.P(1), lost, since.P(1), after[victim])
	t.Log(&table)
	lab.Bar(lost == 0, "0 pings lost after the thaw: %d", lost)
	lab.Bar(after[victim] == 0, "no client comes back to the gateway that thawed: %d", after[victim])
	lab.Bar(gaps.P(.99) <= 1500*time.Millisecond, "gap after SIGSTOP, p99 ≤ 1.5 s: %v", gaps)
}

// TestLabStall stops a gateway for moments about as long as it takes the
// others to give it up. So they may take its clients just as it goes on, and a
// wrong verdict must cost no client more than a right one.
func TestLabStall(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := addClients(t, lab, gws[0], 9)
	connect(t, lab, clients)

	var table labtest.Table
	table.Row("stalled for", "its clients", "moved", "gap p50", "max", "max gap of the others")
	var all labtest.Durations
	everyone := func(*labtest.Client) bool { return true }
	for _, stall := range size([]time.Duration{800, 1100}, []time.Duration{500, 600, 650, 700, 750, 800, 850, 900, 1000, 1100, 1300, 1500}) {
		stall *= time.Millisecond
		counts, owner := owners(t, gws, clients)
		victim := largest(counts)
		p := startPings(lab, clients)
		from := gws[victim].Freeze()
		lab.Observe(stall)
		thawed := gws[victim].Thaw()
		lab.Observe(2 * time.Second)
		// Who is back for a moment only shows now.
		p.waitBack(time.Now(), everyone)
		end := time.Now()
		_, after := owners(t, gws, clients)
		var gaps, others labtest.Durations
		moved := 0
		for i, log := range p.stop() {
			gap, _ := log.Gap(from, end)
			if owner[clients[i]] != victim {
				others = append(others, gap)
				continue
			}
			gaps = append(gaps, gap)
			if after[clients[i]] != victim {
				moved++
			}
		}
		all = append(append(all, gaps...), others...)
		table.Row(thawed.Sub(from), len(gaps), moved, gaps.P(.5), gaps.P(1), others.P(1))
		waitOneCluster(lab, gws)
	}
	t.Log(&table)
	lab.Bar(all.P(1) <= 2500*time.Millisecond, "gap when a gateway stalls for up to 1.5 s, max ≤ 2.5 s: %v", all)
}
