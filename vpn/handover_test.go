package vpn_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// export is what a gateway exports of a session, which must be there.
func (g *gateway) export(t *testing.T, c *client, to *gateway, final bool) []byte {
	t.Helper()
	b, err := g.Export(c.key, to.Incarnation(), final)
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	return b
}

// give brings the session to another gateway, where it is held.
func (g *gateway) give(t *testing.T, c *client, to *gateway) {
	t.Helper()
	if k, err := to.Import(g.export(t, c, to, false)); err != nil || k != c.key {
		t.Fatalf("import: %v", err)
	}
}

func (g *gateway) take(t *testing.T, c *client) {
	t.Helper()
	if err := g.TakeOver(c.key, netip.AddrPort{}); err != nil {
		t.Fatalf("take over: %v", err)
	}
	time.Sleep(5 * time.Millisecond)
}

// stream pings every interval, without waiting for replies, and returns how many were lost.
func (c *client) stream(n int, interval time.Duration) (lost *atomic.Int64, done *sync.WaitGroup) {
	lost, done = new(atomic.Int64), new(sync.WaitGroup)
	done.Go(func() {
		var each sync.WaitGroup
		for range n {
			each.Go(func() {
				if !c.Ping(inner4, time.Second) {
					lost.Add(1)
				}
			})
			time.Sleep(interval)
		}
		each.Wait()
	})
	return lost, done
}

func TestTakeoverWithoutHandshake(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		a.give(t, c, b)
		if len(b.Sessions()) != 0 || b.Count() != 0 || !slices.Equal(b.Held(), []vpn.Key{c.key}) {
			t.Errorf("before: %+v, held %d", b.Sessions(), len(b.Held()))
		}
		handshake := c.Peer(t).Handshake
		lost, done := c.stream(40, 20*time.Millisecond)
		time.Sleep(210 * time.Millisecond)
		a.kill()
		b.take(t, c)
		done.Wait()
		if lost.Load() > 1 {
			t.Errorf("%d pings lost", lost.Load())
		}
		if w.count(c.addr.Addr(), 1) != 1 || w.count(b.addr.Addr(), 1) != 0 || c.Peer(t).Handshake != handshake || c.Peer(t).Endpoint != b.addr {
			t.Errorf("handshakes: %d by the device, %d by its heir", w.count(c.addr.Addr(), 1), w.count(b.addr.Addr(), 1))
		}
		confirmed := b.happened(vpn.Confirmed)
		if len(confirmed) != 1 || !confirmed[0].Imported || confirmed[0].Endpoint != c.addr || confirmed[0].Index == 0 ||
			confirmed[0].Index != a.happened(vpn.Confirmed)[0].Index || confirmed[0].Received == (vpn.Timestamp{}) {
			t.Errorf("confirmed: %+v", confirmed)
		}
		if s, _ := b.session(c.key); !s.Confirmed || b.Count() != 1 || len(b.Held()) != 0 {
			t.Errorf("after: %+v, held %d", s, len(b.Held()))
		}
		if err := b.TakeOver(c.key, netip.AddrPort{}); !errors.Is(err, vpn.ErrNoSession) {
			t.Errorf("taken over twice: %v", err)
		}
		// New keys are made soon, and nothing is lost by it.
		if n := c.pings(10); n != 0 {
			t.Errorf("%d pings lost", n)
		}
		if n := w.count(b.addr.Addr(), 1); n != 1 || len(b.happened(vpn.Confirmed)) != 2 || b.happened(vpn.Confirmed)[1].Imported {
			t.Errorf("%d early initiations: %+v", n, b.happened(vpn.Confirmed))
		}
		b.quiet(t)
	})
}

func TestDataFromTheNetworkAfterTakeover(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		a.give(t, c, b)
		a.kill()
		b.take(t, c)
		if !b.reach(c, time.Second) {
			t.Error("the device does not answer")
		}
		b.quiet(t)
	})
}

