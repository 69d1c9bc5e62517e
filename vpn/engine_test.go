package vpn

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/device"
)

// idle is a gateway that is not running; its parts are called by the test.
func idle(tb testing.TB, devices ...Device) *Gateway {
	tb.Helper()
	private, _ := vpntest.NewKey()
	g, err := New(Config{
		PrivateKey: private,
		Bind:       vpntest.NewInternet(1).Bind(netip.MustParseAddr("192.0.2.1")),
		TUN:        vpntest.NewTUN(0),
		Lookup: func(k Key) (Device, bool) {
			i := slices.IndexFunc(devices, func(d Device) bool { return d.Key == k })
			if i < 0 {
				return Device{}, false
			}
			return devices[i], true
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { g.Close() })
	g.Allow(time.Now().Add(time.Hour))
	return g
}

// live gives g a confirmed session with a device at that inner address and returns the device's end of it.
func live(tb testing.TB, g *Gateway, inner netip.Addr) (p *peer, far *keypair) {
	tb.Helper()
	_, public := vpntest.NewKey()
	p, err := g.newPeer(Device{Key: public, Addresses: []netip.Prefix{netip.PrefixFrom(inner, inner.BitLen())}})
	if err != nil {
		tb.Fatal(err)
	}
	p = g.adopt(p)
	local, err := g.indices.reserve()
	if err != nil {
		tb.Fatal(err)
	}
	a, _ := vpntest.NewKey()
	b, _ := vpntest.NewKey()
	far = newKeypair(nil, &keys{send: a, receive: b, local: 7, remote: local}, g.now(), true)
	kp := newKeypair(p, &keys{send: b, receive: a, local: local, remote: 7}, g.now(), false)
	p.mu.Lock()
	p.install(kp)
	g.indices.put(kp)
	p.mu.Unlock()
	g.confirm(kp, newEndpoint(&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}))
	return p, far
}

func TestIndicesAreUniqueAndFound(t *testing.T) {
	var table indexTable
	used := make(map[uint32]*keypair)
	for range 20000 {
		if len(used) > 0 && rand.IntN(3) == 0 {
			for index, kp := range used {
				table.remove(kp)
				table.release(index)
				table.release(index) // once more does nothing
				if table.get(index) != nil {
					t.Fatalf("%08x is found after its release", index)
				}
				delete(used, kp.local)
				break
			}
			continue
		}
		index, err := table.reserve()
		if err != nil || index == 0 || used[index] != nil {
			t.Fatalf("%08x, %v", index, err)
		}
		if table.get(index) != nil {
			t.Fatal("found before it was published")
		}
		used[index] = &keypair{local: index}
		table.put(used[index])
	}
	for index, kp := range used {
		if table.get(index) != kp {
			t.Fatalf("%08x is not found", index)
		}
		for _, other := range []uint32{index ^ 1<<slotBits, index ^ 1<<31, index + 1, ^index} {
			if got := table.get(other); got != used[other] {
				t.Fatalf("%08x gives the keypair of %08x", other, got.local)
			}
		}
	}
}

func TestIndicesRunOut(t *testing.T) {
	table := indexTable{made: 1<<pageBits - 1} // as if all pages but the last were in use
	for range 1 << entryBits {
		if _, err := table.reserve(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := table.reserve(); err == nil {
		t.Fatal("more indices than slots")
	}
	last := uint32(1<<pageBits - 1)
	table.release(table.pages[last].Load().reserved[5])
	if index, err := table.reserve(); err != nil || index&slotMask != last<<entryBits|5 {
		t.Errorf("%08x, %v", index, err)
	}
}

func TestScheduleIsOrdered(t *testing.T) {
	s := newSchedule()
	model := make(map[*peer]time.Duration)
	peers := make([]*peer, 50)
	for i := range peers {
		peers[i] = new(peer)
	}
	for range 20000 {
		p := peers[rand.IntN(len(peers))]
		switch rand.IntN(4) {
		case 0, 1:
			when := time.Duration(1 + rand.IntN(1000))
			s.at(p, when)
			if old, ok := model[p]; !ok || when < old {
				model[p] = when
			}
		case 2:
			s.remove(p)
			delete(model, p)
		case 3:
			first := time.Duration(0)
			for _, when := range model {
				first = earliest(first, when)
			}
			now := time.Duration(rand.IntN(1000))
			p, next := s.pop(now)
			switch {
			case first == 0 && (p != nil || next != 0),
				first > now && (p != nil || next != first),
				first != 0 && first <= now && (p == nil || model[p] != first):
				t.Fatalf("at %d: %p %d, first is %d", now, p, next, first)
			}
			delete(model, p)
		}
	}
}

func TestAllowedIPs(t *testing.T) {
	var a allowedIPs
	p, q := new(peer), new(peer)
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, x := range s {
			out = append(out, netip.MustParsePrefix(x))
		}
		return out
	}
	check := func(addr string, want *peer) {
		t.Helper()
		if got := a.lookup(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: wrong device", addr)
		}
	}
	check("10.0.0.1", nil)
	a.insert(p, prefixes("10.0.0.0/8", "fd00::/64"))
	a.insert(q, prefixes("10.1.0.0/16", "fd00::1/128"))
	check("10.0.0.1", p)
	check("10.1.2.3", q)
	check("fd00::1", q)
	check("fd00::2", p)
	check("192.0.2.1", nil)
	a.insert(q, prefixes("10.0.0.0/8"))
	a.remove(p, prefixes("10.0.0.0/8", "fd00::/64"))
	check("10.0.0.1", q)
	check("fd00::2", nil)
	got := canonical([]netip.Prefix{netip.MustParsePrefix("10.1.2.3/8"), {}, netip.MustParsePrefix("::ffff:10.9.0.0/112")})
	if !slices.Equal(got, prefixes("10.0.0.0/8", "10.9.0.0/16")) {
		t.Errorf("canonical: %v", got)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	r := newRequests()
	endpoints := []*endpoint{{}, {}}
	for _, e := range endpoints {
		if !r.put(request{key: Key{1}, target: e}) {
			t.Fatal("no room")
		}
	}
	q, ok := r.take()
	if !ok || q.key != (Key{1}) || q.target != endpoints[1] {
		t.Errorf("%+v", q)
	}
	if _, ok := r.take(); ok {
		t.Error("the takeover of one device waits twice")
	}
	for i := range maxRequests {
		if !r.put(request{key: Key{byte(i), byte(i >> 8), byte(i >> 16)}, target: endpoints[0]}) {
			t.Fatalf("no room for request %d", i)
		}
	}
	if r.put(request{key: Key{31: 1}, target: endpoints[0]}) || r.put(request{peer: new(peer)}) {
		t.Error("more requests than allowed")
	}
	if len(r.takeovers) != maxRequests {
		t.Errorf("%d addresses for %d requests", len(r.takeovers), maxRequests)
	}
}

func TestForgottenSessionLeavesNoSecrets(t *testing.T) {
	g := idle(t)
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	kp := p.current.Load()
	send, receive := aeadKey(kp.sealer.aead), aeadKey(kp.opener.aead)
	g.staged.Add(1)
	p.staged = [][]byte{make([]byte, 32)}
	if p.secret == (Key{}) || *send == (Key{}) || *receive == (Key{}) {
		t.Fatal("no secrets to begin with")
	}
	g.Drop(p.key)
	if p.secret != (Key{}) || p.psk != (Key{}) || *send != (Key{}) || *receive != (Key{}) {
		t.Error("secrets are left")
	}
	if g.indices.get(kp.local) != nil || g.peer(p.key) != nil || g.allowed.lookup(netip.MustParseAddr("10.0.0.9")) != nil {
		t.Error("the device is still found")
	}
	if len(g.schedule.heap) != 0 || g.staged.Load() != 0 || g.confirmed.Load() != 0 {
		t.Error("something is left")
	}
}

func TestExpiredKeysAreErased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := idle(t)
		p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
		kp := p.current.Load()
		send := aeadKey(kp.sealer.aead)
		time.Sleep(RejectAfterTime - time.Nanosecond)
		g.tick(p, g.now())
		if *send == (Key{}) || p.current.Load() != kp {
			t.Error("erased too early")
		}
		time.Sleep(time.Nanosecond)
		g.tick(p, g.now())
		if *send != (Key{}) || p.current.Load() != nil || g.indices.get(kp.local) != nil {
			t.Error("expired keys are left")
		}
	})
}

