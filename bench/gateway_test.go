//go:build unix

package bench

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// engine is a gateway between two edges in memory: ours, or the module's device, which does the same for one gateway.
type engine struct {
	*wire
	*network
	public  [32]byte
	devices []*vpntest.Initiator
	enrol   func(from, to int) // lets it know those devices
	made    uint32             // handshakes
}

// engines are compared with each other in one run.
var engines = []struct {
	name  string
	start func(b *testing.B, e *engine, private [32]byte, publics [][32]byte)
}{
	{"ours", startOurs},
	{"wireguard-go", startModule},
}

// newEngine starts one that knows no devices yet, of those n.
func newEngine(b *testing.B, start func(*testing.B, *engine, [32]byte, [][32]byte), n int) *engine {
	b.Helper()
	private, public := vpntest.NewKey()
	e := &engine{wire: newWire(), network: newNetwork(), public: public}
	var publics [][32]byte
	for range n {
		private, public := vpntest.NewKey()
		d, err := vpntest.NewInitiator(private, e.public)
		if err != nil {
			b.Fatal(err)
		}
		e.devices, publics = append(e.devices, d), append(publics, public)
	}
	start(b, e, private, publics)
	return e
}

func startOurs(b *testing.B, e *engine, private [32]byte, publics [][32]byte) {
	enrolled := make(map[vpn.Key]vpn.Device, len(publics))
	for i, public := range publics {
		a := innerOf(i)
		enrolled[public] = vpn.Device{Key: public, Addresses: []netip.Prefix{netip.PrefixFrom(a, 32)}}
	}
	g, err := vpn.New(vpn.Config{
		PrivateKey: private, Bind: e.wire, TUN: e.network,
		Lookup: func(k vpn.Key) (vpn.Device, bool) { d, ok := enrolled[k]; return d, ok },
	})
	if err != nil {
		b.Fatal(err)
	}
	g.Allow(time.Now().Add(time.Hour))
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- g.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		g.Close()
	})
	e.enrol = func(int, int) {}
}

func startModule(b *testing.B, e *engine, private [32]byte, publics [][32]byte) {
	d := device.NewDevice(e.network, e.wire, &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	b.Cleanup(d.Close)
	set := func(text string) {
		if err := d.IpcSet(text); err != nil {
			b.Fatal(err)
		}
	}
	set(fmt.Sprintf("private_key=%x\n", private))
	if err := d.Up(); err != nil {
		b.Fatal(err)
	}
	e.enrol = func(from, to int) {
		var text strings.Builder
		for i, public := range publics[from:to] {
			fmt.Fprintf(&text, "public_key=%x\nallowed_ip=%v/32\n", public, innerOf(from+i))
		}
		set(text.String())
	}
}

// innerOf is the address of the i-th device in the tunnel.
func innerOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// connect makes the session of the i-th device, confirmed.
func (e *engine) connect(b *testing.B, i int) *vpntest.Session {
	b.Helper()
	e.made++
	m, h, err := e.devices[i].Initiate(e.made, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	response := make(chan []byte, 1)
	e.onSent(func(messages [][]byte) {
		if m := messages[0]; m[0] == 2 {
			response <- append([]byte(nil), m...)
		}
	})
	e.in <- [][]byte{m}
	select {
	case r := <-response:
		s := h.Finish(r)
		if s == nil {
			b.Fatal("the response does not authenticate")
		}
		e.in <- [][]byte{s.Seal(nil, nil)}
		return s
	case <-time.After(patience):
		b.Fatal("no response")
		return nil
	}
}

// sizes are those of inner packets: a small one, and what fills the path.
var sizes = []int{64, 1420}

// BenchmarkGatewayUp is the way of packets from a device through a whole gateway, sockets and TUN in memory. Sealing
// them at the device is not part of it.
func BenchmarkGatewayUp(b *testing.B) {
	for _, size := range sizes {
		for _, kind := range engines {
			b.Run(fmt.Sprintf("size=%d/engine=%s", size, kind.name), func(b *testing.B) {
				e := newEngine(b, kind.start, 1)
				e.enrol(0, 1)
				up(b, e, e.connect(b, 0), size)
			})
		}
	}
}

func up(b *testing.B, e *engine, s *vpntest.Session, size int) {
	const chunk, batch = 4096, 128
	packet := vpntest.Packet(innerOf(0), netip.MustParseAddr("192.0.2.1"), 17, make([]byte, size-20))
	messages := make([][]byte, chunk)
	for i := range messages {
		messages[i] = make([]byte, 0, vpntest.SealedSize(size))
	}
	var cpu meter
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	b.StopTimer()
	for done := 0; done < b.N; done += chunk {
		n := min(chunk, b.N-done)
		for i := range n {
			messages[i] = s.Seal(messages[i][:0], packet)
		}
		e.written.expect(n)
		cpu.on(b)
		for i := 0; i < n; i += batch {
			e.in <- messages[i:min(i+batch, n)]
		}
		e.written.wait(b)
		cpu.off(b)
	}
	cpu.report(b)
}

// BenchmarkGatewayDown is the way of packets to a device.
func BenchmarkGatewayDown(b *testing.B) {
	for _, size := range sizes {
		for _, kind := range engines {
			b.Run(fmt.Sprintf("size=%d/engine=%s", size, kind.name), func(b *testing.B) {
				e := newEngine(b, kind.start, 1)
				e.enrol(0, 1)
				s := e.connect(b, 0)
				down(b, e, s, size)
			})
		}
	}
}

func down(b *testing.B, e *engine, s *vpntest.Session, size int) {
	e.packet = vpntest.Packet(innerOf(0), netip.MustParseAddr("192.0.2.1"), 17, make([]byte, size-20))
	e.written.expect(1) // the device's first packet makes the session known before there is anything to send
	e.in <- [][]byte{s.Seal(nil, e.packet)}
	e.written.wait(b)
	e.packet = vpntest.Packet(netip.MustParseAddr("192.0.2.1"), innerOf(0), 17, make([]byte, size-20))
	var sent counter
	e.onSent(func(messages [][]byte) {
		if messages[0][0] == 4 && len(messages[0]) > vpntest.SealedSize(0) {
			sent.add(len(messages))
		}
	})
	var cpu meter
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	sent.expect(b.N)
	cpu.on(b)
	e.wanted <- b.N
	sent.wait(b)
	cpu.off(b)
	cpu.report(b)
}

// BenchmarkGatewaySessions is what a connected, idle device costs a gateway: memory, stacks included, and goroutines.
func BenchmarkGatewaySessions(b *testing.B) {
	const n = 1000
	for _, kind := range engines {
		b.Run("engine="+kind.name, func(b *testing.B) {
			for b.Loop() {
				e := newEngine(b, kind.start, n+1)
				e.enrol(0, 1)
				e.connect(b, 0) // the receiver has its buffers
				e.wanted <- 0
				e.wanted <- 0 // the transmitter, too: it has taken the first one
				before, goroutines := inUse(), runtime.NumGoroutine()
				e.enrol(1, n+1)
				for i := range n {
					e.connect(b, i+1)
				}
				b.ReportMetric(float64(inUse()-before)/n, "B/session")
				b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/session")
			}
		})
	}
}

// inUse is the memory of live objects and stacks. The second collection empties pools.
func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