func TestSessionMovesFourTimes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := make([]*gateway, 2)
		for i, host := range []string{"192.0.2.1", "192.0.2.2"} {
			g[i] = w.gateway(host, func(c *vpn.Config) {
				c.Forward = func(k vpn.Key, packet []byte) { g[1-i].Deliver(k, packet) }
			})
		}
		c := w.client(1, g[0].addr)
		c.ping(t)
		time.Sleep(10 * time.Second) // a handshake may be begun again
		lost, done := c.stream(150, 20*time.Millisecond)
		for i := range 4 { // there and back: a gateway's own keys come back to it
			time.Sleep(100 * time.Millisecond)
			from, to := g[i%2], g[(i+1)%2]
			blob := from.export(t, c, to, true)
			if _, err := to.Import(blob); err != nil {
				t.Fatalf("move %d: %v", i, err)
			}
			to.take(t, c)
		}
		if n := w.count(c.addr.Addr(), 1) + w.count(g[0].addr.Addr(), 1) + w.count(g[1].addr.Addr(), 1); n != 1 {
			t.Errorf("%d initiations for four moves", n)
		}
		if _, err := g[0].Export(c.key, g[1].Incarnation(), false); !errors.Is(err, vpn.ErrNoParts) {
			t.Errorf("fifth move: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
		if n := w.count(g[0].addr.Addr(), 1); n != 1 {
			t.Errorf("%d initiations", n)
		}
		g[0].give(t, c, g[1])
		done.Wait()
		if lost.Load() != 0 {
			t.Errorf("%d pings lost", lost.Load())
		}
	})
}

func TestThirtyOneExports(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		time.Sleep(10 * time.Second)
		for range 31 {
			a.export(t, c, b, false)
		}
		if _, err := a.Export(c.key, b.Incarnation(), true); !errors.Is(err, vpn.ErrNoParts) {
			t.Fatal(err)
		}
		c.ping(t) // it did not stop
		time.Sleep(time.Second)
		if len(a.happened(vpn.Confirmed)) != 2 {
			t.Error("no handshake was asked for")
		}
		a.give(t, c, b)
		a.quiet(t)
	})
}

func TestLivingOwnerIsFencedByTheDevice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		a.give(t, c, b)
		b.take(t, c)
		c.ping(t)
		before := c.Received()
		for range 300 { // also across the heir's early new keys
			a.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 100)))
			time.Sleep(20 * time.Millisecond)
		}
		if sent := w.dataFrom(a.addr.Addr()); sent < 300 {
			t.Fatalf("the old owner sent only %d", sent)
		}
		if n := c.Received() - before; n != 0 {
			t.Errorf("the device accepted %d packets of its old owner", n)
		}
		if s := c.Peer(t); s.Endpoint != b.addr {
			t.Errorf("the device sends to %v", s.Endpoint)
		}
		c.ping(t)
	})
}

// TestFenceHoldsForOlderKeys has the heir's first words lost: the device learns of the old keys' new holder right before
// it gets new keys from it.
func TestFenceHoldsForOlderKeys(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		a.give(t, c, b)
		w.net.SetFaults(vpntest.Faults{Loss: 1})
		b.take(t, c)
		w.net.SetFaults(vpntest.Faults{Latency: time.Millisecond})
		time.Sleep(5 * time.Second)
		if n := len(b.happened(vpn.Confirmed)); n != 1 || c.Peer(t).Endpoint != b.addr {
			t.Fatalf("%d confirmations", n)
		}
		before := c.Received()
		for range 10 {
			a.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 100)))
			time.Sleep(20 * time.Millisecond)
		}
		if n := c.Received() - before; n != 0 || c.Peer(t).Endpoint != b.addr {
			t.Errorf("the device accepted %d packets of its old owner and sends to %v", n, c.Peer(t).Endpoint)
		}
	})
}

