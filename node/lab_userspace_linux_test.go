package node_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabUserspace runs three gateways without privileges as processes of one
// machine. Stock clients reach a TCP server through them, steered and after a
// kill.
func TestLabUserspace(t *testing.T) {
	const nobody = 65534
	lab := newLab(t)
	machine := lab.Node("machine", labtest.Internet, 1)
	server := netip.MustParseAddrPort("203.0.113.9:7")
	if err := machine.AddAddress("lo", netip.PrefixFrom(server.Addr(), 32)); err != nil {
		t.Fatal(err)
	}
	machine.Echo(server)

	var gws []*labtest.Gateway
	public := func(i int) netip.AddrPort { return netip.AddrPortFrom(machine.Addr, uint16(51821+i)) }
	mesh := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", 7946+i) }
	for i := range 3 {
		g := machine.Gateway(fmt.Sprintf("gw%d", i+1), nobody)
		flags := []string{"--name", g.Name, "--listen", fmt.Sprintf(":%d", public(i).Port()), "--public", public(i).String(), "--mesh", mesh(i)}
		if i > 0 {
			flags = append(flags, "--key", gws[0].Key(), "--join", mesh(0))
		}
		g.Start(flags...)
		g.WaitReady()
		gws = append(gws, g)
	}
	waitOneCluster(lab, gws)
	for _, g := range gws {
		if plane := g.Status().Dataplane; plane != "userspace" {
			t.Errorf("%s: data plane %q without privileges", g.Name, plane)
		}
	}

	var table labtest.Table
	table.Row("client", "first answer", "served by", "answered after the kill (in turn)")
	owner := func(c *labtest.Client) int {
		return slices.IndexFunc([]int{0, 1, 2}, func(i int) bool { return public(i) == c.Endpoint() })
	}
	var clients []*labtest.Client
	first := make(map[*labtest.Client]time.Duration)
	for i := range 3 {
		c := lab.Client(fmt.Sprintf("device%d", i+1), gws[0].AddDevice(fmt.Sprintf("device%d", i+1)))
		c.Up()
		begin := time.Now()
		waitAnswer(lab, c, server)
		first[c] = time.Since(begin)
		clients = append(clients, c)
	}
	victim := -1
	served := make(map[*labtest.Client]int)
	for _, c := range clients {
		if served[c] = owner(c); served[c] > 0 {
			victim = served[c]
		}
	}
	if victim < 0 {
		t.Fatal("no client was steered away from gateway 1")
	}
	// Those that lose their gateway are asked first.
	slices.SortStableFunc(clients, func(a, b *labtest.Client) int {
		switch {
		case served[a] == victim && served[b] != victim:
			return -1
		case served[b] == victim && served[a] != victim:
			return 1
		}
		return 0
	})
	at := gws[victim].Kill()
	var back labtest.Durations
	for _, c := range clients {
		waitAnswer(lab, c, server)
		took := time.Since(at)
		table.Row(c.Name, first[c], gws[served[c]].Name, took)
		if served[c] != victim {
			continue
		}
		back = append(back, took)
		if now := owner(c); now < 0 || now == victim {
			t.Errorf("%s is served by %d after the kill of %d", c.Name, now, victim)
		}
	}
	t.Log(&table)
	lab.Bar(back.P(1) <= time.Second, "a TCP server answers ≤ 1 s after the kill of the gateway on the way: %v", back)
}

// waitAnswer opens connections to an echo until one is answered. It gives each
// little time, for a SYN that is lost is sent again only after a second.
func waitAnswer(lab *labtest.Lab, c *labtest.Client, server netip.AddrPort) {
	lab.Eventually(recoverLimit, c.Name+" reaches the server", func() bool {
		_, err := c.Ask(server, 100*time.Millisecond)
		return err == nil
	})
}