func TestCloseErasesKeys(t *testing.T) {
	g := idle(t)
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	send := aeadKey(p.current.Load().sealer.aead)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if *send != (Key{}) || len(g.Sessions()) != 0 {
		t.Error("keys are left")
	}
	if err := g.Run(t.Context()); err != ErrClosed {
		t.Errorf("Run after Close: %v", err)
	}
}

func TestStagingIsBounded(t *testing.T) {
	g := idle(t)
	packet := vpntest.Packet(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9"), 17, make([]byte, 100))
	var peers []*peer
	for i := range stagedTotal/stagedPerPeer + 10 {
		p, _ := live(t, g, netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i>>8, i&255)))
		p.current.Store(nil)
		for range stagedPerPeer + 3 {
			g.stage(p, packet, g.now())
		}
		if len(p.staged) > stagedPerPeer {
			t.Fatalf("%d packets wait", len(p.staged))
		}
		peers = append(peers, p)
	}
	if n := g.staged.Load(); n != stagedTotal {
		t.Errorf("%d packets wait", n)
	}
	for _, p := range peers {
		g.forget(p, true)
	}
	if n := g.staged.Load(); n != 0 {
		t.Errorf("%d packets wait for nobody", n)
	}
}

func TestCookie(t *testing.T) {
	// The stock device's own checker says what a device under load does.
	private, public := vpntest.NewKey()
	_ = private
	g := idle(t, Device{Key: public})
	p, err := g.newPeer(Device{Key: public})
	if err != nil {
		t.Fatal(err)
	}
	p = g.adopt(p)
	to := newEndpoint(&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")})
	var checker device.CookieChecker
	checker.Init(public)
	source := []byte("source address")

	m, _, err := g.makeInitiation(p, to)
	if err != nil {
		t.Fatal(err)
	}
	if !checker.CheckMAC1(m[:]) || checker.CheckMAC2(m[:], source) {
		t.Fatal("mac1 is wrong or mac2 is right already")
	}
	reply, err := checker.CreateReply(m[:], le.Uint32(m[4:]), source)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, cookieSize)
	le.PutUint32(b, typeCookie)
	le.PutUint32(b[4:], reply.Receiver)
	copy(b[8:], reply.Nonce[:])
	copy(b[32:], reply.Cookie[:])
	bad := slices.Clone(b)
	bad[40] ^= 1
	g.handleCookie(bad)
	le.PutUint32(bad[4:], ^reply.Receiver)
	g.handleCookie(bad)
	if s := g.Stats(); s.BadHandshake != 2 || s.CookiesReceived != 0 {
		t.Errorf("%+v", s)
	}
	g.handleCookie(b)
	if m, _, err = g.makeInitiation(p, to); err != nil {
		t.Fatal(err)
	}
	if !checker.CheckMAC1(m[:]) || !checker.CheckMAC2(m[:], source) {
		t.Error("mac2 is wrong")
	}
	g.start = g.start.Add(-cookieLifetime)
	if m, _, err = g.makeInitiation(p, to); err != nil {
		t.Fatal(err)
	}
	if checker.CheckMAC2(m[:], source) {
		t.Error("an old cookie is used")
	}
}

func TestInitiationsPerDeviceAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		private, public := vpntest.NewKey()
		g := idle(t, Device{Key: public})
		far, err := newIdentity(private)
		if err != nil {
			t.Fatal(err)
		}
		to, secret, err := far.newRemote(g.identity.public)
		if err != nil {
			t.Fatal(err)
		}
		ts := stamp(time.Now())
		knock := func() {
			ts, _ = successor(ts)
			m, _, err := far.initiate(to, &secret, 1, ts)
			if err != nil {
				t.Fatal(err)
			}
			putMAC1(&to.mac1Key, m[:])
			g.handle(newDatagram(m[:], &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}, false))
		}
		for range 5 {
			knock()
		}
		if s := g.Stats(); s.TooFrequent != 4 || s.ResponsesSent != 1 {
			t.Errorf("%+v", s)
		}
		for range 5 {
			time.Sleep(initiationInterval + 1)
			knock()
		}
		if s := g.Stats(); s.TooFrequent != 4 || s.ResponsesSent != 6 {
			t.Errorf("%+v", s)
		}
		// Unconfirmed ones replace each other: one index, one session.
		if g.indices.made<<entryBits-uint32(len(g.indices.free)) != 1 || len(g.Sessions()) != 1 {
			t.Errorf("%d indices in use", g.indices.made<<entryBits-uint32(len(g.indices.free)))
		}
	})
}

