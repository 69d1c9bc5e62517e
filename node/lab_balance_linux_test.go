package node_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabBalance brings up sixty clients that all know gateway 1 only. Every
// gateway gets its third, and gateway 1 sees no more than one initiation of
// those that it gave away.
func TestLabBalance(t *testing.T) {
	const n = 60
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := addClients(t, lab, gws[0], n)
	capture := gws[0].Capture(labtest.WireGuardPort)
	begin := time.Now()
	connect(t, lab, clients)
	took := time.Since(begin)
	counts, owner := owners(t, gws, clients)

	moved, again, dirty := 0, 0, 0
	var in, out labtest.Counts
	for _, c := range clients {
		if owner[c] == 0 {
			continue
		}
		moved++
		in, out = capture.Flow(c.Addr, false), capture.Flow(c.Addr, true)
		if in[labtest.Initiation] != 1 {
			again++
		}
		if in[labtest.Data]+out[labtest.Data]+out[labtest.Response] > 0 {
			dirty++
		}
	}
	var table labtest.Table
	table.Row("clients", "connected", "gw1/gw2/gw3", "moved", "more than 1 initiation at gw1", "data or response at gw1", "frames missed")
	table.Row(n, took, counts, moved, again, dirty, capture.Missed())
	t.Log(&table)
	checkOwners(t, lab, gws, clients, owner)

	ok := !slices.ContainsFunc(counts, func(c int) bool { return c < n/3-3 || c > n/3+3 })
	lab.Bar(ok, "of %d clients every gateway owns %d ± 3: %v", n, n/3, counts)
	lab.Bar(again == 0, "gateway 1 saw one initiation of each client that moved: of %d of %d it saw another number", again, moved)
	lab.Bar(dirty == 0, "gateway 1 saw no data of clients that moved: %d of %d", dirty, moved)
}

// checkOwners checks that all gateways list each client where wg show on the
// client says it is.
func checkOwners(t *testing.T, lab *labtest.Lab, gws []*labtest.Gateway, clients []*labtest.Client, owner map[*labtest.Client]int) {
	t.Helper()
	want := make(map[string]string)
	for _, c := range clients {
		want[c.Name] = gws[owner[c]].Name
	}
	for _, g := range gws {
		lab.Eventually(recoverLimit, g.Name+" lists the clients where they are", func() bool {
			devices := g.Devices()
			return len(devices) == len(clients) && !slices.ContainsFunc(devices, func(d labtest.DeviceInfo) bool {
				return d.Gateway != want[d.Name] || d.LastHandshake == nil
			})
		})
	}
}

// TestLabNine brings up nine clients one by one: three for each gateway. Then
// it compares the first ping of clients that are steered with that of clients
// that knock where they are served.
func TestLabNine(t *testing.T) {
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := addClients(t, lab, gws[0], 9)
	for i := range clients {
		connect(t, lab, clients[i:i+1])
	}
	counts, _ := owners(t, gws, clients)
	lab.Bar(slices.Equal(counts, []int{3, 3, 3}), "nine clients one by one: 3/3/3: %v", counts)

	direct, steered := firstPings(t, lab, gws, size(5, 10))
	var table labtest.Table
	table.Row("first ping", "n", "p50", "max")
	table.Row("direct", len(direct), direct.P(.5), direct.P(1))
	table.Row("steered", len(steered), steered.P(.5), steered.P(1))
	t.Log(&table)
	ratio := float64(steered.P(.5)) / float64(direct.P(.5))
	lab.Bar(ratio <= 1.5, "first ping of a steered client ≤ 1.5 × direct: %.2f", ratio)
}

// firstPings measures first pings of new devices until it has n of each kind.
// It knocks at the gateway with the fewest sessions, which keeps the device,
// and at the one with the most, which gives it away; which of the two happened
// is read from the client.
func firstPings(t *testing.T, lab *labtest.Lab, gws []*labtest.Gateway, n int) (direct, steered labtest.Durations) {
	t.Helper()
	probe := lab.Client("probe", gws[0].AddDevice("probe").Quiet())
	probe.Up()
	for _, g := range gws { // so that no neighbour has to be looked up
		if _, err := probe.PingOnce(g.Addr, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for try := 0; len(direct) < n || len(steered) < n; try++ {
		if try == 8*n {
			t.Fatalf("%d direct and %d steered in %d tries", len(direct), len(steered), try)
		}
		conf := gws[0].AddDevice(fmt.Sprintf("new%d", try))
		lab.Observe(300 * time.Millisecond) // the others learn of it and of the load
		knock := mostLoaded(gws)
		if len(direct) < len(steered) {
			knock = leastLoaded(gws)
		}
		probe.Configure(conf.Quiet().Toward(knock.Public()))
		rtt, err := probe.PingOnce(inner, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if probe.Endpoint() == knock.Public() {
			direct = append(direct, rtt)
		} else {
			steered = append(steered, rtt)
		}
	}
	return direct, steered
}

func mostLoaded(gws []*labtest.Gateway) *labtest.Gateway  { return byLoad(gws, -1) }
func leastLoaded(gws []*labtest.Gateway) *labtest.Gateway { return byLoad(gws, 1) }

// byLoad returns the gateway with the smallest sign × sessions.
func byLoad(gws []*labtest.Gateway, sign int) *labtest.Gateway {
	sessions := make(map[string]int)
	for _, g := range gws[0].Gateways() {
		sessions[g.Name] = g.Sessions
	}
	return slices.MinFunc(gws, func(a, b *labtest.Gateway) int { return sign * (sessions[a.Name] - sessions[b.Name]) })
}
