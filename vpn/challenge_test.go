package vpn

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/device"
)

// TestCookieOfOursIsTaken lets the stock device's own generator answer a challenge, at gateways whose clocks differ.
func TestCookieOfOursIsTaken(t *testing.T) {
	p := newPair(t)
	other := newPair(t)
	at := netip.MustParseAddrPort("203.0.113.1:9")
	now := time.Unix(1_800_000_000, 0)
	maker := newCookies(p.gateway)

	var generator device.CookieGenerator
	generator.Init(p.gateway.public)
	proof := func() []byte {
		m, _ := p.initiation(t, stamp(now))
		generator.AddMacs(m[:])
		return m[:]
	}
	m := proof()
	if !checkMAC1(&p.gateway.mac1Key, m) || maker.proves(m, at, now) {
		t.Fatal("mac1 is wrong, or mac2 is right already")
	}
	reply := maker.reply(newDatagram(m, &vpntest.Endpoint{AddrPort: at}, false), now)
	if messageType(reply[:]) != typeCookie || !bytes.Equal(reply[4:8], m[4:8]) {
		t.Fatalf("%x is no cookie reply", reply)
	}
	message := device.MessageCookieReply{Type: typeCookie, Receiver: le.Uint32(reply[4:])}
	copy(message.Nonce[:], reply[8:])
	copy(message.Cookie[:], reply[32:])
	if !generator.ConsumeReply(&message) {
		t.Fatal("the stock device does not take the cookie reply")
	}
	m = proof()
	for _, skew := range []time.Duration{0, 30 * time.Second, -30 * time.Second, cookieSlot * time.Second, -cookieSlot * time.Second} {
		gateway := newCookies(p.gateway) // another one of the cluster
		if !gateway.proves(m, at, now.Add(skew)) {
			t.Errorf("not taken by a gateway whose clock is off by %v", skew)
		}
	}
	for _, later := range []time.Duration{3 * cookieSlot * time.Second, -3 * cookieSlot * time.Second} {
		if maker.proves(m, at, now.Add(later)) {
			t.Errorf("taken %v later", later)
		}
	}
	if !maker.proves(m, at, now) {
		t.Error("not taken any more after the clock went back")
	}
	if newCookies(other.gateway).proves(m, at, now) {
		t.Error("taken by another cluster")
	}
	for _, elsewhere := range []string{"203.0.113.1:10", "203.0.113.2:9", "[2001:db8::1]:9"} {
		if maker.proves(m, netip.MustParseAddrPort(elsewhere), now) {
			t.Errorf("taken from %s", elsewhere)
		}
	}
	for i := range m {
		m[i] ^= 1
		if maker.proves(m, at, now) {
			t.Fatalf("byte %d does not count", i)
		}
		m[i] ^= 1
	}
}

func TestCookieSecretsDiffer(t *testing.T) {
	c := newCookies(newPair(t).gateway)
	s := c.at(time.Unix(cookieSlot*1000, 0))
	if s.current == s.before || s.current == s.next || s.current == c.at(time.Unix(cookieSlot*1001, 0)).current {
		t.Error("secrets of different slots are the same")
	}
	if next := c.at(time.Unix(cookieSlot*1001-1, 0)); next.current != s.current || c.secret(1001) != s.next || c.secret(999) != s.before {
		t.Error("slots are not next to each other")
	}
}

func TestBucket(t *testing.T) {
	var b bucket
	count := func(at time.Duration) (n int) {
		for b.take(100, 10, at) {
			n++
		}
		return n
	}
	for _, c := range []struct {
		at   time.Duration
		want int
	}{{time.Hour, 10}, {time.Hour, 0}, {time.Hour + 50*time.Millisecond, 5}, {2 * time.Hour, 10}, {time.Hour, 0}} {
		if got := count(c.at); got != c.want {
			t.Errorf("%d at %v, want %d", got, c.at, c.want)
		}
	}
}