func TestKeysAreRenewedAfterTooManyMessages(t *testing.T) {
	for _, next := range []uint64{RekeyAfterMessages/32 - keyMargin, RekeyAfterMessages/32 - 1, RekeyAfterMessages / 32} {
		synctest.Test(t, func(t *testing.T) {
			private, public := vpntest.NewKey()
			gatewayPrivate, gatewayPublic := vpntest.NewKey()
			net := vpntest.NewInternet(1)
			net.SetFaults(vpntest.Faults{Latency: time.Millisecond})
			inner := netip.MustParseAddr("10.0.0.9")
			at := netip.MustParseAddrPort("203.0.113.1:9")
			g, err := New(Config{
				PrivateKey: gatewayPrivate, Port: 51820, Bind: net.Bind(netip.MustParseAddr("192.0.2.1")), TUN: vpntest.NewEchoTUN(0),
				Lookup: func(Key) (Device, bool) {
					return Device{Key: public, Addresses: []netip.Prefix{netip.PrefixFrom(inner, 32)}}, true
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			g.Allow(time.Now().Add(time.Hour))
			go g.Run(t.Context())
			t.Cleanup(func() { g.Close() })
			c := vpntest.NewClient(t, vpntest.ClientConfig{
				Bind: net.Bind(at.Addr()), Port: at.Port(), PrivateKey: private, PeerKey: gatewayPublic,
				Endpoint: netip.MustParseAddrPort("192.0.2.1:51820"), Addresses: []netip.Addr{inner},
			})
			to := netip.MustParseAddr("10.255.0.1")
			c.Ping(to, time.Second)
			time.Sleep(30 * time.Second)
			g.peer(public).current.Load().sealer.next.Store(next)
			for range 10 {
				if !c.Ping(to, time.Second) {
					t.Errorf("ping lost after %d messages", next)
				}
			}
			time.Sleep(time.Second)
			if s := g.Stats(); s.InitiationsSent != 1 || s.ResponsesReceived != 1 || s.Overflow != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestNoDatagramAllocates(t *testing.T) {
	g := idle(t)
	inner := netip.MustParseAddr("10.0.0.9")
	_, far := live(t, g, inner)
	r := &receiver{g: g, out: make([][]byte, 0, 8)}
	tx := &transmitter{g: g, out: make([][]byte, 0, 8)}
	packet := vpntest.Packet(inner, netip.MustParseAddr("10.0.0.1"), 17, make([]byte, 1000))
	reply := vpntest.Packet(netip.MustParseAddr("10.0.0.1"), inner, 17, make([]byte, 1000))
	buffers, sizes := makeBuffers(8), make([]int, 8)
	from := &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}
	discardEdges(g)
	if n := testing.AllocsPerRun(1000, func() {
		now := g.now()
		for _, b := range buffers {
			copy(b[headerSize:], packet)
			m, _ := sealPacket(far, b, len(packet), defaultMTU)
			r.datagram(b, len(m), from, now)
		}
		r.flush(now)
		for i, b := range buffers {
			sizes[i] = copy(b[headerSize:], reply)
		}
		tx.batch(buffers, sizes, now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s := g.Stats(); s.RxPackets != 8*1001 || s.TxPackets != 8*1001 || s.BadSource+s.BadPacket+s.NoSession != 0 {
		t.Errorf("%+v", s)
	}
}
