package vpn

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
)

// TestRelayedMessageMovesNothing opens what another gateway has seen come from elsewhere.
func TestRelayedMessageMovesNothing(t *testing.T) {
	elsewhere := netip.MustParseAddrPort("203.0.113.1:4500")
	g := idle(t)
	p, far := live(t, g, netip.MustParseAddr("10.0.0.9"))
	sent := new([]sentMessage)
	g.cfg.Bind = captureBind{g.cfg.Bind, sent}
	g.InjectTransport(sealed(t, far, ""), deviceAddr)
	if at := p.endpoint.Load(); at.addr != deviceAddr || len(*sent) != 0 {
		t.Errorf("at %v, sent %v", at.addr, *sent)
	}
	g.InjectTransport(sealed(t, far, ""), elsewhere)
	back := []sentMessage{{deviceAddr, 7, typeTransport}}
	if at := p.endpoint.Load(); at.addr != deviceAddr || !slices.Equal(*sent, back) {
		t.Errorf("at %v, sent %v", at.addr, *sent)
	}
	if n := g.Stats().RxPackets; n != 2 {
		t.Errorf("%d opened", n)
	}
	g.receiveOne(sealed(t, far, ""), elsewhere)
	if at := p.endpoint.Load(); at.addr != elsewhere {
		t.Errorf("did not follow the device itself: %v", at.addr)
	}
}

// TestClaimIsConfirmedFromWhereTheDeviceIs has a message that the device sent to its former gateway played to its heir.
func TestClaimIsConfirmedFromWhereTheDeviceIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		elsewhere := netip.MustParseAddrPort("198.51.100.66:666")
		for _, relayed := range []bool{false, true} {
			b, p, far, _ := takenOver(t)
			if relayed {
				b.InjectTransport(sealed(t, far, ""), elsewhere)
			} else {
				b.receiveOne(sealed(t, far, ""), elsewhere)
			}
			if n := confirmations(b); n != 0 || p.endpoint.Load().addr != deviceAddr {
				t.Errorf("%d confirmations at %v", n, p.endpoint.Load().addr)
			}
			for range 2 {
				b.receiveOne(sealed(t, far, ""), deviceAddr)
			}
			if n := confirmations(b); n != 1 {
				t.Errorf("%d confirmations", n)
			}
		}
	})
}

// confirmations counts those that wait to be told and takes them out.
func confirmations(g *Gateway) (n int) {
	for _, e := range g.outbox.take() {
		if e.Kind == Confirmed {
			n++
		}
	}
	return n
}
