package vpn

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/conn"
)

// What the monotonic clock has not seen makes keys as old as what it has, and closes the fence.
func TestSleepAgesKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := idle(t)
		p, far := live(t, g, netip.MustParseAddr("10.0.0.9"))
		kp := p.current.Load()
		g.Slept(-time.Hour)
		g.Slept(0)
		g.Slept(RejectAfterTime - 1)
		if kp.expired(g.now()) || g.fenced() {
			t.Fatal("too early")
		}
		g.Slept(time.Second)
		if !kp.expired(g.now()) {
			t.Error("keys did not age")
		}
		r := &receiver{g: g}
		m := sealed(t, far, "late")
		r.datagram(m, len(m), &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}, g.now())
		if g.Stats().Expired != 1 {
			t.Errorf("%+v", g.Stats())
		}
		g.Allow(time.Now().Add(time.Second)) // deadlines are made from the monotonic clock all the same
		if g.fenced() {
			t.Error("the fence does not open again")
		}
		time.Sleep(time.Second)
		if !g.fenced() {
			t.Error("the fence does not close")
		}
		g.Allow(time.Now().Add(time.Second))
		g.Slept(2 * time.Second)
		if !g.fenced() {
			t.Error("the fence is open after a sleep beyond its deadline")
		}
	})
}

// The sweeper, which waits by the monotonic clock, finds out at once.
func TestSleepWakesTheSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := idle(t)
		live(t, g, netip.MustParseAddr("10.0.0.9"))
		stop := sweeping(t, g)
		g.Slept(3*RejectAfterTime + time.Second)
		synctest.Wait()
		if n := len(g.live()); n != 0 || g.Count() != 0 {
			t.Errorf("%d devices", n)
		}
		stop()
	})
}

// sourceBind refuses messages that are to leave from an address which the host has not.
type sourceBind struct {
	recorder
	err  error
	lost bool
}

func (b *sourceBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	if b.lost && ep.SrcIP().IsValid() {
		return b.err
	}
	return b.recorder.Send(bufs, ep)
}

func TestLostSourceIsLeftToTheKernel(t *testing.T) {
	for _, refusal := range []error{syscall.EINVAL, syscall.ENODEV, syscall.EADDRNOTAVAIL, syscall.ENETUNREACH} {
		g := idle(t)
		bind := &sourceBind{recorder: recorder{Bind: g.cfg.Bind}, err: refusal}
		g.cfg.Bind, g.batch = bind, 8
		p, far := live(t, g, netip.MustParseAddr("10.0.0.9"))
		from := sourced{&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}}
		r := &receiver{g: g}
		hear := func() {
			m := sealed(t, far, "")
			r.datagram(m, len(m), from, g.now())
			r.flush(g.now())
		}
		batch := func() [][]byte {
			return [][]byte{sealed(t, p.current.Load(), "one"), sealed(t, p.current.Load(), "two")}
		}
		hear()
		bind.lost = true
		for range 2 {
			if g.send(batch(), p.endpoint.Load()); p.endpoint.Load().single.Load() {
				t.Errorf("%v: batches are taken apart for ever", refusal)
			}
		}
		if len(bind.sent) != 4 || g.count.sendErrors.Load() != 0 {
			t.Fatalf("%v: %d messages left, %d errors", refusal, len(bind.sent), g.count.sendErrors.Load())
		}
		bind.lost = false
		hear() // it talks to that address again
		if ep := p.endpoint.Load(); ep.form().SrcIP() != from.SrcIP() {
			t.Errorf("%v: our address is forgotten", refusal)
		}
	}
	g := idle(t) // an error of another kind is none of the source's
	bind := &sourceBind{recorder: recorder{Bind: g.cfg.Bind}, err: syscall.ENOBUFS, lost: true}
	g.cfg.Bind = bind
	to := newEndpoint(sourced{&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}})
	g.send([][]byte{{1}}, to)
	if to.bare.Load() != nil || g.count.sendErrors.Load() != 1 {
		t.Error("the source was taken for the cause")
	}
}

// sweeping runs the sweeper until the returned function is called.
func sweeping(t *testing.T, g *Gateway) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.sweep(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