func TestWrongVerdictAndReturn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		a.give(t, c, b)
		b.take(t, c)
		a.Mute(c.key)
		c.ping(t)
		if n := len(b.happened(vpn.Confirmed)); n != 1 {
			t.Fatalf("%d confirmations", n)
		}
		if _, err := a.Export(c.key, b.Incarnation(), false); !errors.Is(err, vpn.ErrNoSession) {
			t.Errorf("exported while another has it: %v", err)
		}
		b.give(t, c, a) // the heir's heir is the old owner, whose session is still there
		if err := a.TakeOver(c.key, netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		b.Drop(c.key)
		time.Sleep(5 * time.Millisecond)
		c.ping(t)
		if s := c.Peer(t); s.Endpoint != a.addr || w.count(c.addr.Addr(), 1) != 1 {
			t.Errorf("the device sends to %v", s.Endpoint)
		}
		if confirmed := a.happened(vpn.Confirmed); len(confirmed) != 2 || !confirmed[1].Imported {
			t.Errorf("confirmed: %+v", confirmed)
		}
		if n := c.pings(300); n != 0 {
			t.Errorf("%d pings lost", n)
		}
	})
}

func TestExportsLostDoubledAndLate(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		first := a.export(t, c, b, false)
		second := a.export(t, c, b, false)
		a.export(t, c, b, false) // lost
		fourth := a.export(t, c, b, false)
		for i, e := range [][]byte{second, fourth} {
			if _, err := b.Import(e); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			for _, e := range [][]byte{e, first, second} {
				if _, err := b.Import(e); err == nil {
					t.Errorf("%d: imported again, or late", i)
				}
			}
		}
		b.take(t, c)
		for _, e := range [][]byte{first, second, fourth} {
			if _, err := b.Import(e); err == nil {
				t.Error("imported after the takeover")
			}
		}
		c.ping(t)
		b.Drop(c.key)
		for range 19 {
			time.Sleep(10 * time.Second)
			if _, err := b.Import(fourth); err == nil {
				t.Error("imported after the end")
			}
		}
		if s := b.Stats(); s.Imports != 2 || s.TakenOver != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// link brings what a gateway forwards to another one, in order, after an export.
type link struct {
	to      *gateway
	packets chan []byte
}

func (l *link) forward(k vpn.Key, packet []byte) {
	select {
	case l.packets <- append(k[:], packet...):
	default:
	}
}

func (l *link) run(delay time.Duration) {
	for p := range l.packets {
		time.Sleep(delay)
		l.to.Deliver(vpn.Key(p[:32]), p[32:])
	}
}

func TestPlannedHandOverLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.net.SetFaults(vpntest.Faults{Latency: 20 * time.Millisecond})
		l := &link{packets: make(chan []byte, 1000)}
		a := w.gateway("192.0.2.1", func(c *vpn.Config) { c.Forward = l.forward })
		b := w.gateway("192.0.2.2")
		l.to = b
		c := w.client(1, a.addr)
		c.ping(t)
		lost, done := c.stream(600, 3*time.Millisecond)
		time.Sleep(300 * time.Millisecond)
		blob := a.export(t, c, b, true)
		time.Sleep(30 * time.Millisecond) // on its way
		if _, err := b.Import(blob); err != nil {
			t.Fatal(err)
		}
		if err := b.TakeOver(c.key, netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		go l.run(0)
		defer close(l.packets)
		sent := w.dataFrom(a.addr.Addr())
		for len(b.happened(vpn.Confirmed)) == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond) // the old owner goes on opening what is on its way
		if n := w.dataFrom(a.addr.Addr()) - sent; n != 0 {
			t.Errorf("%d messages of the old owner", n)
		}
		a.Drop(c.key)
		done.Wait()
		if lost.Load() != 0 {
			t.Errorf("%d pings lost", lost.Load())
		}
		if s := a.Stats(); s.Forwarded == 0 || s.Muted != 0 {
			t.Errorf("%+v", s)
		}
		if n := w.count(c.addr.Addr(), 1); n != 1 {
			t.Errorf("%d initiations", n)
		}
		b.quiet(t)
	})
}

func TestFailedHandOverIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		a.export(t, c, b, true)
		before := w.dataFrom(a.addr.Addr())
		if c.Ping(inner4, 12*time.Second) || w.dataFrom(a.addr.Addr()) != before || a.Stats().Muted == 0 {
			t.Fatalf("the old owner speaks: %+v", a.Stats())
		}
		blob := a.export(t, c, b, true) // tried again
		a.Unmute(c.key)
		c.ping(t)
		if w.count(c.addr.Addr(), 1) != 1 {
			t.Error("a handshake was needed")
		}
		if _, err := b.Import(blob); err != nil { // it came after all
			t.Fatal(err)
		}
		b.take(t, c)
		c.ping(t)
		if s := c.Peer(t); s.Endpoint != b.addr {
			t.Errorf("the device sends to %v", s.Endpoint)
		}
	})
}

func TestHandedOverSessionEndsWithItsKeys(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.ping(t)
		a.export(t, c, b, true)
		time.Sleep(vpn.RejectAfterTime + time.Second)
		if gone := a.happened(vpn.Gone); len(gone) != 1 || len(a.Sessions()) != 0 || a.Count() != 0 {
			t.Errorf("gone: %+v, %+v", gone, a.Sessions())
		}
	})
}

func TestMute(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.gateway("192.0.2.1")
		c := w.client(1, a.addr)
		c.ping(t)
		var came atomic.Int64
		handle := a.tun.Handle(func([]byte) { came.Add(1) })
		before := w.dataFrom(a.addr.Addr())
		up := vpntest.Packet(c.ip4, inner4, 17, make([]byte, 10))

		a.Mute(c.key)
		a.Keepalive(c.key)
		c.TUN.Inject(up)
		time.Sleep(590 * time.Millisecond)
		c.TUN.Inject(up)
		time.Sleep(5 * time.Millisecond)
		if len(a.happened(vpn.Heard)) != 0 || came.Load() != 2 {
			t.Errorf("heard too early, or not opened: %d", came.Load())
		}
		for range 3 {
			time.Sleep(10 * time.Millisecond)
			c.TUN.Inject(up)
			a.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 10)))
		}
		time.Sleep(12 * time.Second) // a keepalive would be due
		if heard := a.happened(vpn.Heard); len(heard) != 1 || heard[0].Device != c.key || heard[0].Endpoint != c.addr {
			t.Errorf("heard: %+v", heard)
		}
		if n := w.dataFrom(a.addr.Addr()) - before; n != 0 || w.count(a.addr.Addr(), 1) != 0 || a.Stats().Muted != 3 {
			t.Errorf("%d messages left: %+v", n, a.Stats())
		}
		a.tun.Handle(handle)
		a.Unmute(c.key)
		c.ping(t)
		a.Mute(c.key)
		a.Initiate(c.key, c.addr)
		time.Sleep(10 * time.Millisecond)
		if n := w.count(a.addr.Addr(), 1); n != 1 {
			t.Errorf("%d initiations", n)
		}
		c.ping(t)
		a.quiet(t)
	})
}

func TestOwnInitiationEndsMute(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.gateway("192.0.2.1")
		c := w.client(1, a.addr)
		c.ping(t)
		a.Mute(c.key)
		if c.Ping(inner4, 10*time.Second) {
			t.Error("answered")
		}
		time.Sleep(20 * time.Second) // nothing heard for 15 s: the device begins again
		c.ping(t)
	})
}

