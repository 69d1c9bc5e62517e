package vpn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

func only(addr netip.Addr) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}
}

// knocker is a device that makes initiations by hand.
type knocker struct {
	*identity
	to     *remote
	secret [32]byte
	ts     Timestamp
}

func newKnocker(tb testing.TB, g *Gateway) *knocker {
	tb.Helper()
	private, _ := vpntest.NewKey()
	id, err := newIdentity(private)
	if err != nil {
		tb.Fatal(err)
	}
	k := &knocker{identity: id, ts: stamp(time.Now())}
	if k.to, k.secret, err = id.newRemote(g.identity.public); err != nil {
		tb.Fatal(err)
	}
	return k
}

func (k *knocker) knock(tb testing.TB) *datagram {
	tb.Helper()
	k.ts, _ = successor(k.ts)
	m, _, err := k.initiate(k.to, &k.secret, 1, k.ts)
	if err != nil {
		tb.Fatal(err)
	}
	putMAC1(&k.to.mac1Key, m[:])
	return newDatagram(m[:], &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}, false)
}

// kernelBind refuses batches as Linux does when segments exceed the path's MTU.
type kernelBind struct {
	recorder
	err   error
	calls int
}

func (b *kernelBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	b.calls++
	if len(bufs) > 1 {
		return &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("sendmmsg", b.err)}
	}
	return b.recorder.Send(bufs, ep)
}

func TestBatchBeyondThePathIsSentOneByOne(t *testing.T) {
	for _, refusal := range []error{syscall.EMSGSIZE, syscall.EINVAL} {
		g := idle(t)
		bind := &kernelBind{recorder: recorder{Bind: g.cfg.Bind}, err: refusal}
		g.cfg.Bind, g.batch = bind, 8
		p, far := live(t, g, netip.MustParseAddr("10.0.0.9"))
		messages := [][]byte{sealed(t, p.current.Load(), "one"), sealed(t, p.current.Load(), "two")}
		for range 2 {
			if !g.send(messages, p.endpoint.Load()) {
				t.Fatal("not sent")
			}
		}
		if bind.calls != 1+2+2 || len(bind.sent) != 4 || g.count.sendErrors.Load() != 0 {
			t.Fatalf("%v: %d calls, %d messages", refusal, bind.calls, len(bind.sent))
		}
		for i, want := range []string{"one", "two"} {
			if plain, v := far.opener.open(bind.sent[i]); v != opened || string(plain) != want {
				t.Errorf("%q, %v", plain, v)
			}
		}
	}
	g := idle(t) // what is no matter of size is not tried again
	bind := &kernelBind{recorder: recorder{Bind: g.cfg.Bind}, err: syscall.ENETUNREACH}
	g.cfg.Bind, g.batch = bind, 8
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	g.send([][]byte{{1}, {2}}, p.endpoint.Load())
	if bind.calls != 1 || g.count.sendErrors.Load() != 1 {
		t.Errorf("%d calls", bind.calls)
	}
}

// troubledTUN fails the next reads.
type troubledTUN struct {
	*vpntest.TUN
	errs chan error
}

func (u *troubledTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case err := <-u.errs:
		return 0, err
	default:
		return u.TUN.Read(bufs, sizes, offset)
	}
}

var _ tun.Device = (*troubledTUN)(nil)

func TestErrorsOfTheTUNAreSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := idle(t)
		out := &recorder{Bind: g.cfg.Bind}
		inner := netip.MustParseAddr("10.0.0.9")
		dev := &troubledTUN{vpntest.NewTUN(0), make(chan error, 100)}
		for range 30 {
			dev.errs <- errors.New("read len 70000 overflows bufs element len 65535")
		}
		g.cfg.Bind = out
		var failing tun.Device = dev
		g.dev.Store(&failing)
		live(t, g, inner)
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.transmit(ctx) }()
		dev.Inject(vpntest.Packet(netip.MustParseAddr("10.0.0.1"), inner, 17, nil))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := g.Stats().ReadErrors; n != 30 || len(out.sent) != 1 {
			t.Errorf("%d errors, %d messages after %v", n, len(out.sent), time.Since(begin))
		}
		dev.Close()
		if err := <-done; !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		cancel()
	})
}

func TestBackoffGrowsToASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff{log: idle(t).cfg.Log}
		took := func() time.Duration {
			begin := time.Now()
			b.failed(t.Context(), "test", errors.New("out of luck"))
			return time.Since(begin)
		}
		for want := time.Millisecond; want < time.Second; want *= 2 {
			if d := took(); d != want {
				t.Errorf("%v instead of %v", d, want)
			}
		}
		for range 3 {
			if d := took(); d != time.Second {
				t.Errorf("%v instead of a second", d)
			}
		}
		b.succeeded()
		if took() != time.Millisecond {
			t.Error("not from the beginning")
		}
	})
}

// TestAddressComesBack lends a live device's address to another one, in both orders of what Refresh sees.
func TestAddressComesBack(t *testing.T) {
	shared, other := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.10")
	g := idle(t)
	devices := make(map[Key]Device)
	g.cfg.Lookup = func(k Key) (Device, bool) { d, ok := devices[k]; return d, ok }
	p, _ := live(t, g, shared)
	q, _ := live(t, g, other)
	set := func(p *peer, addrs ...netip.Addr) {
		d := Device{Key: p.key}
		for _, a := range addrs {
			d.Addresses = append(d.Addresses, only(a)...)
		}
		devices[p.key] = d
	}
	check := func(when string, want *peer) {
		t.Helper()
		if g.allowed.lookup(shared) != want {
			t.Errorf("%s: the address is not where it belongs", when)
		}
	}
	for _, keys := range [][]Key{{p.key, q.key}, {q.key, p.key}, nil} {
		set(p, shared)
		set(q, other, shared)
		g.Refresh(q.key)
		check("lent", q)
		set(q, other)
		g.Refresh(keys...)
		check("given back", p)
		if g.allowed.lookup(other) != q {
			t.Error("the other address is lost")
		}
	}
	// Neither is named by Refresh again: the next handshake of its owner does.
	set(q, other, shared)
	g.Refresh(q.key)
	check("lent", q)
	p.mu.Lock()
	g.establish(p, p.endpoint.Load())
	p.mu.Unlock()
	check("confirmed", p)
}

