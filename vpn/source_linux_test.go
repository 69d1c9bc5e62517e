package vpn

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"gatemesh/vpn/vpntest"
)

// A host with several addresses answers from the one that was asked, else the device would roam to another.
func TestAnswersLeaveFromWhereTheyWereAsked(t *testing.T) {
	inner, far := netip.MustParseAddr("10.255.0.1"), netip.MustParseAddr("10.0.0.2")
	private, public := vpntest.NewKey()
	device, key := vpntest.NewKey()
	g, err := New(Config{
		PrivateKey: private, TUN: vpntest.NewEchoTUN(0, inner),
		Lookup: func(k Key) (Device, bool) { return Device{Key: key, Addresses: only(far)}, k == key },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	if _, module := g.cfg.Bind.(*conn.StdNetBind); module {
		t.Skip("the module's bind forgets the address when the kernel coalesces what comes in")
	}
	g.Allow(time.Now().Add(time.Hour))
	done := make(chan error, 1)
	go func() { done <- g.Run(context.Background()) }()
	asked := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), g.Port())
	c := vpntest.NewClient(t, vpntest.ClientConfig{
		Bind: conn.NewStdNetBind(), PrivateKey: device, PeerKey: public, Endpoint: asked, Addresses: []netip.Addr{far},
	})
	for range 3 {
		if !c.Ping(inner, 10*time.Second) {
			t.Fatal("no reply")
		}
	}
	if at := c.Peer(t).Endpoint; at != asked {
		t.Errorf("the device was led from %v to %v", asked, at)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
