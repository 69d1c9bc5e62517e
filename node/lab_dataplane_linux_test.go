package node_test

import (
	"strings"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabInterface takes the interface from a gateway as an administrator or a network manager may: deleted, then set
// down. It is made anew and the clients go on under the keys that they have. A process behind the gateway learns of a
// device that is not there.
func TestLabInterface(t *testing.T) {
	lab := newLab(t)
	g := lab.Gateway("gw1")
	g.Start("--name", g.Name, "--public", g.Public().String(), "--dataplane", "tun")
	g.WaitReady()
	host := g.Run("nft", "list", "ruleset")
	clients := addClients(t, lab, g, 3)
	connect(t, lab, clients)
	lab.Observe(6 * time.Second) // without latency the stock client shakes hands once more after 5 s
	for _, args := range [][]string{{"ip", "link", "del", "gatemesh0"}, {"ip", "link", "set", "gatemesh0", "down"}} {
		p := startPings(lab, clients)
		at := time.Now()
		g.Run(args...)
		p.waitBack(at, func(*labtest.Client) bool { return true })
		lab.Observe(2 * time.Second)
		end := time.Now()
		for i, log := range p.stop() {
			gap, _ := log.Gap(at, end)
			t.Logf("%s: client %d silent for %v", strings.Join(args, " "), i, gap)
			lab.Bar(gap <= 3*time.Second, "gap when the interface is taken away ≤ 3 s: %v", gap)
			if last := clients[i].Peer().LastHandshake; last.After(at) {
				t.Errorf("client %d shook hands %v after the interface was taken away", i, last.Sub(at))
			}
		}
		if now := g.Run("nft", "list", "ruleset"); now != host {
			t.Errorf("rules of the host are\n%s\nwere\n%s", now, host)
		}
	}
	config := g.AddDevice("absent")
	out, err := g.Try("", "ping", "-c", "1", "-W", "2", config.Addresses[0].Addr().String())
	if err == nil || !strings.Contains(out, "Unreachable") {
		t.Errorf("ping of an absent device: %v\n%s", err, out)
	}
	g.Stop()
}