// TestNamedDevicesAreProvenFirst shows that an initiation which only names a device gets to nobody and costs one X25519
// less from the second time on.
func TestNamedDevicesAreProvenFirst(t *testing.T) {
	_, public := vpntest.NewKey()
	g := idle(t, Device{Key: public})
	g.cfg.Steer = func(Key, netip.AddrPort, []byte) bool {
		t.Error("asked who answers what nobody has proven")
		return true
	}
	forger := vpntest.NewForger(g.identity.public, [][32]byte{public})
	for range 3 {
		g.handle(newDatagram(forger.Next([16]byte{}), &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}, false))
	}
	if s := g.Stats(); s.BadHandshake != 3 || s.UnknownDevice != 0 || len(g.live()) != 0 {
		t.Errorf("%+v", s)
	}
	d, ok := g.remotes.get(public)
	if p, err := g.newPeer(Device{Key: public}); !ok || err != nil || p.remote != d.remote || p.secret != d.secret || p.secret == [32]byte{} {
		t.Error("what was derived was not kept")
	}
}

// TestReplayIsNotPassedOn replays an initiation where there is no state of the device any more, or never was.
func TestReplayIsNotPassedOn(t *testing.T) {
	g := idle(t)
	out := &recorder{Bind: g.cfg.Bind}
	g.cfg.Bind = out
	k := newKnocker(t, g)
	device, asked := Device{Key: k.public}, 0
	g.cfg.Lookup = func(Key) (Device, bool) { return device, true }
	g.cfg.Steer = func(Key, netip.AddrPort, []byte) bool { asked++; return true }
	d := k.knock(t)
	g.handle(d)
	if len(out.sent) != 1 || asked != 1 || len(g.live()) != 1 {
		t.Fatalf("%d answers, asked %d times, %d sessions", len(out.sent), asked, len(g.live()))
	}
	device.Received = g.live()[0].received
	g.Drop(k.public)
	for _, injected := range []bool{false, true} {
		g.handle(newDatagram(d.message(), &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("198.51.100.66:666")}, injected))
	}
	if s := g.Stats(); s.StaleTimestamp != 2 || len(out.sent) != 1 || asked != 1 || len(g.live()) != 0 {
		t.Errorf("%d answers, asked %d times, %d sessions: %+v", len(out.sent), asked, len(g.live()), s)
	}
	if n := g.indices.made<<entryBits - uint32(len(g.indices.free)); n != 0 {
		t.Errorf("%d indices in use", n)
	}
	device.Received = Timestamp{} // to show that nothing else refuses it
	g.handle(d)
	if len(out.sent) != 2 {
		t.Error("not answered without the memory")
	}
}

func TestRemotesAreBounded(t *testing.T) {
	var r remotes
	for i := range uint32(5 * maxRemotes) {
		var k Key
		le.PutUint32(k[:], i)
		r.put(&peer{remote: &remote{key: k}, secret: [32]byte{1}})
		if _, ok := r.get(Key{}); !ok { // in use all the time
			t.Fatal("what is used is forgotten")
		}
	}
	if n := len(r.young) + len(r.old); n > 2*maxRemotes {
		t.Errorf("%d are kept", n)
	}
}

// TestFloodInTheNameOfADevice comes from the address and port of a connected one, which has precedence.
func TestFloodInTheNameOfADevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := idle(t)
		live(t, g, netip.MustParseAddr("10.0.0.9"))
		flood := vpntest.NewForger(g.identity.public, nil)
		for range 20_000 {
			g.enqueue(flood.Next([16]byte{}), &vpntest.Endpoint{AddrPort: deviceAddr}, false)
		}
		if n := g.intake.first.size; n != 1 || !g.intake.underLoad(g.now()) {
			t.Errorf("%d wait before others, under load: %v", n, g.intake.underLoad(g.now()))
		}
		if n := g.intake.knocking.size; n != loadThreshold {
			t.Errorf("%d wait without a cookie", n)
		}
		replaced := g.count.replaced.Load()
		time.Sleep(time.Second)
		for range 100 {
			g.enqueue(flood.Next([16]byte{}), &vpntest.Endpoint{AddrPort: deviceAddr}, false)
		}
		if n := g.count.replaced.Load() - replaced; g.intake.first.size != 1 || n < firstRate {
			t.Errorf("%d wait before others, %d were replaced", g.intake.first.size, n)
		}
	})
}
