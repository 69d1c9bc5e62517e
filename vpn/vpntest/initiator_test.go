package vpntest

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// TestInitiator shakes hands with the stock device, which must take what is sealed then.
func TestInitiator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		internet := NewInternet(1)
		serverPrivate, server := NewKey()
		private, public := NewKey()
		inner := netip.MustParseAddr("10.0.0.2")
		c := NewClient(t, ClientConfig{
			Bind: internet.Bind(netip.MustParseAddr("192.0.2.1")), Port: 51820, PrivateKey: serverPrivate, PeerKey: public,
		})
		defer c.Close()
		packets := make(chan []byte, 2)
		c.TUN.Handle(func(packet []byte) { packets <- packet })

		bind := internet.Bind(netip.MustParseAddr("192.0.2.2"))
		receive, _, err := bind.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		defer bind.Close()
		to := &Endpoint{netip.MustParseAddrPort("192.0.2.1:51820")}
		i, err := NewInitiator(private, server)
		if err != nil {
			t.Fatal(err)
		}
		m, h, err := i.Initiate(7, time.Now())
		if err != nil || len(m) != InitiationSize {
			t.Fatal(len(m), err)
		}
		if err := bind.Send([][]byte{m}, to); err != nil {
			t.Fatal(err)
		}
		buf, sizes, from := [][]byte{make([]byte, 2048)}, make([]int, 1), make([]conn.Endpoint, 1)
		if _, err := receive[0](buf, sizes, from); err != nil {
			t.Fatal(err)
		}
		s := h.Finish(buf[0][:sizes[0]])
		if s == nil {
			t.Fatal("the response is refused")
		}
		packet := Packet(inner, netip.MustParseAddr("10.0.0.1"), 17, []byte("odd"))
		for range 2 {
			m := s.Seal(nil, packet)
			if len(m) != SealedSize(len(packet)) {
				t.Errorf("%d bytes", len(m))
			}
			if err := bind.Send([][]byte{m}, to); err != nil {
				t.Fatal(err)
			}
			if got := <-packets; string(got) != string(packet) {
				t.Errorf("got %x", got)
			}
		}
	})
}
