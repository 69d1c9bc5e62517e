package vpntest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// TestForgedMACs shows the forger's initiations to the stock device's own checker.
func TestForgedMACs(t *testing.T) {
	_, public := NewKey()
	f := NewForger(public, nil)
	var checker device.CookieChecker
	checker.Init(public)
	source := []byte("source")
	m := f.Next([16]byte{})
	if !checker.CheckMAC1(m) || checker.CheckMAC2(m, source) {
		t.Fatal("mac1 is wrong, or mac2 is right already")
	}
	reply, err := checker.CreateReply(m, 1, source)
	if err != nil {
		t.Fatal(err)
	}
	b := append([]byte{3, 0, 0, 0, 1, 0, 0, 0}, append(reply.Nonce[:], reply.Cookie[:]...)...)
	cookie, ok := f.Cookie(b, m)
	if !ok || !checker.CheckMAC2(f.Next(cookie), source) {
		t.Error("the cookie does not open, or mac2 is wrong")
	}
}

// TestFloodKeepsItsRate sends to a socket of its own.
func TestFloodKeepsItsRate(t *testing.T) {
	bind := conn.NewStdNetBind()
	_, port, err := bind.Open(0)
	if err != nil {
		t.Skip(err)
	}
	defer bind.Close()
	_, public := NewKey()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s, err := Flood{Target: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), Gateway: public, Rate: 5000, Ports: 3}.Run(ctx)
	if err != nil || s.Sent == 0 || s.Sent > 1100 || s.Failed != 0 || s.Cookies != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
