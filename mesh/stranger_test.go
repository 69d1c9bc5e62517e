package mesh_test

import (
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"gatemesh/mesh/meshtest"
)

// Half-open connections and garbage, on TCP and UDP, while members come and
// go.
func TestStrangersAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a := start(t, n, "a", 1)
		rng := rand.New(rand.NewPCG(1, 2))
		var open []net.Conn
		for i := range 20 {
			h := n.Host(meshtest.Addr(100 + i))
			udp, err := h.ListenPacket(":0")
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			for j := range 64 {
				c, err := h.Dial(t.Context(), a.addr())
				if err != nil {
					continue
				}
				open = append(open, c)
				b := make([]byte, rng.IntN(2000))
				for k := range b {
					b[k] = byte(rng.Uint32())
				}
				switch j % 4 {
				case 0: // says nothing
				case 1:
					_, _ = c.Write(b)
				case 2: // a TLS handshake that does not come
					_, _ = c.Write([]byte{0x16, 3, 1})
				case 3: // a label of memberlist, and a state of 16 MiB that does not come
					_, _ = c.Write(append([]byte{244, 11}, "gm-01000000\x0a\x00\xff\xff\xff"...))
				}
				_, _ = udp.WriteTo(b, net.UDPAddrFromAddrPort(a.addr()))
			}
		}
		// All of them are closed, the silent ones after the deadlines.
		at := time.Now()
		done := make(chan time.Duration, len(open))
		for _, c := range open {
			go func() {
				_, _ = io.Copy(io.Discard, c)
				done <- time.Since(at)
			}()
		}
		var last time.Duration
		for range open {
			last = max(last, <-done)
		}
		if last > 20*time.Second {
			t.Errorf("a silent connection is kept for %v", last)
		}
		for _, c := range open {
			c.Close()
		}
		b := start(t, n, "b", 2)
		b.mesh.Connect(addrs(a))
		within(t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
		closeAll(a, b)
	})
}

// A flood from one host keeps out nobody else.
func TestFloodFromOneHostKeepsOutNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b := start(t, n, "a", 1), start(t, n, "b", 2)
		h := n.Host(meshtest.Addr(100))
		var open []net.Conn
		for range 500 {
			if c, err := h.Dial(t.Context(), a.addr()); err == nil {
				open = append(open, c)
			}
		}
		at := time.Now()
		b.mesh.Connect(addrs(a))
		within(t, time.Second, "meshed", func() bool { return meshed(a, b) })
		if time.Since(at) > time.Second {
			t.Error("late")
		}
		for _, c := range open {
			c.Close()
		}
		time.Sleep(10 * time.Second)
		closeAll(a, b)
	})
}
