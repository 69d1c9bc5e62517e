package vpn_test

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

func TestTakeover(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.gateway("192.0.2.1")
		b := w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		session, _ := a.session(c.key)
		a.kill()
		if c.Ping(inner4, time.Second) {
			t.Fatal("a dead gateway answers")
		}
		b.Initiate(c.key, session.Endpoint)
		time.Sleep(10 * time.Millisecond)
		c.ping(t)
		if s := c.Peer(t); s.Endpoint != b.addr {
			t.Errorf("device sends to %v", s.Endpoint)
		}
		if lost := c.pings(600); lost != 0 {
			t.Errorf("%d pings lost", lost)
		}
		if n := w.count(a.addr.Addr(), 1) + w.count(a.addr.Addr(), 4); n != 0 {
			t.Errorf("the dead gateway sent %d messages", n)
		}
		b.quiet(t)
	})
}

func TestTakeoverIsNotDelayedByOwnEarlierAttempts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		time.Sleep(time.Second)
		for i := range 10 { // back and forth, faster than RekeyTimeout
			to, from := a, b
			if i%2 == 0 {
				to, from = b, a
			}
			from.Drop(c.key)
			to.takeover(c)
			c.ping(t)
			if s := c.Peer(t); s.Endpoint != to.addr {
				t.Fatalf("%d: device sends to %v", i, s.Endpoint)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestTakeoverKeepsInitiatingAndGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, netip.AddrPort{})
		w.net.Down(c.addr.Addr(), true)
		begin := time.Now()
		g.Initiate(c.key, c.addr)
		time.Sleep(10 * time.Millisecond)
		g.Initiate(c.key, c.addr) // changes nothing
		time.Sleep(2 * time.Minute)
		if n := w.count(g.addr.Addr(), 1); n != 19 { // one and 18 retransmissions
			t.Errorf("%d initiations", n)
		}
		sent := g.happened(vpn.Sent)
		for i := 1; i < len(sent); i++ {
			if d := sent[i].At.Sub(sent[i-1].At); d < vpn.RekeyTimeout || d > vpn.RekeyTimeout+334*time.Millisecond {
				t.Errorf("retransmitted after %v", d)
			}
			if slices.Compare(sent[i].Sent[:], sent[i-1].Sent[:]) <= 0 {
				t.Errorf("timestamp %x is not after %x", sent[i].Sent, sent[i-1].Sent)
			}
		}
		gone := g.happened(vpn.Gone)
		if len(gone) != 1 || gone[0].Dropped || !gone[0].Initiator || gone[0].At.Sub(begin) < vpn.RekeyAttemptTime || len(g.Sessions()) != 0 {
			t.Errorf("gone: %+v", gone)
		}
		if s := g.Stats(); s.GivenUp != 1 || s.Confirmed != 0 {
			t.Errorf("%+v", s)
		}
		w.net.Down(c.addr.Addr(), false)
		g.Initiate(c.key, c.addr)
		c.ping(t)
	})
}

func TestTakeoverOfUnknownDevice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		_, stranger := vpntest.NewKey()
		g.Initiate(stranger, netip.MustParseAddrPort("203.0.113.1:1"))
		w.enrol(vpn.Device{}) // the zero point is of low order
		g.Initiate(vpn.Key{}, netip.MustParseAddrPort("203.0.113.1:1"))
		g.Initiate(stranger, netip.AddrPort{})
		time.Sleep(10 * time.Millisecond)
		if s := g.Stats(); s.UnknownDevice != 1 || s.InitiationsSent != 0 || s.RequestsDropped != 1 || len(g.Sessions()) != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestClockBehindDelaysNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		fast := func(cfg *vpn.Config) { cfg.Now = func() time.Time { return time.Now().Add(30 * time.Second) } }
		a, b := w.gateway("192.0.2.1", fast), w.gateway("192.0.2.2")
		c := w.client(1, netip.AddrPort{})
		a.takeover(c)
		c.ping(t)
		sent := a.happened(vpn.Sent)[0].Sent
		a.kill()

		time.Sleep(time.Second)
		b.Initiate(c.key, c.addr) // unaware of what a has sent: the device refuses it as a replay
		time.Sleep(time.Second)
		if s, _ := b.session(c.key); s.Confirmed {
			t.Fatal("the device accepted an old timestamp")
		}
		b.Drop(c.key)

		d, _ := w.lookup(c.key)
		d.Sent = sent
		w.enrol(d)
		b.takeover(c)
		c.ping(t)
		if got := b.happened(vpn.Confirmed)[0].Sent; slices.Compare(got[:], sent[:]) <= 0 {
			t.Errorf("sent %x after %x", got, sent)
		}
	})
}

