package vpn

import (
	"errors"
	"net/netip"
	"sync"
	"testing"

	"gatemesh/vpn/vpntest"
)

// TestInjectWhileReopening opens what another gateway has received while the TUN is being replaced; it is for -race.
func TestInjectWhileReopening(t *testing.T) {
	g := idle(t)
	_, far := live(t, g, netip.MustParseAddr("10.0.0.9"))
	done := make(chan error)
	go func() { done <- g.Run(t.Context()) }()
	g.tun().Close()
	if err := <-done; !errors.Is(err, ErrTUN) {
		t.Fatal(err)
	}
	packet := vpntest.Packet(netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.1"), 17, make([]byte, 4))
	m := sealed(t, far, string(packet)) // needs no padding
	var both sync.WaitGroup
	start := make(chan struct{})
	both.Go(func() {
		<-start
		g.InjectTransport(m, deviceAddr)
	})
	both.Go(func() {
		<-start
		if err := g.Reopen(vpntest.NewTUN(0)); err != nil {
			t.Error(err)
		}
	})
	close(start)
	both.Wait()
	if n := g.Stats().RxPackets; n != 1 {
		t.Errorf("%d messages opened", n)
	}
}
