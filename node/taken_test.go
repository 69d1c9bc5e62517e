package node

import (
	"net/netip"
	"testing"

	"gatemesh/cluster"
	"gatemesh/vpn"
)

func TestTaken(t *testing.T) {
	k, other := cluster.Key{1}, cluster.Key{2}
	at, later := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	x := newTaken()
	x.put(k, at)
	x.follow(vpn.Event{Kind: vpn.Roamed, Device: other, Endpoint: at}) // none that was taken over
	if x.at[at] != k {
		t.Fatal("lost by another device's event")
	}
	x.follow(vpn.Event{Kind: vpn.Confirmed, Imported: true, Device: k, Endpoint: later})
	if _, there := x.at[at]; there || x.at[later] != k {
		t.Fatalf("at %v after it has moved", x.at)
	}
	x.put(other, later) // behind one NAT, one after the other
	if len(x.at) != 1 || len(x.of) != 1 || x.at[later] != other {
		t.Fatalf("%v, %v, want one device", x.at, x.of)
	}
	x.follow(vpn.Event{Kind: vpn.Confirmed, Device: other, Endpoint: at}) // its row was of yet another address
	if len(x.at)+len(x.of) != 0 {
		t.Fatalf("left over: %v, %v", x.at, x.of)
	}
}
