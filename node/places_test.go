package node

import (
	"net/netip"
	"testing"

	"gatemesh/cluster"
	"gatemesh/vpn"
)

func TestPlaces(t *testing.T) {
	k, other := cluster.Key{1}, cluster.Key{2}
	at, later := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	l := newPlaces()
	is := func(what string, at netip.AddrPort, want cluster.Key, wantTaken bool) {
		t.Helper()
		if got, taken, ok := l.device(at); !ok || got != want || taken != wantTaken || len(l.at) != len(l.of) {
			t.Fatalf("%s: %v, %v, %v at %v", what, got, taken, ok, at)
		}
	}
	l.put(k, at, true)
	is("taken over", at, k, true)
	l.follow(vpn.Event{Kind: vpn.Sent, Device: k, Endpoint: later})
	is("called", at, k, true)
	l.follow(vpn.Event{Kind: vpn.Roamed, Device: k, Endpoint: later})
	is("moved", later, k, true)
	if _, _, ok := l.device(at); ok {
		t.Fatal("still where it was")
	}
	l.follow(vpn.Event{Kind: vpn.Confirmed, Device: k, Endpoint: later})
	is("has new keys", later, k, false)
	l.follow(vpn.Event{Kind: vpn.Confirmed, Imported: true, Device: other, Endpoint: later}) // behind one NAT, one after the other
	is("another device", later, other, true)
	l.follow(vpn.Event{Kind: vpn.Gone, Device: k})
	is("another device", later, other, true)
	l.follow(vpn.Event{Kind: vpn.Gone, Device: other})
	if len(l.at)+len(l.of) != 0 {
		t.Fatalf("left over: %v, %v", l.at, l.of)
	}
}
