//go:build !race

package vpn

import (
	"net/netip"
	"testing"
)

// Nothing is allocated per datagram in either direction. With the race detector a sync.Pool forgets at random.
func TestUDPBindDoesNotAllocate(t *testing.T) {
	a, _, _ := openBind(t, 1)
	b, _, port := openBind(t, 1)
	sockets, _ := b.segmentSockets()
	to, _ := a.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	messages := makeBuffers(3)
	for i := range messages {
		messages[i] = messages[i][:100]
	}
	batch := makeSegments()
	n := testing.AllocsPerRun(100, func() {
		if err := a.Send(messages, to); err != nil {
			t.Fatal(err)
		}
		for size := 0; size < 300; {
			n, err := sockets[0].receive(batch)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range batch[:n] {
				size += s.n
			}
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
