package vpntest

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

var (
	hostA = netip.MustParseAddr("192.0.2.1")
	hostB = netip.MustParseAddr("192.0.2.2")
)

// socket opens a Bind and returns what it receives.
func socket(t *testing.T, n *Internet, at netip.AddrPort) (*Bind, func() []Datagram) {
	t.Helper()
	b := n.Bind(at.Addr())
	b.Batch = 4
	fns, port, err := b.Open(at.Port())
	if err != nil || at.Port() != 0 && port != at.Port() {
		t.Fatalf("port %d: %v", port, err)
	}
	t.Cleanup(func() { b.Close() })
	bufs, sizes, eps := [][]byte{make([]byte, 100), make([]byte, 100), make([]byte, 100), make([]byte, 100)}, make([]int, 4), make([]conn.Endpoint, 4)
	return b, func() (got []Datagram) {
		synctest.Wait()
		for len(b.queue) > 0 {
			n, err := fns[0](bufs, sizes, eps)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				got = append(got, Datagram{eps[i].(*Endpoint).AddrPort, b.Local(), bytes.Clone(bufs[i][:sizes[i]])})
			}
		}
		return got
	}
}

func TestInternet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewInternet(1)
		a, fromB := socket(t, n, netip.AddrPortFrom(hostA, 1))
		b, fromA := socket(t, n, netip.AddrPortFrom(hostB, 0))
		taps := 0
		n.Tap(func(Datagram) { taps++ })
		send := func(times int) int {
			ep, err := a.ParseEndpoint(b.Local().String())
			if err != nil {
				t.Fatal(err)
			}
			for range times {
				if err := a.Send([][]byte{{1, 2}, {3}}, ep); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Hour)
			return len(fromA())
		}
		ep := &Endpoint{b.Local()}
		if err := a.Send([][]byte{{1, 2}, {3}}, ep); err != nil {
			t.Fatal(err)
		}
		if got := fromA(); len(got) != 2 || got[0].From != a.Local() || !bytes.Equal(got[0].Payload, []byte{1, 2}) || got[0].Type() != 1 {
			t.Errorf("%+v", got)
		}
		n.Send(netip.MustParseAddrPort("6.6.6.6:6"), a.Local(), nil)
		if got := fromB(); len(got) != 1 || got[0].From.Port() != 6 || got[0].Type() != 0 {
			t.Errorf("%+v", got)
		}
		n.SetFaults(Faults{Latency: time.Second})
		if err := a.Send([][]byte{{1}}, ep); err != nil || len(fromA()) != 0 {
			t.Error("no latency")
		}
		time.Sleep(time.Second)
		if len(fromA()) != 1 {
			t.Error("not delivered")
		}
		n.SetFaults(Faults{Loss: 0.5})
		if got := send(200); got < 150 || got > 250 {
			t.Errorf("%d of 400 came", got)
		}
		n.SetFaults(Faults{Duplicate: 0.5})
		if got := send(200); got < 550 || got > 650 {
			t.Errorf("%d of 400 came", got)
		}
		n.SetFaults(Faults{})
		n.Cut(hostA, hostB, true)
		if send(1) != 0 {
			t.Error("delivered across a cut")
		}
		n.Cut(hostA, hostB, false)
		n.Down(hostB, true)
		if send(1) != 0 {
			t.Error("delivered to a host that is down")
		}
		n.Down(hostB, false)
		b.Move(netip.MustParseAddrPort("192.0.2.3:3"))
		if send(1) != 2 || len(fromB()) != 0 {
			t.Error("the moved socket is not reached")
		}
		if taps != 2+1+1+400+400+2+2+2 {
			t.Errorf("%d datagrams tapped", taps)
		}
	})
}

func TestReorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewInternet(1)
		a, _ := socket(t, n, netip.AddrPortFrom(hostA, 1))
		b, fromA := socket(t, n, netip.AddrPortFrom(hostB, 1))
		n.SetFaults(Faults{Reorder: 0.5, Latency: time.Millisecond, Jitter: time.Second})
		for i := range 100 {
			if err := a.Send([][]byte{{byte(i)}}, &Endpoint{b.Local()}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		got, overtaken := fromA(), 0
		for i := range got {
			if i > 0 && got[i].Payload[0] < got[i-1].Payload[0] {
				overtaken++
			}
		}
		if len(got) != 100 || overtaken < 10 {
			t.Errorf("%d came, %d were overtaken", len(got), overtaken)
		}
	})
}

func TestBindKeepsTheContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewInternet(1)
		b := n.Bind(hostA)
		if err := b.Send([][]byte{{1}}, &Endpoint{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send before Open: %v", err)
		}
		for range 2 { // it may be opened again
			fns, _, err := b.Open(7)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := b.Open(7); !errors.Is(err, conn.ErrBindAlreadyOpen) {
				t.Errorf("second Open: %v", err)
			}
			if _, _, err := n.Bind(hostA).Open(7); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("port in use: %v", err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := fns[0]([][]byte{make([]byte, 10)}, make([]int, 1), make([]conn.Endpoint, 1))
				done <- err
			}()
			synctest.Wait()
			if err := errors.Join(b.Close(), b.Close()); err != nil {
				t.Error(err)
			}
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("receive after Close: %v", err)
			}
		}
		if err := b.Send([][]byte{{1}}, &conn.StdNetEndpoint{}); !errors.Is(err, conn.ErrWrongEndpointType) {
			t.Errorf("foreign endpoint: %v", err)
		}
		b.Queue = 3
		if _, _, err := b.Open(7); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			n.Send(netip.AddrPort{}, b.Local(), []byte{1})
		}
		if len(b.queue) != 3 {
			t.Errorf("%d datagrams wait", len(b.queue))
		}
		b.Close()
	})
}

func TestTUN(t *testing.T) {
	tun := NewTUN(0)
	tun.Batch = 2
	for i := range 3 {
		tun.Inject([]byte{byte(i)})
	}
	bufs, sizes := [][]byte{make([]byte, 10), make([]byte, 10)}, make([]int, 2)
	if n, err := tun.Read(bufs, sizes, 4); n != 2 || err != nil || sizes[1] != 1 || bufs[1][4] != 1 {
		t.Errorf("%d, %v, %v", n, err, bufs)
	}
	if n, err := tun.Write([][]byte{{0, 0, 5}, {0, 0, 6}}, 2); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if p := <-tun.Packets(); !bytes.Equal(p, []byte{5}) {
		t.Errorf("%v", p)
	}
	for range 2 * queueSize {
		tun.Inject(nil)
		tun.Write([][]byte{{1}}, 0)
	}
	if len(tun.inject) != queueSize || len(tun.packets) != queueSize {
		t.Error("more than the queues hold")
	}
	if err := errors.Join(tun.Close(), tun.Close()); err != nil {
		t.Error(err)
	}
	if _, err := tun.Read(bufs, sizes, 0); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if _, err := tun.Write(bufs, 0); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	<-tun.Events()
	if _, open := <-tun.Events(); open {
		t.Error("events are open")
	}
}

func TestEcho(t *testing.T) {
	for _, addrs := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}} {
		src, dst := netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1])
		request := EchoRequest(src, dst, 7, 9, []byte("payload"))
		reply := EchoReply(request, dst)
		for _, p := range [][]byte{request, reply} {
			header, pseudo := p[:20], []byte(nil)
			if dst.Is6() {
				header, pseudo = nil, append(bytes.Clone(p[8:40]), 0, 0, 0, byte(len(p)-40), 0, 0, 0, 58)
			}
			if _, _, _, icmp, ok := Parse(p); !ok || dst.Is4() && checksum(header) != 0 || checksum(append(pseudo, icmp...)) != 0 {
				t.Errorf("checksum of %x", p)
			}
		}
		from, to, _, icmp, ok := Parse(reply)
		if !ok || from != dst || to != src || !bytes.Equal(icmp[4:], append([]byte{0, 7, 0, 9}, "payload"...)) {
			t.Errorf("reply %x", reply)
		}
		if EchoReply(request, src) != nil || EchoReply(reply) != nil || EchoReply(nil) != nil || EchoReply(Packet(src, dst, 17, make([]byte, 8))) != nil {
			t.Error("something else is answered")
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(EchoRequest(hostA, hostB, 1, 1, nil))
	f.Add([]byte{0x60})
	f.Fuzz(func(t *testing.T, b []byte) {
		EchoReply(b)
		if src, dst, _, payload, ok := Parse(b); ok && (src.Is4() != dst.Is4() || len(payload) > len(b)) {
			t.Errorf("%x", b)
		}
	})
}