func TestSteering(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.gateway("192.0.2.2", func(cfg *vpn.Config) {
			cfg.Steer = func(vpn.Key, netip.AddrPort, []byte) bool {
				t.Error("an injected initiation was steered again")
				return true
			}
		})
		asked := make(chan netip.AddrPort, 10)
		a := w.gateway("192.0.2.1", func(cfg *vpn.Config) {
			cfg.Steer = func(_ vpn.Key, from netip.AddrPort, initiation []byte) bool {
				asked <- from
				b.Inject(initiation, from)
				clear(initiation) // Inject has copied it
				return false
			}
		})
		c := w.client(1, a.addr)
		c.ping(t)
		if s := c.Peer(t); s.Endpoint != b.addr {
			t.Errorf("device sends to %v", s.Endpoint)
		}
		host := a.addr.Addr()
		if n := len(w.messages(host, 1)) + len(w.messages(host, 2)) + w.dataFrom(host); n != 0 {
			t.Errorf("the steering gateway sent %d messages", n)
		}
		if len(a.Sessions()) != 0 || a.Count() != 0 || len(a.happened(vpn.Answered)) != 0 {
			t.Errorf("the steering gateway has a session")
		}
		if len(asked) != 1 || <-asked != c.addr {
			t.Errorf("asked %d times more", len(asked))
		}
		if s := a.Stats(); s.InitiationsSteered != 1 || s.RxPackets != 0 {
			t.Errorf("%+v", s)
		}
		if e := b.happened(vpn.Confirmed); len(e) != 1 || e[0].Endpoint != c.addr || b.Stats().InitiationsInjected != 1 {
			t.Errorf("confirmed: %+v", e)
		}
		b.quiet(t)
	})
}

func TestUnknownDevicesAreNotSteered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1", func(cfg *vpn.Config) {
			cfg.Steer = func(vpn.Key, netip.AddrPort, []byte) bool {
				t.Error("asked where to steer a stranger")
				return true
			}
		})
		c := w.client(1, netip.AddrPort{})
		w.remove(c.key)
		c.SetEndpoint(t, g.addr)
		if c.Ping(inner4, 20*time.Second) {
			t.Error("a stranger is served")
		}
		if s := g.Stats(); s.UnknownDevice == 0 || len(g.Sessions()) != 0 || s.ResponsesSent != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestReplayedInitiationIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		initiation := w.messages(c.addr.Addr(), 1)[0].Payload
		attacker := netip.MustParseAddrPort("198.51.100.66:666")
		responses := w.count(g.addr.Addr(), 2)
		for range 3 {
			time.Sleep(time.Second)
			w.net.Send(attacker, g.addr, initiation)
		}
		// After the session is gone, what the cluster remembers counts.
		d, _ := w.lookup(c.key)
		d.Received = g.happened(vpn.Confirmed)[0].Received
		w.enrol(d)
		g.Drop(c.key)
		w.net.Send(attacker, g.addr, initiation)
		time.Sleep(10 * time.Millisecond)
		if s := g.Stats(); s.StaleTimestamp != 4 || len(g.Sessions()) != 0 {
			t.Errorf("%+v", s)
		}
		if n := w.count(g.addr.Addr(), 2); n != responses {
			t.Errorf("%d responses to replays", n-responses)
		}
	})
}

func TestUnconfirmedAddressIsOnlyACandidate(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		initiation := w.messages(c.addr.Addr(), 1)[0].Payload
		a.kill()
		b.takeover(c) // b has never heard of the device's timestamps
		c.ping(t)

		attacker := netip.MustParseAddrPort("198.51.100.66:666")
		var diverted atomic.Int64
		w.net.Tap(func(d vpntest.Datagram) {
			if d.To == attacker && d.Type() == 4 {
				diverted.Add(1)
			}
		})
		before := c.Received()
		w.net.Send(attacker, b.addr, initiation)
		time.Sleep(10 * time.Millisecond)
		if e := b.happened(vpn.Answered); len(e) != 1 || e[0].Endpoint != attacker {
			t.Fatalf("answered: %+v", e)
		}
		for range 100 { // the device only listens
			b.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 100)))
			time.Sleep(100 * time.Millisecond)
		}
		if n := c.Received() - before; n != 100 || diverted.Load() != 0 {
			t.Errorf("%d of 100 packets came, %d were diverted", n, diverted.Load())
		}
		if s, _ := b.session(c.key); s.Endpoint != c.addr || len(b.happened(vpn.Roamed)) != 0 {
			t.Errorf("session: %+v", s)
		}
		c.ping(t)
		if n := len(b.happened(vpn.Confirmed)); n != 1 {
			t.Errorf("%d confirmations", n)
		}
	})
}

func TestCandidateWithoutSessionLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		b.Inject(w.messages(c.addr.Addr(), 1)[0].Payload, netip.MustParseAddrPort("198.51.100.66:666"))
		time.Sleep(10 * time.Millisecond)
		b.tun.Inject(vpntest.EchoRequest(inner4, c.ip4, 1, 1, nil))
		time.Sleep(10 * time.Millisecond)
		if s, ok := b.session(c.key); !ok || s.Confirmed || s.Endpoint.IsValid() || b.Count() != 0 {
			t.Errorf("session: %+v", s)
		}
		if s := b.Stats(); s.NoSession != 1 || s.InitiationsSent != 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(vpn.RejectAfterTime + time.Second)
		if len(b.Sessions()) != 0 || len(b.happened(vpn.Gone)) != 0 || len(b.happened(vpn.Confirmed)) != 0 {
			t.Errorf("sessions %v, events %+v", b.Sessions(), b.happened(vpn.Gone))
		}
		c.ping(t)
	})
}

func TestFence(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		i := w.client(2, netip.AddrPort{})
		host := g.addr.Addr()
		left := func() int { return w.count(host, 1) + w.count(host, 2) + w.dataFrom(host) }

		g.Allow(time.Time{})
		if c.Ping(inner4, 7*time.Second) || left() != 0 {
			t.Fatalf("%d messages left before the fence was opened", left())
		}
		if s := g.Stats(); s.Fenced == 0 || s.StaleTimestamp != 0 || len(g.Sessions()) != 0 {
			t.Errorf("%+v", s)
		}
		g.Initiate(i.key, i.addr)
		time.Sleep(2 * time.Second)
		if left() != 0 {
			t.Fatalf("%d messages left before the fence was opened", left())
		}

		g.Allow(time.Now().Add(10 * time.Second))
		time.Sleep(time.Second)
		if s, _ := g.session(i.key); !s.Confirmed {
			t.Error("the initiation that was held back was not sent")
		}
		time.Sleep(5 * time.Second)
		c.ping(t)

		time.Sleep(10 * time.Second) // the deadline has passed
		before := left()
		if c.Ping(inner4, time.Second) || g.reach(i, time.Second) || left() != before {
			t.Errorf("%d messages left after the deadline", left()-before)
		}
		g.Initiate(c.key, c.addr)
		time.Sleep(2 * time.Minute)
		if left() != before || g.Stats().GivenUp != 0 {
			t.Errorf("%d messages left after the deadline", left()-before)
		}
		g.Allow(time.Now().Add(time.Hour))
		time.Sleep(time.Second)
		if n := w.count(host, 1); n != 2 { // one for each device
			t.Errorf("%d initiations", n)
		}
		c.ping(t)
		i.ping(t)
	})
}

func TestFenceBetweenResponseAndFirstPacket(t *testing.T) {
	// A device may not send before it has heard a transport packet from the initiator; a fence that is closed just then
	// only delays it.
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, netip.AddrPort{})
		w.net.SetFaults(vpntest.Faults{Latency: 50 * time.Millisecond})
		g.Initiate(c.key, c.addr)
		time.Sleep(75 * time.Millisecond)
		g.Allow(time.Time{})
		time.Sleep(3 * time.Second)
		if s, _ := g.session(c.key); !s.Confirmed || w.dataFrom(g.addr.Addr()) != 0 {
			t.Fatalf("session: %+v", s)
		}
		g.Allow(time.Now().Add(time.Hour))
		time.Sleep(time.Second)
		if n := w.dataFrom(g.addr.Addr()); n != 1 {
			t.Errorf("%d messages left", n)
		}
		c.ping(t)
	})
}

