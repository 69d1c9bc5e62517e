package vpn_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"

	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/conn"
)

func TestPortInUse(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.gateway("192.0.2.1")
		tun := vpntest.NewTUN(0)
		_, err := vpn.New(vpn.Config{PrivateKey: w.private, Port: 51820, Bind: w.net.Bind(netip.MustParseAddr("192.0.2.1")), TUN: tun, Lookup: w.lookup})
		var port *vpn.PortError
		if !errors.As(err, &port) || port.Port != 51820 || !errors.Is(err, syscall.EADDRINUSE) {
			t.Error(err)
		}
		if tun.Inject(nil) {
			t.Error("the TUN was not closed")
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	private, _ := vpntest.NewKey()
	lookup := func(vpn.Key) (vpn.Device, bool) { return vpn.Device{}, false }
	for name, cfg := range map[string]vpn.Config{
		"no TUN":    {PrivateKey: private, Lookup: lookup},
		"no lookup": {PrivateKey: private, TUN: vpntest.NewTUN(0)},
		"no key":    {Lookup: lookup, TUN: vpntest.NewTUN(0)},
		"small MTU": {PrivateKey: private, Lookup: lookup, TUN: vpntest.NewTUN(0), MTU: 500},
	} {
		cfg.Bind = vpntest.NewInternet(1).Bind(netip.MustParseAddr("192.0.2.1"))
		if g, err := vpn.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
			g.Close()
		}
	}
}

func TestLifeOfAGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		open := func() *vpn.Gateway {
			g, err := vpn.New(vpn.Config{PrivateKey: w.private, Bind: w.net.Bind(netip.MustParseAddr("192.0.2.1")), TUN: vpntest.NewTUN(0), Lookup: w.lookup})
			if err != nil {
				t.Fatal(err)
			}
			if g.Port() == 0 {
				t.Error("no port")
			}
			return g
		}
		g := open() // never run
		if err := errors.Join(g.Close(), g.Close()); err != nil {
			t.Error(err)
		}

		g = open() // ended by its context, run once only
		ctx, cancel := context.WithCancel(t.Context())
		done := run(func() error { return g.Run(ctx) })
		synctest.Wait()
		if err := g.Run(ctx); err == nil || errors.Is(err, vpn.ErrClosed) {
			t.Errorf("second Run: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}

		g = open() // ended by Close, from two sides
		done = run(func() error { return g.Run(t.Context()) })
		closed := run(g.Close)
		if err := errors.Join(g.Close(), <-closed); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil && !errors.Is(err, vpn.ErrClosed) {
			t.Error(err)
		}
	})
}

// run calls fn in a goroutine of its own.
func run(fn func() error) chan error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	return done
}

func TestEdgesThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, fail := range map[string]func(*vpntest.Bind, *vpntest.TUN){
			"TUN":  func(_ *vpntest.Bind, tun *vpntest.TUN) { tun.Close() },
			"port": func(bind *vpntest.Bind, _ *vpntest.TUN) { bind.Close() },
		} {
			bind, tun := w.net.Bind(netip.MustParseAddr("192.0.2.1")), vpntest.NewTUN(0)
			g, err := vpn.New(vpn.Config{PrivateKey: w.private, Bind: bind, TUN: tun, Lookup: w.lookup})
			if err != nil {
				t.Fatal(err)
			}
			done := run(func() error { return g.Run(t.Context()) })
			synctest.Wait()
			fail(bind, tun)
			if err := <-done; err == nil {
				t.Errorf("Run does not tell that the %s has failed", name)
			}
			g.Close()
		}
	})
}

func TestErrorsOfTheSocketAreSurvived(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var flaky *flakyBind
		g := w.gateway("192.0.2.1", func(cfg *vpn.Config) {
			flaky = &flakyBind{Bind: cfg.Bind}
			cfg.Bind = flaky
		})
		c := w.client(1, g.addr)
		c.ping(t)
		for _, err := range []error{errors.New("splitting coalesced packet resulted in overflow"), syscall.ENOBUFS, &net.OpError{Op: "read", Err: syscall.ENOMEM}} {
			flaky.fault = err
			flaky.receive.Store(15)
			if lost := c.pings(30); lost != 15 {
				t.Errorf("%v: %d pings lost", err, lost)
			}
		}
		if s := g.Stats(); s.Malformed != 15 || s.ReceiveErrors != 30 {
			t.Errorf("%+v", s)
		}
		flaky.send.Store(3)
		if c.Ping(inner4, time.Second) || g.Stats().SendErrors != 1 {
			t.Errorf("%+v", g.Stats())
		}
		flaky.send.Store(0)
		c.ping(t)
	})
}

// flakyBind fails the next receive and send calls.
type flakyBind struct {
	conn.Bind
	receive, send atomic.Int64
	fault         error // of receive; set before it
}

func (b *flakyBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := b.Bind.Open(port)
	for i, fn := range fns {
		fns[i] = func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := fn(bufs, sizes, eps)
			if err == nil && b.receive.Add(-1) >= 0 {
				return 0, b.fault
			}
			return n, err
		}
	}
	return fns, port, err
}

