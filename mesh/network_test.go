package mesh

import (
	"net"
	"net/netip"
	"testing"
)

func TestFitness(t *testing.T) {
	up := net.FlagUp | net.FlagBroadcast | net.FlagMulticast
	// The best first.
	for i, c := range []struct {
		name  string
		flags net.Flags
		addr  string
	}{
		{"eth0", up, "10.0.0.5"},
		{"br0", up, "fd00::5"}, // a bridge that a card is in
		{"eth0", up, "169.254.7.7"},
		{"eth0", up, "fe80::1"},
		{"docker0", up, "172.17.0.1"},
		{"br-1f2e3d4c5b6a", up, "fd01::1"},
		{"virbr0", up, "169.254.1.1"},
		{"docker0", up, "fe80::2"},
		{"lo", net.FlagUp | net.FlagLoopback, "127.0.0.1"},
		{"lo", net.FlagUp | net.FlagLoopback, "::1"},
		{"eth0", up, "ff02::1"},
	} {
		if got := fitness(c.name, c.flags, netip.MustParseAddr(c.addr)); got != [...]int{12, 11, 10, 9, 6, 5, 4, 3, 2, 1, 0}[i] {
			t.Errorf("%s %s: %d", c.name, c.addr, got)
		}
	}
	if fitness("ppp0", up|net.FlagPointToPoint, netip.MustParseAddr("10.8.0.2")) >= fitness("eth1", up,
		netip.MustParseAddr("10.0.0.5")) {
		t.Error("a tunnel is as good as a card")
	}
}
