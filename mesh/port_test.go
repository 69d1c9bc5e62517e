package mesh

import (
	"net/netip"
	"testing"
)

func TestGateIsBounded(t *testing.T) {
	var g gate
	one, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for i := range maxStrangersPerIP {
		if !g.enter(one) {
			t.Fatalf("%d are too many", i)
		}
	}
	if g.enter(netip.MustParseAddr("::ffff:192.0.2.1")) {
		t.Error("the same host in another form has more places")
	}
	for range maxStrangersPerIP {
		g.enter(six)
		six = six.Next()
	}
	if g.enter(six) {
		t.Error("an IPv6 host has as many places as addresses")
	}
	n := 2 * maxStrangersPerIP
	other := netip.MustParseAddr("198.51.100.1")
	for ; g.enter(other); n++ {
		other = other.Next()
	}
	if n != maxStrangers {
		t.Errorf("%d places", n)
	}
	for range maxStrangersPerIP {
		g.leave(one)
	}
	if !g.enter(one) {
		t.Error("no place is given back")
	}
	if len(g.from) > maxStrangers {
		t.Errorf("%d sources are remembered", len(g.from))
	}
}
