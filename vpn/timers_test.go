package vpn_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// sentAt records when transport messages leave a host.
type sentAt struct {
	mu               sync.Mutex // guards the fields below
	data, keepalives []time.Duration
}

func (w *world) record(host netip.Addr) *sentAt {
	begin, r := time.Now(), new(sentAt)
	w.net.Tap(func(d vpntest.Datagram) {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case d.From.Addr() != host || d.Type() != 4:
		case len(d.Payload) == 32:
			r.keepalives = append(r.keepalives, time.Since(begin))
		default:
			r.data = append(r.data, time.Since(begin))
		}
	})
	return r
}

// kept are the keepalives so far.
func (r *sentAt) kept() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.keepalives)
}

func (r *sentAt) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.data)
}

func TestPassiveKeepalive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		time.Sleep(30 * time.Second)
		sent := w.record(g.addr.Addr())
		up := vpntest.Packet(c.ip4, netip.MustParseAddr("10.255.0.2"), 17, make([]byte, 10))

		c.TUN.Inject(up) // data that nobody answers
		time.Sleep(vpn.KeepaliveTimeout - 1)
		if len(sent.kept()) != 0 {
			t.Error("keepalive too early")
		}
		time.Sleep(time.Minute)
		if k := sent.kept(); len(k) != 1 || k[0] != vpn.KeepaliveTimeout+time.Millisecond {
			t.Errorf("keepalives at %v", k)
		}

		sent = w.record(g.addr.Addr()) // data while a keepalive is due asks for another one
		c.TUN.Inject(up)
		time.Sleep(time.Second)
		c.TUN.Inject(up)
		time.Sleep(time.Minute)
		if k := sent.kept(); len(k) != 2 || k[1]-k[0] != vpn.KeepaliveTimeout {
			t.Errorf("keepalives at %v", k)
		}

		sent = w.record(g.addr.Addr()) // an answer is as good
		c.TUN.Inject(up)
		time.Sleep(5 * time.Second)
		g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 10)))
		time.Sleep(time.Minute)
		if k := sent.kept(); len(k) != 0 || sent.count() != 1 {
			t.Errorf("keepalives at %v", k)
		}
	})
}

func TestKeepalivesAreNotAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		w.client(1, g.addr, func(cfg *vpntest.ClientConfig, _ *vpn.Device) { cfg.Keepalive = 25 })
		time.Sleep(time.Hour)
		if n := w.dataFrom(g.addr.Addr()); n != 0 {
			t.Errorf("%d messages", n)
		}
	})
}

func TestNothingHeardForFifteenSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		time.Sleep(time.Minute)
		c.Close()
		begin := time.Now()
		g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 10)))
		time.Sleep(2 * time.Minute)
		sent := g.happened(vpn.Sent)
		if len(sent) != 19 {
			t.Fatalf("%d initiations", len(sent))
		}
		if d := sent[0].At.Sub(begin); d < 15*time.Second || d > 15*time.Second+334*time.Millisecond {
			t.Errorf("first initiation after %v", d)
		}
	})
}

func TestDataKeepsHandshakesGoing(t *testing.T) {
	// As in the kernel, new data begins the count of retransmissions anew, until the session is forgotten.
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		c.Close()
		for range 600 {
			g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 10)))
			time.Sleep(time.Second)
		}
		sent := g.happened(vpn.Sent)
		if len(sent) < 90 || len(sent) > 108 {
			t.Errorf("%d initiations", len(sent))
		}
		for i := 1; i < len(sent); i++ {
			if d := sent[i].At.Sub(sent[i-1].At); d < vpn.RekeyTimeout {
				t.Errorf("initiations %v apart", d)
			}
		}
		if gone := g.happened(vpn.Gone); len(gone) != 1 || len(g.Sessions()) != 0 || g.Stats().NoSession == 0 {
			t.Errorf("gone: %+v", gone)
		}
	})
}

func TestPacketsWaitForKeys(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		time.Sleep(4 * time.Minute) // the keys have expired
		w.net.SetFaults(vpntest.Faults{Latency: 50 * time.Millisecond})
		before := c.Received()
		for i := range 30 {
			g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, []byte{byte(i)}))
		}
		time.Sleep(time.Second)
		if n := c.Received() - before; n != 16 {
			t.Errorf("%d packets came", n)
		}
		if s := g.Stats(); s.Overflow != 14 || s.InitiationsSent != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestRekeyAsInitiator(t *testing.T) {
	for _, down := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			g := w.gateway("192.0.2.1")
			c := w.client(1, netip.AddrPort{})
			g.takeover(c)
			begin := time.Now()
			for range 175 {
				time.Sleep(time.Second)
				if down {
					g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 10)))
				} else {
					c.TUN.Inject(vpntest.Packet(c.ip4, inner4, 17, make([]byte, 10)))
				}
			}
			want := 165 * time.Second // only heard: renewed in the last minute, so that nothing is lost
			if down {
				want = vpn.RekeyAfterTime
			}
			sent := g.happened(vpn.Sent)
			if len(sent) != 2 {
				t.Fatalf("down %v: %d initiations", down, len(sent))
			}
			// A keepalive of ours every ten seconds is sending, too.
			if d := sent[1].At.Sub(begin); d < vpn.RekeyAfterTime || d > want+2*time.Second {
				t.Errorf("down %v: renewed after %v", down, d)
			}
			g.quiet(t)
		})
	}
}

func TestSimultaneousHandshakes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.net.SetFaults(vpntest.Faults{Latency: 20 * time.Millisecond})
		g := w.gateway("192.0.2.1")
		for i := range 20 {
			c := w.client(i+1, g.addr)
			go c.Ping(inner4, time.Second)
			time.Sleep(time.Duration(i) * 3 * time.Millisecond)
			g.Initiate(c.key, c.addr)
			time.Sleep(20 * time.Second)
			if lost := c.pings(150); lost != 0 {
				t.Errorf("%d: %d pings lost", i, lost)
			}
		}
	})
}