func TestDeviceDisabledWhileItIsAnswered(t *testing.T) {
	g := idle(t)
	out := &recorder{Bind: g.cfg.Bind}
	g.cfg.Bind = out
	k := newKnocker(t, g)
	enabled, interfere := true, true
	g.cfg.Lookup = func(key Key) (Device, bool) {
		if !enabled {
			return Device{}, false
		}
		if interfere { // the store changes right after it has been read
			interfere, enabled = false, false
			g.Refresh(key)
			return Device{Key: k.public}, true
		}
		return Device{Key: k.public}, true
	}
	g.handle(k.knock(t))
	if len(g.live()) != 0 || len(out.sent) != 0 || g.indices.made<<entryBits != uint32(len(g.indices.free)) {
		t.Errorf("a disabled device has %d sessions and got %d messages", len(g.live()), len(out.sent))
	}
	enabled, interfere = true, true
	g.initiate(request{key: k.public, target: newEndpoint(&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")})})
	if len(g.live()) != 0 || len(out.sent) != 0 {
		t.Errorf("a disabled device has %d sessions and got %d messages", len(g.live()), len(out.sent))
	}
	enabled = true // and it is answered when it may be
	g.handle(k.knock(t))
	if len(g.live()) != 1 || len(out.sent) != 1 {
		t.Errorf("%d sessions, %d messages", len(g.live()), len(out.sent))
	}
}

func TestDropCancelsATakeover(t *testing.T) {
	at := netip.MustParseAddrPort("203.0.113.1:9")
	g := idle(t)
	out := &recorder{Bind: g.cfg.Bind}
	g.cfg.Bind = out
	k := newKnocker(t, g)
	during := func() {}
	g.cfg.Lookup = func(key Key) (Device, bool) { during(); return Device{Key: key}, true }
	g.cfg.Notify = func(e Event) {
		if e.Kind == Sent {
			during()
		}
	}
	work := func() {
		for {
			q, ok := g.requests.take()
			if !ok {
				return
			}
			g.initiate(q)
		}
	}
	nothing := func(when string) {
		t.Helper()
		for p, _ := g.schedule.pop(g.now()); p != nil; p, _ = g.schedule.pop(g.now()) {
			g.tick(p, g.now())
		}
		if len(out.sent) != 0 || len(g.live()) != 0 || len(g.requests.takeovers) != 0 {
			t.Errorf("dropped %s: %d messages, %d sessions, %d takeovers", when, len(out.sent), len(g.live()), len(g.requests.takeovers))
		}
	}
	g.Initiate(k.public, at)
	g.Drop(k.public)
	work()
	nothing("in the queue")

	for i, when := range []string{"in Lookup, before it began", "in Notify, before it left"} {
		calls := 0
		during = func() {
			if calls++; calls == i+1 {
				g.Drop(k.public)
			}
		}
		g.Initiate(k.public, at)
		work()
		nothing(when)
	}

	during = func() {} // asked for again, at another address, after all
	g.Initiate(k.public, at)
	g.Drop(k.public)
	g.Initiate(k.public, at)
	work()
	if len(out.sent) != 1 || len(g.live()) != 1 || len(g.requests.takeovers) != 0 {
		t.Errorf("%d messages, %d sessions", len(out.sent), len(g.live()))
	}
}

// TestTakeoverAskedForTwice has a newer address come in while a worker is about to begin with the older one.
func TestTakeoverAskedForTwice(t *testing.T) {
	r := newRequests()
	endpoints := []*endpoint{{}, {}}
	r.put(request{key: Key{1}, target: endpoints[0]})
	first, _ := r.take()
	r.put(request{key: Key{1}, target: endpoints[1]})
	if !r.begun(first) || first.target != endpoints[0] {
		t.Error("the first one was not cancelled")
	}
	second, ok := r.take()
	if !ok || second.target != endpoints[1] || !r.begun(second) || len(r.takeovers) != 0 {
		t.Errorf("%+v", second)
	}
}

func TestResponseHeldBackCompletesNothing(t *testing.T) {
	for _, after := range []time.Duration{time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			g := idle(t)
			p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
			k := newKnocker(t, g)
			far, err := g.newPeer(Device{Key: k.public})
			if err != nil {
				t.Fatal(err)
			}
			p.mu.Lock() // so that k holds its private key
			p.remote, p.secret = far.remote, far.secret
			p.mu.Unlock()
			m, _, err := g.makeInitiation(p, p.endpoint.Load())
			if err != nil {
				t.Fatal(err)
			}
			in, err := k.openInitiation(m[:])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in.openTimestamp(&k.secret); err != nil {
				t.Fatal(err)
			}
			var psk Key
			response, _, err := in.respond(k.to.public, &psk, 9)
			if err != nil {
				t.Fatal(err)
			}
			putMAC1(&k.to.mac1Key, response[:])
			p.mu.Lock()
			g.establish(p, p.endpoint.Load()) // the device's own handshake
			p.mu.Unlock()

			time.Sleep(after)
			attacker := newEndpoint(&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("198.51.100.66:666")})
			before := p.current.Load()
			g.tick(p, g.now())
			g.handleResponse(response[:], attacker)
			late := after > RekeyTimeout+rekeyTimeoutJitter
			if completed := p.current.Load() != before; completed == late || p.pending != nil || (p.endpoint.Load() == attacker) == late {
				t.Errorf("after %v: completed %v", after, completed)
			}
		})
	}
}

