package vpn

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// discardBind and discardTUN are edges that cost nothing.
type discardBind struct{ conn.Bind }

func (discardBind) Send([][]byte, conn.Endpoint) error { return nil }
func (discardBind) BatchSize() int                     { return conn.IdealBatchSize }

type discardTUN struct{ tun.Device }

func (discardTUN) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

func discardEdges(g *Gateway) {
	var dev tun.Device = discardTUN{g.tun()}
	g.cfg.Bind = discardBind{g.cfg.Bind}
	g.dev.Store(&dev)
}

// BenchmarkReceive is the way of one packet from a UDP batch to a TUN batch. Sealing it at the device is part of it.
func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{64, 1420} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			g := idle(b)
			inner := netip.MustParseAddr("10.0.0.9")
			_, far := live(b, g, inner)
			discardEdges(g)
			const batch = conn.IdealBatchSize
			r := &receiver{g: g, out: make([][]byte, 0, batch)}
			packet := vpntest.Packet(inner, netip.MustParseAddr("10.0.0.1"), 17, make([]byte, size-20))
			buffers := makeBuffers(batch)
			from := &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				buf := buffers[i%batch]
				copy(buf[headerSize:], packet)
				m, _ := sealPacket(far, buf, len(packet), defaultMTU)
				r.datagram(buf, len(m), from, 0)
				if i%batch == batch-1 {
					r.flush(g.now())
				}
			}
		})
	}
}

// BenchmarkTransmit is the way of one packet from a TUN batch to a UDP batch.
func BenchmarkTransmit(b *testing.B) {
	for _, size := range []int{64, 1420} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			g := idle(b)
			inner := netip.MustParseAddr("10.0.0.9")
			live(b, g, inner)
			discardEdges(g)
			const batch = conn.IdealBatchSize
			t := &transmitter{g: g, out: make([][]byte, 0, batch)}
			packet := vpntest.Packet(netip.MustParseAddr("10.0.0.1"), inner, 17, make([]byte, size-20))
			buffers, sizes := makeBuffers(batch), make([]int, batch)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				sizes[i%batch] = copy(buffers[i%batch][headerSize:], packet)
				if i%batch == batch-1 {
					t.batch(buffers, sizes, g.now())
				}
			}
		})
	}
}

// BenchmarkIdleSession reports what a connected device costs.
func BenchmarkIdleSession(b *testing.B) {
	const n = 10000
	for b.Loop() {
		g := idle(b)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			live(b, g, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/session")
		runtime.KeepAlive(g)
	}
}

// BenchmarkSweep is one look at one of 20,000 busy devices.
func BenchmarkSweep(b *testing.B) {
	g := idle(b)
	const n = 20000
	for i := range n {
		p, _ := live(b, g, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		g.schedule.at(p, g.now()+time.Duration(i)*time.Microsecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		p, _ := g.schedule.pop(1 << 62)
		g.tick(p, g.now())
	}
}