func (b *flakyBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	if b.send.Add(-1) >= 0 {
		return errors.New("out of luck")
	}
	return b.Bind.Send(bufs, ep)
}

func TestSlowSteeringDoesNotStopData(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var stuck atomic.Bool
		release := make(chan struct{})
		g := w.gateway("192.0.2.1", func(cfg *vpn.Config) {
			cfg.Steer = func(vpn.Key, netip.AddrPort, []byte) bool {
				if stuck.Load() {
					<-release
				}
				return true
			}
		})
		c := w.client(1, g.addr)
		c.ping(t)
		stuck.Store(true)
		for i := range 20 {
			other := w.client(i+2, g.addr)
			go other.Ping(inner4, 30*time.Second)
		}
		time.Sleep(time.Second)
		for range 5000 { // overfill the queue
			g.Inject(w.messages(c.addr.Addr(), 1)[0].Payload, c.addr)
		}
		if lost := c.pings(20); lost != 0 {
			t.Errorf("%d pings lost", lost)
		}
		if g.Stats().QueueFull == 0 {
			t.Errorf("%+v", g.Stats())
		}
		close(release)
		time.Sleep(30 * time.Second)
		if g.Count() != 21 {
			t.Errorf("%d confirmed", g.Count())
		}
	})
}

func TestNotifyMayCallTheGateway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var g *gateway
		g = w.gateway("192.0.2.1", func(cfg *vpn.Config) {
			notify := cfg.Notify
			cfg.Notify = func(e vpn.Event) {
				notify(e)
				g.Sessions()
				g.Refresh(e.Device)
				if e.Kind == vpn.Confirmed {
					g.Drop(e.Device)
				}
			}
		})
		c := w.client(1, g.addr)
		c.Ping(inner4, time.Second)
		if len(g.happened(vpn.Confirmed)) != 1 || len(g.happened(vpn.Gone)) != 1 || len(g.Sessions()) != 0 {
			t.Errorf("%+v", g.events)
		}
	})
}

func TestMalformedDatagrams(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr)
		c.ping(t)
		from := netip.MustParseAddrPort("198.51.100.66:666")
		datagrams := [][]byte{{}, {1}, {4, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 148), append([]byte{1}, make([]byte, 146)...), append([]byte{4, 1}, make([]byte, 40)...)}
		for _, d := range datagrams {
			w.net.Send(from, g.addr, d)
		}
		w.net.Send(from, g.addr, append([]byte{1}, make([]byte, 147)...))
		w.net.Send(from, g.addr, append([]byte{2}, make([]byte, 91)...))
		w.net.Send(from, g.addr, append([]byte{3}, make([]byte, 63)...))
		w.net.Send(from, g.addr, append([]byte{4, 0, 0, 0, 1, 2, 3, 4}, make([]byte, 24)...))
		g.Inject(make([]byte, 148), c.addr)
		g.Inject(append([]byte{1}, make([]byte, 147)...), netip.AddrPort{})
		time.Sleep(10 * time.Millisecond)
		s := g.Stats()
		if s.Malformed != uint64(len(datagrams)-1+2) || s.BadMAC != 1 || s.BadHandshake != 2 || s.UnknownIndex != 1 { // an empty datagram is not handed on
			t.Errorf("%+v", s)
		}
		c.ping(t)
	})
}

// TestRealSockets runs the gateway and the stock device on UDP sockets of the loopback interface.
func TestRealSockets(t *testing.T) {
	defer goleak.VerifyNone(t)
	w := newWorld(t)
	for _, network := range []string{"127.0.0.1:0", "[::1]:0"} {
		host := netip.MustParseAddrPort(network).Addr()
		tun := vpntest.NewEchoTUN(0, inner4, inner6)
		g, err := vpn.New(vpn.Config{PrivateKey: w.private, TUN: tun, Lookup: w.lookup})
		if err != nil {
			t.Fatal(err)
		}
		g.Allow(time.Now().Add(time.Hour))
		done := run(func() error { return g.Run(context.Background()) })
		cfg := vpntest.ClientConfig{
			Bind: conn.NewStdNetBind(), PeerKey: w.public, Endpoint: netip.AddrPortFrom(host, g.Port()),
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
		}
		var key vpn.Key
		cfg.PrivateKey, key = vpntest.NewKey()
		w.enrol(vpn.Device{Key: key, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")}})
		c := vpntest.NewClient(t, cfg)
		for range 10 {
			if !c.Ping(inner4, 10*time.Second) || !c.Ping(inner6, 10*time.Second) {
				t.Fatalf("no reply over %v: %+v", host, g.Stats())
			}
		}
		sessions := g.Sessions()
		if len(sessions) != 1 || sessions[0].Endpoint.Addr() != host {
			t.Errorf("%+v", sessions)
		}
		// A takeover on real addresses: the device has no other way to learn of the gateway.
		g.Drop(key)
		g.Initiate(key, sessions[0].Endpoint)
		deadline := time.Now().Add(10 * time.Second)
		for !c.Ping(inner4, 100*time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no reply after a takeover: %+v", g.Stats())
			}
		}
		c.Close()
		if err := g.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