func TestGoneIsToldBeforeTheNextSession(t *testing.T) {
	g := idle(t)
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	g.outbox.take()
	g.cfg.Now = func() time.Time { // is asked while Gone is made
		if p.dead.Load() {
			t.Error("the next session could begin before Gone is told")
		}
		return time.Now()
	}
	g.Drop(p.key)
	if told := g.outbox.take(); len(told) != 1 || told[0].Kind != Gone || !p.dead.Load() {
		t.Errorf("%+v", told)
	}
}

func TestRoamingIsToldOnce(t *testing.T) {
	g := idle(t)
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	g.outbox.take()
	roam := func(port uint16) netip.AddrPort {
		a := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port)
		g.roam(p, newEndpoint(&vpntest.Endpoint{AddrPort: a}))
		return a
	}
	told := func() (events []Event) {
		for _, n := range g.outbox.take() {
			events = append(events, n.settle())
		}
		return events
	}
	var last netip.AddrPort
	for port := range uint16(1000) {
		last = roam(port + 1000)
	}
	if e := told(); len(e) != 1 || e[0].Kind != Roamed || e[0].Endpoint != last {
		t.Errorf("%+v", e)
	}
	roam(1) // what comes after new keys is told after them
	p.mu.Lock()
	g.establish(p, p.endpoint.Load())
	p.mu.Unlock()
	roam(2)
	last = roam(3)
	e := told()
	if kinds := []EventKind{Roamed, Confirmed, Roamed}; len(e) != 3 || !slices.Equal(kinds, []EventKind{e[0].Kind, e[1].Kind, e[2].Kind}) || e[0].Endpoint.Port() != 1 || e[1].Endpoint.Port() != 1 || e[2].Endpoint != last {
		t.Errorf("%+v", e)
	}
	if roam(4); len(told()) != 1 {
		t.Error("not told any more")
	}
}

// TestNoHandshakeIsLeftWithoutATimer asks for initiations right after a response was sent, which is too soon.
func TestNoHandshakeIsLeftWithoutATimer(t *testing.T) {
	for _, what := range []string{"retransmission", "staged packet"} {
		synctest.Test(t, func(t *testing.T) {
			g := idle(t)
			out := &recorder{Bind: g.cfg.Bind}
			g.cfg.Bind = out
			p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
			g.cfg.Lookup = func(k Key) (Device, bool) {
				return Device{Key: k, Addresses: only(netip.MustParseAddr("10.0.0.9"))}, true
			}
			p.current.Store(nil)
			p.sentHandshake.Store(int64(g.now())) // our response, which is lost
			if what == "retransmission" {
				g.request(p, true)
			} else {
				g.stage(p, vpntest.Packet(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9"), 17, nil), g.now())
			}
			run := func() {
				for q, ok := g.requests.take(); ok; q, ok = g.requests.take() {
					g.initiate(q)
				}
			}
			run()
			if len(out.sent) != 0 {
				t.Fatal("too soon")
			}
			time.Sleep(RekeyTimeout + rekeyTimeoutJitter)
			for next, _ := g.schedule.pop(g.now()); next != nil; next, _ = g.schedule.pop(g.now()) {
				g.tick(next, g.now())
			}
			run()
			if len(out.sent) != 1 || messageType(out.sent[0]) != typeInitiation {
				t.Errorf("%s: %d messages", what, len(out.sent))
			}
		})
	}
}

// sourced is an endpoint that knows our address.
type sourced struct{ *vpntest.Endpoint }

func (sourced) SrcIP() netip.Addr { return netip.MustParseAddr("192.0.2.1") }

func TestSilenceClearsTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := idle(t)
		p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
		p.endpoint.Store(newEndpoint(sourced{&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}}))
		p.timers.dataSent(g.now())
		g.tick(p, g.now())
		if !p.endpoint.Load().src.IsValid() {
			t.Error("cleared too early")
		}
		time.Sleep(newHandshakeAfter + rekeyTimeoutJitter)
		g.tick(p, g.now())
		if p.endpoint.Load().src.IsValid() || !p.queued.Load() {
			t.Error("the initiation goes where nobody hears")
		}
	})
}
