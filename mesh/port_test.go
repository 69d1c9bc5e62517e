package mesh

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func strangerFrom(g *gate, a netip.Addr) *stranger {
	return &stranger{from: netip.AddrPortFrom(a, 1), gate: g}
}

// enters says whether a connection from a gets a place.
func (g *gate) enters(a netip.Addr) (*stranger, bool) {
	s := strangerFrom(g, a)
	ok, out := g.enter(s)
	if out != nil {
		out.leave()
	}
	return s, ok
}

func TestGateIsBounded(t *testing.T) {
	var g gate
	one, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	var first *stranger
	for i := range maxStrangersPerIP {
		s, ok := g.enters(one)
		if !ok {
			t.Fatalf("%d are too many", i)
		}
		first = s
	}
	if _, ok := g.enters(netip.MustParseAddr("::ffff:192.0.2.1")); ok {
		t.Error("the same host in another form has more places")
	}
	for range maxStrangersPerIP {
		g.enters(six)
		six = six.Next()
	}
	if _, ok := g.enters(six); ok {
		t.Error("an IPv6 host has as many places as addresses")
	}
	first.leave()
	first.leave()
	if _, ok := g.enters(one); !ok {
		t.Error("no place is given back")
	}
	if _, ok := g.enters(one); ok {
		t.Error("a place is given back twice")
	}
	// A newcomer takes the place of another, so that no flood keeps it out.
	other := netip.MustParseAddr("198.51.100.1")
	for range 10 * maxStrangers {
		if _, ok := g.enters(other); !ok {
			t.Fatal("kept out")
		}
		if other = other.Next(); len(g.strangers) > maxStrangers || len(g.from) > maxStrangers {
			t.Fatalf("%d strangers from %d sources", len(g.strangers), len(g.from))
		}
	}
}

// Where peers are, connections have places of their own.
func TestGateKeepsPlacesForPeers(t *testing.T) {
	peer := netip.MustParseAddr("192.0.2.9")
	g := gate{familiar: func(a netip.Addr) bool { return a == peer }}
	s, ok := g.enters(peer)
	other := netip.MustParseAddr("198.51.100.1")
	for range 4 * maxStrangers {
		g.enters(other)
		other = other.Next()
	}
	if !ok || !s.familiar || g.from[source(peer, true)] != 1 {
		t.Error("a peer lost its place to strangers")
	}
	for range maxStrangersPerIP - 1 {
		g.enters(peer)
	}
	if _, ok := g.enters(peer); ok {
		t.Error("a peer's host has any number of places")
	}
}

// One host of an IPv6 LAN does not shut out its neighbours, and a LAN has room for many gateways.
func TestGateOfALAN(t *testing.T) {
	hostile, member := netip.MustParseAddr("2001:db8::bad:1"), netip.MustParseAddr("2001:db8::1")
	m := &Mesh{cfg: Config{Book: func() []netip.AddrPort { return []netip.AddrPort{netip.AddrPortFrom(member, 7946)} }}}
	m.readBook()
	g := gate{familiar: m.peerAt}
	for range 2 * maxStrangersPerIP {
		g.enters(hostile)
		hostile = hostile.Next()
	}
	var all []*stranger
	enter := func(a netip.Addr) {
		t.Helper()
		s, ok := g.enters(a)
		if !ok {
			t.Fatalf("%s is kept out", a)
		}
		all = append(all, s)
	}
	enter(member)
	if n := len(g.strangers); n != maxStrangersPerIP {
		t.Errorf("a hostile host has %d places", n)
	}
	for _, text := range []string{"fe80::1", "fd00::1"} {
		a := netip.MustParseAddr(text)
		for range 40 {
			enter(a)
			a = a.Next()
		}
		for range maxStrangersPerIP {
			g.enters(a)
		}
		if _, ok := g.enters(a); ok {
			t.Errorf("%s has any number of places", a)
		}
	}
	m.booked = nil // a place is given back as what it was taken
	for _, s := range all {
		s.leave()
	}
	if n := len(g.from); n != 3 {
		t.Errorf("%d sources are counted: %v", n, g.from)
	}
}

func TestGatePacesHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		let := 0
		var began [3]time.Time
		for second := range 3 {
			began[second] = time.Now()
			done := make(chan bool)
			for range 2000 {
				go func() { done <- g.pace(context.Background(), strangerFrom(&g, netip.MustParseAddr("192.0.2.1"))) }()
			}
			for range 2000 {
				if <-done {
					let++
				}
			}
		}
		most := handshakeBurst + handshakeRate*int(1+time.Since(began[0])/time.Second)
		if let > most || let < handshakeBurst+2*handshakeRate {
			t.Errorf("%d handshakes in %v", let, time.Since(began[0]))
		}
		at := time.Now()
		if !g.pace(context.Background(), &stranger{familiar: true, gate: &g}) || time.Since(at) > 0 {
			t.Error("a peer waits")
		}
	})
}

// zeros is a connection that sends zeros without end.
type zeros struct{ net.Conn }

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
func (zeros) Close() error               { return nil }

// What memberlist reads before any key is proven is bounded for one stream and
// for all.
func TestGossipOfStrangersIsBounded(t *testing.T) {
	var g gate
	buf := make([]byte, 4096)
	total := 0
	var all []*stranger
	from := netip.MustParseAddr("192.0.2.1")
	for range 3 * gossipBytes / gossipStreamLimit {
		s, _ := g.enters(from)
		from = from.Next()
		s.Conn = zeros{}
		s.limitGossip()
		n := 0
		for {
			k, err := s.Read(buf)
			if n += k; err != nil {
				break
			}
		}
		if n > gossipStreamLimit+len(buf) {
			t.Fatalf("%d bytes of one stream", n)
		}
		total += n
		all = append(all, s)
	}
	if total > gossipBytes+gossipStreamLimit {
		t.Errorf("%d bytes of all streams", total)
	}
	for _, s := range all {
		s.Close()
		s.Close()
	}
	if g.bytes != 0 {
		t.Errorf("%d bytes are held for ever", g.bytes)
	}
	s := &stranger{Conn: zeros{}, gate: &g}
	s.limit(helloBytes)
	for n := 0; ; {
		k, err := s.Read(buf)
		if n += k; err != nil {
			break
		}
		if n > helloBytes+len(buf) {
			t.Fatalf("%d bytes without a hello", n)
		}
	}
}
