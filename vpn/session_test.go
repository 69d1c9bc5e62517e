package vpn_test

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

func TestStockClientIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		confirmed := g.happened(vpn.Confirmed)
		if len(confirmed) != 1 || confirmed[0].Device != c.key || confirmed[0].Endpoint != c.addr || confirmed[0].Initiator || confirmed[0].Received == (vpn.Timestamp{}) {
			t.Fatalf("confirmed: %+v", confirmed)
		}
		s, ok := g.session(c.key)
		if !ok || !s.Confirmed || s.Endpoint != c.addr || s.Initiator || time.Since(s.Handshake) > 10*time.Millisecond || g.Count() != 1 {
			t.Errorf("session: %+v, %v", s, ok)
		}
		if state := c.Peer(t); s.RxBytes != state.TxBytes || s.TxBytes != state.RxBytes {
			t.Errorf("gateway counts %d/%d bytes, device %d/%d", s.RxBytes, s.TxBytes, state.TxBytes, state.RxBytes)
		}
		g.quiet(t)
	})
}

func TestGatewayInitiates(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, netip.AddrPort{})
		g.takeover(c)
		if confirmed := g.happened(vpn.Confirmed); len(confirmed) != 1 || !confirmed[0].Initiator || confirmed[0].Sent == (vpn.Timestamp{}) {
			t.Fatalf("confirmed: %+v", confirmed)
		}
		if sent := g.happened(vpn.Sent); len(sent) != 1 || sent[0].Sent != g.happened(vpn.Confirmed)[0].Sent || sent[0].Endpoint != c.addr {
			t.Errorf("sent: %+v", sent)
		}
		if !g.reach(c, time.Second) {
			t.Error("the device does not answer")
		}
		c.ping(t)
		g.quiet(t)
	})
}

func TestHalfAnHourLosesNothing(t *testing.T) {
	for _, initiator := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			g := w.gateway("192.0.2.1")
			c := w.client(1, netip.AddrPort{})
			if initiator {
				g.Initiate(c.key, c.addr)
			} else {
				c.SetEndpoint(t, g.addr)
			}
			c.ping(t)
			if lost := c.pings(1800); lost != 0 {
				t.Errorf("%d pings lost", lost)
			}
			if n := len(g.happened(vpn.Confirmed)); n < 14 || n > 16 {
				t.Errorf("%d handshakes in 30 minutes", n)
			}
			if gone := g.happened(vpn.Gone); len(gone) != 0 {
				t.Errorf("gone: %+v", gone)
			}
			g.quiet(t)
		})
	}
}

func TestOneWayTrafficLosesNothing(t *testing.T) {
	// The network sends and the device only answers with keepalives, and the other way round; whoever began the
	// session renews it.
	for _, initiator := range []bool{false, true} {
		for _, down := range []bool{false, true} {
			bubble(t, func(t *testing.T, w *world) {
				g := w.gateway("192.0.2.1")
				c := w.client(1, g.addr)
				c.ping(t)
				if initiator {
					time.Sleep(6 * time.Second)
					g.Initiate(c.key, c.addr)
				}
				before := c.Received()
				var up atomic.Int64
				g.tun.Handle(func([]byte) { up.Add(1) })
				const n = 400
				for range n {
					if down {
						g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 100)))
					} else {
						c.TUN.Inject(vpntest.Packet(c.ip4, inner4, 17, make([]byte, 100)))
					}
					time.Sleep(time.Second)
				}
				came := int(up.Load())
				if down {
					came = c.Received() - before
				}
				if came != n {
					t.Errorf("initiator %v, down %v: %d of %d came", initiator, down, came, n)
				}
				g.quiet(t)
			})
		}
	}
}

func TestIdleThenTraffic(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		for _, idle := range []time.Duration{15 * time.Second, 2 * time.Minute, 3 * time.Minute, 8 * time.Minute, time.Hour} {
			time.Sleep(idle)
			if !c.Ping(inner4, time.Second) {
				t.Errorf("no reply after %v", idle)
			}
		}
	})
}

func TestPersistentKeepaliveKeepsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr, func(cfg *vpntest.ClientConfig, _ *vpn.Device) { cfg.Keepalive = 25 })
		time.Sleep(time.Hour)
		if g.Count() != 1 || len(g.happened(vpn.Gone)) != 0 {
			t.Errorf("count %d, gone %v", g.Count(), g.happened(vpn.Gone))
		}
		if !g.reach(c, time.Second) {
			t.Error("the device does not answer")
		}
		g.quiet(t)
	})
}

