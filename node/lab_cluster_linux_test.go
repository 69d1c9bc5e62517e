package node_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// inner is the address that every gateway has inside the tunnel.
var inner = netip.MustParseAddr("100.64.0.1")

const (
	pingEvery = 50 * time.Millisecond
	// recoverLimit ends a test in which something never comes back. What it
	// should take is stated with Bar.
	recoverLimit = 60 * time.Second
)

// newLab makes a lab for a test that may take a while.
func newLab(t *testing.T) *labtest.Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("takes the machine for a while")
	}
	return labtest.New(t)
}

// patient is for tests that mostly wait: in the short form they wait beside
// each other.
func patient(t *testing.T) {
	if !labtest.Full() {
		t.Parallel()
	}
}

// threeGateways starts gw1, which begins a cluster, and gw2 and gw3, which
// join it, and returns when each of them sees all three.
func threeGateways(t *testing.T, lab *labtest.Lab) []*labtest.Gateway {
	t.Helper()
	gws := make([]*labtest.Gateway, 3)
	for i := range gws {
		gws[i] = lab.Gateway(fmt.Sprintf("gw%d", i+1))
	}
	first := gws[0]
	first.Start("--name", first.Name, "--public", first.Public().String())
	first.WaitReady()
	key := first.Key()
	for _, g := range gws[1:] {
		g.Start("--name", g.Name, "--public", g.Public().String(), "--key", key, "--join", first.Addr.String())
	}
	for _, g := range gws[1:] {
		g.WaitReady()
	}
	waitOneCluster(lab, gws)
	return gws
}

// waitOneCluster waits until every gateway lists all of them as alive and
// serving members of the same cluster, and returns how long that took.
func waitOneCluster(lab *labtest.Lab, gws []*labtest.Gateway) time.Duration {
	return lab.Eventually(recoverLimit, "one cluster", func() bool { return oneCluster(gws) })
}

func oneCluster(gws []*labtest.Gateway) bool {
	clusters := make(map[string]bool)
	for _, g := range gws {
		var status labtest.StatusInfo
		var members []labtest.GatewayInfo
		if g.TryJSON(&status, "status") != nil || g.TryJSON(&members, "gateway", "list") != nil {
			return false
		}
		ids := make(map[string]bool)
		for _, m := range members {
			if m.State == "alive" && m.Serving {
				ids[m.ID] = true
			}
		}
		if len(ids) != len(gws) || !status.Ready || status.Gateways != len(gws) {
			return false
		}
		clusters[status.Cluster] = true
	}
	return len(clusters) == 1
}

// addClients makes n stock clients, all with the configuration that gateway g
// printed for them, down.
func addClients(t *testing.T, lab *labtest.Lab, g *labtest.Gateway, n int) []*labtest.Client {
	t.Helper()
	clients := make([]*labtest.Client, n)
	for i := range clients {
		name := fmt.Sprintf("device%d", i+1)
		conf := g.AddDevice(name)
		if got, want := conf.Peers[0].Endpoint, g.Public().String(); got != want {
			t.Fatalf("endpoint of %s: %s, want that of the gateway asked, %s", name, got, want)
		}
		clients[i] = lab.Client(name, conf)
	}
	return clients
}

// connect brings clients up and waits until each has an answer through its
// tunnel.
func connect(t *testing.T, lab *labtest.Lab, clients []*labtest.Client) {
	t.Helper()
	for _, c := range clients {
		c.Up()
	}
	for _, c := range clients {
		lab.Eventually(recoverLimit, c.Name+" is connected", func() bool {
			_, err := c.PingOnce(inner, time.Second)
			return err == nil
		})
	}
}

// owners counts, for each gateway, the clients that send to it by wg show. An
// endpoint that is no gateway's fails the test.
func owners(t *testing.T, gws []*labtest.Gateway, clients []*labtest.Client) (counts []int, owner map[*labtest.Client]int) {
	t.Helper()
	counts, owner = make([]int, len(gws)), make(map[*labtest.Client]int)
	for _, c := range clients {
		endpoint := c.Endpoint()
		i := slices.IndexFunc(gws, func(g *labtest.Gateway) bool { return g.Public() == endpoint })
		if i < 0 {
			t.Fatalf("%s sends to %v, which is no gateway", c.Name, endpoint)
		}
		counts[i]++
		owner[c] = i
	}
	return counts, owner
}

// largest returns the index of the largest count.
func largest(counts []int) int { return slices.Index(counts, slices.Max(counts)) }

// pings runs one ping on each client.
type pings struct {
	lab     *labtest.Lab
	clients []*labtest.Client
	running []*labtest.Ping
}

// startPings pings the gateways' inner address from every client, and waits
// until each has had some answers. The pings are out of step with each other
// and, when it returns, with the test: else all would ask at the same moment
// after a kill.
func startPings(lab *labtest.Lab, clients []*labtest.Client) *pings {
	p := &pings{lab, clients, nil}
	for _, c := range clients {
		p.running = append(p.running, c.Ping(inner, pingEvery))
		lab.Observe(rand.N(pingEvery))
	}
	for i, ping := range p.running {
		lab.Eventually(recoverLimit, clients[i].Name+" has answers", func() bool { return len(ping.Log().Replies) >= 5 })
	}
	lab.Observe(rand.N(2 * pingEvery))
	return p
}

// waitBack waits until each of the clients that are wanted has an answer to
// what it asked after t, and returns after how long each had it.
func (p *pings) waitBack(t time.Time, wanted func(*labtest.Client) bool) (took labtest.Durations) {
	for i, c := range p.clients {
		if !wanted(c) {
			continue
		}
		p.lab.Eventually(recoverLimit, c.Name+" is back", func() bool {
			at, ok := p.running[i].Log().FirstAfter(t)
			if ok {
				took = append(took, at.Sub(t))
			}
			return ok
		})
	}
	return took
}

// stop ends the pings and returns what each saw.
func (p *pings) stop() []labtest.PingLog {
	logs := make([]labtest.PingLog, len(p.running))
	for i, ping := range p.running {
		logs[i] = ping.Stop()
	}
	return logs
}

// enrolled returns what must survive anything of the devices that a gateway
// lists, in order of their keys.
func enrolled(g *labtest.Gateway) []labtest.DeviceInfo {
	list := g.Devices()
	for i, d := range list {
		list[i] = labtest.DeviceInfo{Name: d.Name, ID: d.ID, Addresses: d.Addresses, Enabled: d.Enabled}
	}
	slices.SortFunc(list, func(a, b labtest.DeviceInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// authFailures returns the packets that did not authenticate at the gateways,
// and whether they say so.
func authFailures(gws []*labtest.Gateway) (n uint64, known bool) {
	for _, g := range gws {
		status := g.Status()
		if status.AuthFailures == nil {
			return 0, false
		}
		n += *status.AuthFailures
	}
	return n, true
}

// size chooses between the short and the long form of a test.
func size[T any](short, long T) T {
	if labtest.Full() {
		return long
	}
	return short
}
