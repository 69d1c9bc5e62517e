package node_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabStock takes each build of the stock client through its life: steered
// or not, a new address of its own, IPv6 outside, the death of its gateway, and
// in the long form two changes of keys.
func TestLabStock(t *testing.T) {
	for _, build := range []labtest.Stock{labtest.Module, labtest.Debian} {
		t.Run(string(build), func(t *testing.T) {
			patient(t)
			lab := newLab(t)
			if _, err := build.Path(); errors.Is(err, labtest.ErrNoStock) {
				t.Skip(err)
			}
			stockLife(t, lab, build)
		})
	}
}

func stockLife(t *testing.T, lab *labtest.Lab, build labtest.Stock) {
	gws := threeGateways(t, lab)
	clients := make([]*labtest.Client, 3)
	for i, name := range []string{"one", "two", "three"} {
		clients[i] = lab.ClientOf(build, name, gws[0].AddDevice(name))
	}
	connect(t, lab, clients)
	counts, owner := owners(t, gws, clients)
	if counts[0] == len(clients) {
		t.Errorf("no client was steered: %v", counts)
	}
	c := clients[0]
	begin := time.Now()
	ping := c.Ping(inner, pingEvery)
	lab.Eventually(recoverLimit, "answers", func() bool { return len(ping.Log().Replies) >= 5 })

	// Keys are changed before anything else happens to them.
	handshakes := 0
	if labtest.Full() {
		handshakes = <-watchHandshakes(lab, c, 250*time.Second)
		if handshakes < 3 {
			t.Errorf("%d handshakes in 250 s", handshakes)
		}
	}
	quietly := len(ping.Log().Lost)

	roam := time.Now()
	c.Readdress(netip.MustParsePrefix("192.0.2.251/24"))
	lab.Eventually(recoverLimit, "an answer at another address", func() bool { _, ok := ping.Log().FirstAfter(roam); return ok })
	lab.Observe(time.Second)
	roamed, _ := ping.Log().Gap(roam, time.Now())
	if now := c.Endpoint(); now != gws[owner[c]].Public() {
		t.Errorf("%s went to %v as its own address changed", c.Name, now)
	}

	killed := gws[owner[c]].Kill()
	lab.Eventually(recoverLimit, "an answer after the kill", func() bool { _, ok := ping.Log().FirstAfter(killed); return ok })
	lab.Observe(time.Second)
	moved, _ := ping.Log().Gap(killed, time.Now())
	log := ping.Stop()

	six, err := overIPv6(lab, gws[(owner[c]+1)%3], c)
	if err != nil {
		t.Error(err)
	}
	var table labtest.Table
	table.Row("client", "time", "handshakes", "pings answered", "lost before", "gap with another address", "gap after kill", "first answer over IPv6")
	table.Row(build, time.Since(begin), handshakes, len(log.Replies), quietly, roamed, moved, six)
	t.Log(&table)
	lab.Bar(quietly == 0, "0 pings lost while nothing happens: %d", quietly)
	lab.Bar(roamed <= 200*time.Millisecond, "a client at another address has an answer ≤ 200 ms later: %v", roamed)
	lab.Bar(moved <= time.Second, "gap after kill -9 ≤ 1 s: %v", moved)
}

// overIPv6 lets a client reach a gateway at an IPv6 address, and returns after
// how long it has an answer.
func overIPv6(lab *labtest.Lab, g *labtest.Gateway, c *labtest.Client) (time.Duration, error) {
	at := netip.MustParsePrefix("2001:db8::1/64")
	err := errors.Join(g.AddAddress("eth0", at), c.AddAddress("eth0", netip.MustParsePrefix("2001:db8::50/64")))
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	to := netip.AddrPortFrom(at.Addr(), labtest.WireGuardPort)
	if err := c.TryConfigure(c.Config.Toward(to)); err != nil {
		return 0, err
	}
	for {
		_, err := c.PingOnce(inner, time.Second)
		if err == nil {
			return time.Since(begin), nil
		}
		if time.Since(begin) > recoverLimit {
			return 0, err
		}
	}
}

// TestLabOffload takes from a gateway's network card, under its feet, what
// sending many messages at once relies on. The streams go on.
func TestLabOffload(t *testing.T) {
	patient(t)
	lab := newLab(t)
	g := lab.Gateway("gw1")
	g.Start("--name", g.Name, "--public", g.Public().String())
	g.WaitReady()
	host := lab.Host("host")
	c := addClients(t, lab, g, 1)[0]
	connect(t, lab, []*labtest.Client{c})

	var table labtest.Table
	table.Row("off", "down Mb/s", "retransmits", "up Mb/s", "retransmits")
	for _, off := range []string{"", "tx-udp-segmentation", "gso", "gro", "tx"} {
		if off != "" {
			if _, err := g.Try("", "ethtool", "-K", "eth0", off, "off"); err != nil {
				t.Logf("%s cannot be taken here: %v", off, err)
				continue
			}
		}
		down, err := c.Stream(host, size(time.Second, 5*time.Second), "-R")
		if err != nil {
			t.Fatalf("%s off: %v", off, err)
		}
		up, err := c.Stream(host, size(time.Second, 5*time.Second))
		if err != nil {
			t.Fatalf("%s off: %v", off, err)
		}
		table.Row(strings.TrimSpace(off+" "), int(down.Bits/1e6), down.Retransmits, int(up.Bits/1e6), up.Retransmits)
		if min(down.Bytes, up.Bytes) < 1<<20 {
			t.Errorf("%s off: %d bytes down, %d up", off, down.Bytes, up.Bytes)
		}
	}
	t.Log(&table)
	n, known := authFailures([]*labtest.Gateway{g})
	lab.Bar(known && n == 0, "0 packets fail authentication: %d", n)
}