func TestQuietSessionEndsWithItsKeys(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		time.Sleep(vpn.RejectAfterTime - time.Second)
		if s, _ := g.session(c.key); !s.Confirmed || g.Count() != 1 {
			t.Errorf("before the keys expire: %+v, %d", s, g.Count())
		}
		time.Sleep(2 * time.Second)
		if s, ok := g.session(c.key); !ok || s.Confirmed || g.Count() != 0 {
			t.Errorf("after the keys have expired: %+v, %v, %d", s, ok, g.Count())
		}
		time.Sleep(2*vpn.RejectAfterTime - 2*time.Second)
		if _, ok := g.session(c.key); !ok {
			t.Error("the address was forgotten too early")
		}
		time.Sleep(2 * time.Second)
		if gone := g.happened(vpn.Gone); len(gone) != 1 || gone[0].Dropped || len(g.Sessions()) != 0 {
			t.Errorf("gone: %+v", gone)
		}
		g.tun.Inject(vpntest.EchoRequest(inner4, c.ip4, 1, 1, nil))
		time.Sleep(time.Second)
		if n := g.Stats().NoSession; n != 1 {
			t.Errorf("%d packets without session", n)
		}
	})
}

func TestExpiredSessionIsRenewedForDataFromTheNetwork(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		time.Sleep(4 * time.Minute)
		if !g.reach(c, time.Second) {
			t.Fatal("the device does not answer")
		}
		if n := len(g.happened(vpn.Sent)); n != 1 {
			t.Errorf("%d initiations", n)
		}
		g.quiet(t)
	})
}

func TestRoaming(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		to := netip.MustParseAddrPort("203.0.113.9:1234")
		c.bind.Move(to)
		c.ping(t)
		roamed := g.happened(vpn.Roamed)
		if len(roamed) != 1 || roamed[0].Endpoint != to || len(g.happened(vpn.Confirmed)) != 1 {
			t.Errorf("roamed: %+v", roamed)
		}
		if s, _ := g.session(c.key); s.Endpoint != to {
			t.Errorf("session: %+v", s)
		}
		// The gateway roams too: the device follows its address.
		from := netip.MustParseAddrPort("192.0.2.77:51820")
		g.bind.Move(from)
		if !g.reach(c, time.Second) {
			t.Error("the device does not answer")
		}
		c.ping(t)
		if s := c.Peer(t); s.Endpoint != from {
			t.Errorf("device sends to %v", s.Endpoint)
		}
	})
}

func TestPresharedKey(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		psk, _ := vpntest.NewKey()
		c := w.client(1, g.addr, func(cfg *vpntest.ClientConfig, d *vpn.Device) { cfg.PresharedKey, d.PresharedKey = psk, psk })
		c.ping(t)
		i := w.client(2, netip.AddrPort{}, func(cfg *vpntest.ClientConfig, d *vpn.Device) { cfg.PresharedKey, d.PresharedKey = psk, psk })
		g.Initiate(i.key, i.addr)
		i.ping(t)
		wrong := w.client(3, g.addr, func(cfg *vpntest.ClientConfig, d *vpn.Device) { cfg.PresharedKey = psk })
		if wrong.Ping(inner4, 20*time.Second) {
			t.Error("answered with the wrong preshared key")
		}
		reverse := w.client(4, netip.AddrPort{}, func(cfg *vpntest.ClientConfig, d *vpn.Device) { d.PresharedKey = psk })
		g.Initiate(reverse.key, reverse.addr)
		time.Sleep(20 * time.Second)
		if s, _ := g.session(reverse.key); s.Confirmed || g.Stats().BadHandshake == 0 {
			t.Errorf("session: %+v", s)
		}
		if _, ok := g.session(c.key); !ok || g.Count() != 2 {
			t.Errorf("%d confirmed", g.Count())
		}
	})
}

func TestUnreliableInternet(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		seen := make(map[string]bool)
		var mu sync.Mutex // guards seen
		echo := g.tun.Handle(nil)
		g.tun.Handle(func(p []byte) {
			mu.Lock()
			defer mu.Unlock()
			if seen[string(p)] {
				t.Errorf("packet came twice: %x", p)
			}
			seen[string(p)] = true
			echo(p)
		})
		w.net.SetFaults(vpntest.Faults{Loss: 0.1, Duplicate: 0.2, Reorder: 0.3, Latency: 10 * time.Millisecond, Jitter: 300 * time.Millisecond})
		lost := c.pings(600)
		if lost == 0 || lost > 250 {
			t.Errorf("%d of 600 pings lost", lost)
		}
		s := g.Stats()
		if s.Replayed == 0 || s.Forged != 0 || s.BadPacket != 0 {
			t.Errorf("%+v", s)
		}
		w.net.SetFaults(vpntest.Faults{Latency: 10 * time.Millisecond})
		time.Sleep(30 * time.Second)
		if lost := c.pings(200); lost != 0 {
			t.Errorf("%d pings lost after the Internet was mended", lost)
		}
	})
}

func TestThousandClients(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand devices")
	}
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		n := 1000
		if raceEnabled {
			n = 100
		}
		clients := make([]*client, n)
		for i := range clients {
			clients[i] = w.client(i+2, g.addr)
		}
		lost := make(chan int, n)
		for _, c := range clients {
			go func() { lost <- c.pings(3) }()
		}
		for range clients {
			if l := <-lost; l != 0 {
				t.Errorf("%d pings lost", l)
			}
		}
		if g.Count() != n || len(g.Sessions()) != n {
			t.Errorf("%d confirmed, %d sessions", g.Count(), len(g.Sessions()))
		}
	})
}