func TestDrop(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		g.Drop(c.key)
		g.Drop(c.key)
		gone := g.happened(vpn.Gone)
		if len(gone) != 1 || !gone[0].Dropped || gone[0].Endpoint != c.addr || gone[0].Received == (vpn.Timestamp{}) || len(g.Sessions()) != 0 || g.Count() != 0 {
			t.Errorf("gone: %+v", gone)
		}
		var came atomic.Bool
		handle := g.tun.Handle(func([]byte) { came.Store(true) })
		before := w.dataFrom(g.addr.Addr())
		if c.Ping(inner4, time.Second) || came.Load() || g.Stats().UnknownIndex != 1 {
			t.Errorf("a late packet was accepted: %+v", g.Stats())
		}
		g.tun.Inject(vpntest.EchoRequest(inner4, c.ip4, 1, 1, nil))
		time.Sleep(14 * time.Second)
		if n := w.dataFrom(g.addr.Addr()); n != before || g.Stats().NoSession != 1 {
			t.Errorf("%d messages left", n-before)
		}
		g.tun.Handle(handle)
		time.Sleep(6 * time.Second) // the device has not been answered for 15 s
		c.ping(t)
	})
}

func TestRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c, other := w.client(1, g.addr), w.client(2, g.addr)
		c.ping(t)
		other.ping(t)

		// Changed addresses count at once.
		d, _ := w.lookup(c.key)
		d.Addresses = []netip.Prefix{netip.MustParsePrefix("fd00::1:1/128"), netip.MustParsePrefix("10.9.0.0/16")}
		w.enrol(d)
		g.Refresh(c.key)
		if c.Ping(inner4, time.Second) || !c.Ping(inner6, time.Second) {
			t.Error("old address is served or new one is not")
		}
		if s := g.Stats(); s.BadSource != 1 {
			t.Errorf("%+v", s)
		}
		before := c.Received()
		g.tun.Inject(vpntest.Packet(inner4, netip.MustParseAddr("10.9.8.7"), 17, make([]byte, 8)))
		g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 8)))
		time.Sleep(time.Second)
		if n := c.Received() - before; n != 1 || g.Stats().NoSession != 1 {
			t.Errorf("%d packets came", n)
		}

		// A changed preshared key counts at the next handshake.
		d.PresharedKey, _ = vpntest.NewKey()
		w.enrol(d)
		g.Refresh()
		if !c.Ping(inner6, time.Second) {
			t.Error("the session did not survive a new preshared key")
		}
		time.Sleep(3 * time.Minute)
		if c.Ping(inner6, 7*time.Second) {
			t.Error("a handshake with the old preshared key succeeded")
		}

		// A removed or disabled device is dropped at once.
		w.remove(other.key)
		g.Refresh(other.key, c.key)
		if other.Ping(inner4, 20*time.Second) {
			t.Error("a removed device is served")
		}
		if gone := g.happened(vpn.Gone); len(gone) != 1 || gone[0].Device != other.key || !gone[0].Dropped {
			t.Errorf("gone: %+v", gone)
		}
		w.remove(c.key)
		g.Refresh()
		if len(g.Sessions()) != 0 {
			t.Errorf("sessions: %+v", g.Sessions())
		}
	})
}

func TestSpoofedInnerSource(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c, victim := w.client(1, g.addr), w.client(2, g.addr)
		c.ping(t)
		victim.ping(t)
		for _, src := range []netip.Addr{victim.ip4, inner4, netip.MustParseAddr("8.8.8.8"), victim.ip6, netip.MustParseAddr("::ffff:10.0.0.1")} {
			dst := inner4
			if src.Is6() {
				dst = inner6
			}
			c.TUN.Inject(vpntest.EchoRequest(src, dst, 1, 1, nil))
		}
		time.Sleep(time.Second)
		if s := g.Stats(); s.BadSource != 4 || s.BadPacket != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestRestartedGatewayIsFoundAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		g.kill()
		g = w.gateway("192.0.2.1")
		if c.Ping(inner4, time.Second) {
			t.Error("served under keys of the gateway's earlier life")
		}
		time.Sleep(20 * time.Second) // nothing heard for 15 s: the device begins again
		c.ping(t)
		if g.Stats().UnknownIndex == 0 {
			t.Errorf("%+v", g.Stats())
		}
	})
}

func TestRestartedClientIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		var cfg vpntest.ClientConfig
		c := w.client(1, g.addr, func(c *vpntest.ClientConfig, _ *vpn.Device) { cfg = *c })
		c.ping(t)
		c.Close()
		time.Sleep(time.Second)
		cfg.Bind = w.net.Bind(c.addr.Addr())
		c.Client = vpntest.NewClient(t, cfg)
		c.ping(t)
		if n := len(g.happened(vpn.Confirmed)); n != 2 {
			t.Errorf("%d confirmations", n)
		}
	})
}