// Where another gateway may be serving the device, silence is no reason for a handshake; the want of keys is, once.
func TestAloneBeginsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.gateway("192.0.2.1")
		c := w.client(1, a.addr)
		c.ping(t)
		send := func(seconds int) (initiations int) {
			before := w.count(a.addr.Addr(), 1)
			for range seconds {
				a.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 10)))
				time.Sleep(time.Second)
			}
			return w.count(a.addr.Addr(), 1) - before
		}
		a.Alone(true)
		w.net.Cut(a.addr.Addr(), c.addr.Addr(), true)
		if n := send(60); n != 0 {
			t.Fatalf("%d initiations to a device that is not heard", n)
		}
		a.Alone(false)
		if n := send(16); n == 0 {
			t.Fatal("no initiation after 15 s")
		}
		a.Alone(true)
		if n := send(20); n < 3 {
			t.Errorf("%d initiations, want what was begun to go on", n)
		}
		w.net.Cut(a.addr.Addr(), c.addr.Addr(), false)
		send(10)
		time.Sleep(4 * time.Minute) // the keys have expired
		if n := send(1); n != 1 {
			t.Errorf("%d initiations without keys, want 1", n)
		}
		// While it hears the device it renews the keys.
		if lost, n := c.pings(300), w.count(a.addr.Addr(), 1); lost != 0 || n < 8 {
			t.Errorf("%d pings lost, %d initiations", lost, n)
		}
	})
}

func TestUnknownMessagesAreTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.gateway("192.0.2.1")
		var told atomic.Int64
		b := w.gateway("192.0.2.2", func(c *vpn.Config) {
			c.Unknown = func(index uint32, from netip.AddrPort, message []byte) {
				if index != binary.LittleEndian.Uint32(message[4:]) {
					t.Errorf("index %08x", index)
				}
				told.Add(1)
				a.InjectTransport(message, from)
			}
		})
		c := w.client(1, a.addr)
		c.ping(t)
		c.SetEndpoint(t, b.addr) // as after a wrong takeover
		if !c.Ping(inner4, time.Second) || told.Load() != 1 || a.Stats().TransportInjected != 1 {
			t.Errorf("told %d, %+v", told.Load(), a.Stats())
		}
		if s, _ := a.session(c.key); s.Endpoint != c.addr {
			t.Errorf("session: %+v", s)
		}
		b.InjectTransport(make([]byte, 31), c.addr)
		b.InjectTransport([]byte{4, 0, 0, 0, 1, 31: 0}, c.addr)
		if told.Load() != 1 || b.Stats().Malformed != 1 {
			t.Errorf("told %d, %+v", told.Load(), b.Stats())
		}
		// At a bounded rate, per source and in all.
		told.Store(0)
		for i := range 3000 {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 1)
			if i < 1000 {
				from = netip.MustParseAddrPort("203.0.113.99:1")
			}
			w.net.Send(from, b.addr, []byte{4, 0, 0, 0, 1, 0, 0, 0, byte(i), byte(i >> 8), 31: 0})
			if i == 999 {
				time.Sleep(10 * time.Millisecond)
				if told.Load() != 10 {
					t.Errorf("%d of one source's messages told", told.Load())
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
		if told.Load() < 100 || told.Load() > 300 {
			t.Errorf("%d messages told", told.Load())
		}
	})
}

func TestDeliverChecksWhoseThePacketIs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.gateway("192.0.2.1")
		c, other := w.client(1, a.addr), w.client(2, a.addr)
		c.ping(t)
		other.ping(t)
		before := other.Received()
		for _, p := range [][]byte{nil, {0x45}, vpntest.Packet(inner4, other.ip4, 17, make([]byte, 10)), make([]byte, 1<<17)} {
			if a.Deliver(c.key, p) {
				t.Errorf("%d bytes delivered", len(p))
			}
		}
		if a.Deliver(vpn.Key{1}, vpntest.Packet(inner4, other.ip4, 17, nil)) || !a.Deliver(other.key, vpntest.Packet(inner4, other.ip4, 17, make([]byte, 1400))) {
			t.Error("delivered to nobody, or not delivered")
		}
		time.Sleep(10 * time.Millisecond)
		if n := other.Received() - before; n != 1 {
			t.Errorf("%d packets came", n)
		}
	})
}
