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

	var silent, roamed time.Duration
	if build == labtest.Module || labtest.Full() {
		silent, roamed = readdress(t, lab, gws[owner[c]], c, ping)
	}

	killed := gws[owner[c]].Kill()
	lab.Eventually(recoverLimit, "an answer after the kill", func() bool { _, ok := ping.Log().FirstAfter(killed); return ok })
	lab.Observe(time.Second)
	moved, _ := ping.Log().Gap(killed, time.Now())
	log := ping.Stop()

	// Nothing of its own is IPv4: wireguard-go sends to a wrong address when it changes over.
	conf := gws[(owner[c]+1)%len(gws)].AddDevice("six")
	for i, g := range gws {
		if !g.Process.Ended() {
			addIPv6(t, g, i+1)
			conf = conf.Toward(netip.AddrPortFrom(ipv6(i+1), labtest.WireGuardPort))
		}
	}
	six := overIPv6(t, lab.ClientOf(build, "six", conf))
	var table labtest.Table
	table.Row("client", "time", "handshakes", "pings answered", "lost before", "silent at another address", "gap there",
		"gap after kill", "first answer over IPv6")
	table.Row(build, time.Since(begin), handshakes, len(log.Replies), quietly, silent, roamed, moved, six)
	t.Log(&table)
	lab.Bar(quietly == 0, "0 pings lost while nothing happens: %d", quietly)
	lab.Bar(roamed-silent <= 200*time.Millisecond, "a client that speaks at another address has an answer ≤ 200 ms later: %v", roamed-silent)
	lab.Bar(moved <= time.Second, "gap after kill -9 ≤ 1 s: %v", moved)
}

// readdress gives a client another address, and returns after how long it said
// something from there, and had an answer.
func readdress(t *testing.T, lab *labtest.Lab, g *labtest.Gateway, c *labtest.Client, ping *labtest.Ping) (silent, roamed time.Duration) {
	t.Helper()
	capture := g.Capture(labtest.WireGuardPort)
	at := time.Now()
	c.Readdress(netip.MustParsePrefix("192.0.2.251/24"))
	// The build of 2022 goes on with the address that is gone until it has heard nothing for 15 s.
	lab.Eventually(recoverLimit, "something from another address", func() bool { return capture.Flow(c.Addr, false) != labtest.Counts{} })
	silent = time.Since(at)
	lab.Eventually(recoverLimit, "an answer there", func() bool { _, ok := ping.Log().FirstAfter(at.Add(silent)); return ok })
	lab.Observe(time.Second)
	roamed, _ = ping.Log().Gap(at, time.Now())
	if now := c.Endpoint(); now != g.Public() {
		t.Errorf("%s went to %v as its own address changed", c.Name, now)
	}
	return silent, roamed
}

func addIPv6(t *testing.T, g *labtest.Gateway, n int) {
	t.Helper()
	if err := g.AddAddress("eth0", netip.PrefixFrom(ipv6(n), 64)); err != nil {
		t.Fatal(err)
	}
}

// ipv6 is the n-th address of the internet's IPv6.
func ipv6(n int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(n)}) }

// overIPv6 brings a client up that knocks at an IPv6 address, and returns after
// how long it has an answer.
func overIPv6(t *testing.T, c *labtest.Client) time.Duration {
	t.Helper()
	if err := c.AddAddress("eth0", netip.PrefixFrom(ipv6(50), 64)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	c.Up()
	for {
		_, err := c.PingOnce(inner, 200*time.Millisecond)
		if err == nil {
			break
		}
		if time.Since(begin) > recoverLimit {
			t.Fatalf("no answer over IPv6: %v", err)
		}
	}
	took := time.Since(begin)
	if at := c.Endpoint(); !at.Addr().Is6() {
		t.Errorf("%s sends to %v", c.Name, at)
	}
	return took
}

// TestLabBothFamilies pings a gateway over IPv4 and IPv6 at once.
func TestLabBothFamilies(t *testing.T) {
	patient(t)
	lab := newLab(t)
	g := lab.Gateway("gw1")
	g.Start("--name", g.Name, "--public", g.Public().String())
	g.WaitReady()
	addIPv6(t, g, 1)
	c := newCrowd(lab, g, 4)
	for i, d := range c.devices[:2] {
		if err := d.AddAddress("eth0", netip.PrefixFrom(ipv6(50+i), 64)); err != nil {
			t.Fatal(err)
		}
		d.Config = d.Config.Toward(netip.AddrPortFrom(ipv6(1), labtest.WireGuardPort))
	}
	c.up(t, 0, 10*time.Millisecond)
	begin := time.Now()
	lab.Observe(2 * time.Second)
	var table labtest.Table
	table.Row("outside", "pings answered", "lost")
	lost := 0
	for i, log := range c.stop() {
		table.Row([]string{"IPv6", "IPv4"}[i/2], len(log.Replies), log.LostSince(begin))
		lost += log.LostSince(begin)
	}
	t.Log(&table)
	lab.Bar(lost == 0, "0 pings lost with both families outside: %d", lost)
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
	for _, off := range size([]string{"", "tx"}, []string{"", "tx-udp-segmentation", "gso", "gro", "tx"}) {
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
