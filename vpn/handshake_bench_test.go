package vpn

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/device"
)

// knocks are devices that knock at a gateway one after the other, again and again.
type knocks struct {
	b    *testing.B
	far  []*identity
	to   []*remote
	keys [][32]byte // shared with the gateway
	made [][initiationSize]byte
	ts   Timestamp
}

func newKnocks(b *testing.B, gateway Key) *knocks {
	k := &knocks{b: b, made: make([][initiationSize]byte, 256), ts: stamp(time.Now())}
	for range k.made {
		private, _ := vpntest.NewKey()
		id, err := newIdentity(private)
		if err != nil {
			b.Fatal(err)
		}
		r, secret, err := id.newRemote(gateway)
		if err != nil {
			b.Fatal(err)
		}
		k.far, k.to, k.keys = append(k.far, id), append(k.to, r), append(k.keys, secret)
	}
	return k
}

// next is the initiation of iteration i; it is not part of what is measured.
func (k *knocks) next(i int) []byte {
	if i %= len(k.made); i > 0 {
		return k.made[i][:]
	}
	k.b.StopTimer()
	defer k.b.StartTimer()
	time.Sleep(initiationInterval)
	k.ts, _ = successor(k.ts)
	for j, id := range k.far {
		m, out, err := id.initiate(k.to[j], &k.keys[j], uint32(j), k.ts)
		if err != nil {
			k.b.Fatal(err)
		}
		out.erase()
		putMAC1(&k.to[j].mac1Key, m[:])
		k.made[j] = m
	}
	return k.made[0][:]
}

// BenchmarkAnswer is what an initiation costs its responder, from mac1 to the sent response: first while nothing is kept
// of the device, then as a rekey, then in the stock device, which keeps everything of every device.
func BenchmarkAnswer(b *testing.B) {
	gateway := func(b *testing.B) (*Gateway, *knocks) {
		g := idle(b)
		g.cfg.Bind = discardBind{g.cfg.Bind}
		k := newKnocks(b, g.identity.public)
		g.cfg.Lookup = func(k Key) (Device, bool) { return Device{Key: k}, true }
		return g, k
	}
	respond := func(b *testing.B, g *Gateway, m []byte) {
		g.enqueue(m, &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}, false)
		g.handle(g.intake.take())
	}
	b.Run("first", func(b *testing.B) {
		g, k := gateway(b)
		b.ReportAllocs()
		n := uint64(0)
		for ; b.Loop(); n++ {
			m := k.next(int(n))
			if n%uint64(len(k.made)) == 0 {
				b.StopTimer()
				for _, p := range g.live() {
					g.forget(p, true)
				}
				g.outbox.take()
				b.StartTimer()
			}
			respond(b, g, m)
		}
		if s := g.Stats(); s.ResponsesSent != n {
			b.Errorf("%d responses to %d initiations: %+v", s.ResponsesSent, n, s)
		}
	})
	b.Run("rekey", func(b *testing.B) {
		g, k := gateway(b)
		b.ReportAllocs()
		n := uint64(0)
		for ; b.Loop(); n++ {
			respond(b, g, k.next(int(n)))
			g.outbox.take()
		}
		if s := g.Stats(); s.ResponsesSent != n {
			b.Errorf("%d responses to %d initiations: %+v", s.ResponsesSent, n, s)
		}
	})
	b.Run("stock", func(b *testing.B) {
		private, public := vpntest.NewKey()
		d := device.NewDevice(vpntest.NewTUN(0), vpntest.NewInternet(1).Bind(netip.MustParseAddr("192.0.2.1")), device.NewLogger(device.LogLevelSilent, ""))
		b.Cleanup(d.Close)
		k := newKnocks(b, public)
		text := fmt.Sprintf("private_key=%x\n", private)
		for _, id := range k.far {
			text += "public_key=" + hex.EncodeToString(id.public[:]) + "\n"
		}
		if err := d.IpcSet(text); err != nil {
			b.Fatal(err)
		}
		var checker device.CookieChecker
		checker.Init(public)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			m := k.next(i)
			if !checker.CheckMAC1(m) {
				b.Fatal("mac1 is wrong")
			}
			message := device.MessageInitiation{Type: typeInitiation, Sender: le.Uint32(m[4:])}
			copy(message.Ephemeral[:], m[8:])
			copy(message.Static[:], m[40:])
			copy(message.Timestamp[:], m[88:])
			p := d.ConsumeMessageInitiation(&message)
			if p == nil {
				b.Fatal("the stock device refuses")
			}
			if _, err := d.CreateMessageResponse(p); err != nil {
				b.Fatal(err)
			}
			if err := p.BeginSymmetricSession(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRefuse is what messages cost that get no answer, or no more than a cookie. What is not queued costs it in the
// goroutine that moves packets.
func BenchmarkRefuse(b *testing.B) {
	from := &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}
	_, name := vpntest.NewKey()
	gateway := func(b *testing.B, named ...Key) (*Gateway, *vpntest.Forger) {
		g := idle(b)
		g.cfg.Bind = discardBind{g.cfg.Bind}
		g.cfg.Lookup = func(k Key) (Device, bool) { return Device{Key: k}, k == name }
		b.ReportAllocs()
		return g, vpntest.NewForger(g.identity.public, named)
	}
	loaded := func(g *Gateway) {
		g.intake.loadedUntil = g.now() + time.Hour
	}
	b.Run("mac1", func(b *testing.B) {
		g, f := gateway(b)
		m := f.Next([16]byte{})
		m[120] ^= 1
		for b.Loop() {
			g.enqueue(m, from, false)
		}
	})
	b.Run("mac2", func(b *testing.B) { // wrong, and no place for a cookie reply
		g, f := gateway(b)
		loaded(g)
		m := f.Next([16]byte{1})
		for b.Loop() {
			g.enqueue(m, from, false)
		}
	})
	b.Run("unmatched response", func(b *testing.B) {
		g, _ := gateway(b)
		m := make([]byte, responseSize)
		le.PutUint32(m, typeResponse)
		for b.Loop() {
			g.enqueue(m, from, false)
		}
	})
	b.Run("queue", func(b *testing.B) { // accepted for a worker, among many sources
		g, f := gateway(b)
		m := f.Next([16]byte{})
		for i := 0; b.Loop(); i++ {
			g.enqueue(m, &vpntest.Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8 & 7), byte(i)}), 9)}, false)
		}
	})
	b.Run("unknown key", func(b *testing.B) {
		g, f := gateway(b)
		for b.Loop() {
			g.enqueue(f.Next([16]byte{}), from, false)
			g.handle(g.intake.take())
		}
	})
	b.Run("known key", func(b *testing.B) {
		g, f := gateway(b, name)
		for b.Loop() {
			g.enqueue(f.Next([16]byte{}), from, false)
			g.handle(g.intake.take())
		}
		if g.Stats().BadHandshake == 0 {
			b.Errorf("%+v", g.Stats())
		}
	})
}

// BenchmarkCookieReply is one cookie reply from the refused initiation to the sent reply, without the system call.
func BenchmarkCookieReply(b *testing.B) {
	g := idle(b)
	g.cfg.Bind = discardBind{g.cfg.Bind}
	g.intake.loadedUntil = g.now() + time.Hour
	m := vpntest.NewForger(g.identity.public, nil).Next([16]byte{})
	from := &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}
	b.ReportAllocs()
	for b.Loop() {
		g.enqueue(m, from, false)
		g.sendCookie(g.intake.takeAsked())
	}
}
