package vpn_test

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// brokenBind fails every receive call while fault is set, as a broken socket does, at once.
type brokenBind struct {
	conn.Bind
	fault atomic.Pointer[error]
}

func (b *brokenBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := b.Bind.Open(port)
	for i, fn := range fns {
		fns[i] = func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			if fault := b.fault.Load(); fault != nil {
				return 0, *fault
			}
			return fn(bufs, sizes, eps)
		}
	}
	return fns, port, err
}

// brokenTUN is the same for reading from the TUN.
type brokenTUN struct {
	*vpntest.TUN
	fault  atomic.Pointer[error]
	events chan tun.Event
}

func (u *brokenTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if fault := u.fault.Load(); fault != nil {
		return 0, *fault
	}
	return u.TUN.Read(bufs, sizes, offset)
}

func (u *brokenTUN) Events() <-chan tun.Event { return u.events }

// again gives a gateway that has failed new edges and runs it on.
func (g *gateway) again(t *testing.T) *vpntest.TUN {
	t.Helper()
	dev := vpntest.NewEchoTUN(0, inner4, inner6)
	dev.Batch = 8
	if err := g.Reopen(dev); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	go func() { g.done <- g.Run(ctx) }()
	return dev
}

// Whatever breaks, Run tells which edge it was, and once it is open again the sessions go on under the same keys.
func TestSessionsOutliveTheirEdges(t *testing.T) {
	bad := error(&os.PathError{Op: "read", Path: "/dev/net/tun", Err: syscall.EIO})
	badSocket := error(&net.OpError{Op: "read", Net: "udp", Err: syscall.EBADF})
	for name, test := range map[string]struct {
		fail func(*brokenBind, *brokenTUN)
		want error
	}{
		"TUN closed":    {func(_ *brokenBind, u *brokenTUN) { u.Close() }, vpn.ErrTUN},
		"TUN down":      {func(_ *brokenBind, u *brokenTUN) { u.events <- tun.EventDown }, vpn.ErrTUN},
		"TUN broken":    {func(_ *brokenBind, u *brokenTUN) { u.fault.Store(&bad); u.Inject(nil) }, vpn.ErrTUN},
		"socket closed": {func(b *brokenBind, _ *brokenTUN) { b.Close() }, vpn.ErrSocket},
		"socket broken": {func(b *brokenBind, _ *brokenTUN) { b.fault.Store(&badSocket) }, vpn.ErrSocket},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				dev := &brokenTUN{TUN: vpntest.NewEchoTUN(0, inner4, inner6), events: make(chan tun.Event, 1)}
				bind := new(brokenBind)
				g := w.gateway("192.0.2.1", func(cfg *vpn.Config) {
					bind.Bind = cfg.Bind
					cfg.Bind, cfg.TUN = bind, dev
				})
				c := w.client(1, g.addr)
				c.ping(t)
				test.fail(bind, dev)
				c.Ping(inner4, time.Second) // wakes the receiver
				if err := <-g.done; !errors.Is(err, test.want) {
					t.Fatalf("Run: %v", err)
				}
				if c.Ping(inner4, time.Second) {
					t.Error("answered by a gateway that does not run")
				}
				if err := g.Run(t.Context()); err == nil {
					t.Error("Run without Reopen")
				}
				bind.fault.Store(nil)
				g.again(t)
				c.ping(t)
				if n := w.count(c.addr.Addr(), 1); n != 1 {
					t.Errorf("%d handshakes", n)
				}
				if lost := c.pings(300); lost != 0 { // two rekeys
					t.Errorf("%d pings lost", lost)
				}
			})
		})
	}
}

// A TUN that says that it is down on its way up has not failed, nor has one whose errors are rare.
func TestPassingTroubleIsNoFailure(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dev := &brokenTUN{TUN: vpntest.NewEchoTUN(0, inner4, inner6), events: make(chan tun.Event, 1)}
		bind := new(brokenBind)
		g := w.gateway("192.0.2.1", func(cfg *vpn.Config) {
			bind.Bind = cfg.Bind
			cfg.Bind, cfg.TUN = bind, dev
		})
		c := w.client(1, g.addr)
		dev.events <- tun.EventDown
		time.Sleep(500 * time.Millisecond)
		dev.events <- tun.EventUp
		err := error(&net.OpError{Op: "read", Net: "udp", Err: syscall.EIO})
		for range 20 {
			bind.fault.Store(&err)
			c.Ping(inner4, 100*time.Millisecond)
			bind.fault.Store(nil)
			time.Sleep(4 * time.Second)
		}
		c.ping(t)
	})
}

func TestReopenIsForFailedGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bind := w.net.Bind(inner4)
		g, err := vpn.New(vpn.Config{PrivateKey: w.private, Port: 7, Bind: bind, TUN: vpntest.NewTUN(0), Lookup: w.lookup})
		if err != nil {
			t.Fatal(err)
		}
		refused := func(when string, want error) {
			t.Helper()
			dev := vpntest.NewTUN(0)
			if err := g.Reopen(dev); err == nil || want != nil && !errors.Is(err, want) {
				t.Errorf("Reopen %s: %v", when, err)
			}
			if _, err := dev.Write([][]byte{{}}, 0); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Reopen %s leaves its TUN open", when)
			}
		}
		refused("before Run", nil)
		done := run(func() error { return g.Run(t.Context()) })
		synctest.Wait()
		refused("while running", nil)
		bind.Close()
		if err := <-done; !errors.Is(err, vpn.ErrSocket) {
			t.Fatal(err)
		}
		other := w.net.Bind(inner4)
		if _, _, err := other.Open(7); err != nil {
			t.Fatal(err)
		}
		refused("while the port is taken", syscall.EADDRINUSE)
		other.Close()
		if err := g.Reopen(vpntest.NewTUN(0)); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := other.Open(7); err != nil {
			t.Errorf("Close after Reopen: %v", err)
		}
		other.Close()
		refused("after Close", vpn.ErrClosed)
	})
}
