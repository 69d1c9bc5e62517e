package vpn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

var (
	device4  = netip.MustParseAddr("100.64.0.9")
	device6  = netip.MustParseAddr("fd00:64::9")
	gateway4 = netip.MustParseAddr("100.64.0.1")
	gateway6 = netip.MustParseAddr("fd00:64::1")
	server4  = netip.MustParseAddrPort("192.0.2.7:80")
	server6  = netip.MustParseAddrPort("[2001:db8::7]:80")
)

// testDevice is a device's TCP/IP stack, whose packets come and go at a tun.Device
// as the engine's would.
type testDevice struct {
	tun     tun.Device
	stack   *stack.Stack
	link    *channel.Endpoint
	capture func(toDevice bool, packet []byte) // called by two goroutines; nil: none
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// newTestDevice starts a device; stop it before its tun.Device, or after: both end it.
func newTestDevice(t testing.TB, dev tun.Device, mtu int, capture func(bool, []byte), addresses ...netip.Addr) *testDevice {
	d := &testDevice{
		tun:     dev,
		link:    channel.New(4096, uint32(mtu), ""),
		capture: capture,
		stack: stack.New(stack.Options{
			NetworkProtocols: []stack.NetworkProtocolFactory{
				ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
				ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: true}),
			},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		}),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.stack.CreateNIC(1, d.link); err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		protocol, _ := networkOf(a)
		err := d.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{
			Protocol:          protocol,
			AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix(),
		}, stack.AddressProperties{})
		if err != nil {
			t.Fatal(err)
		}
	}
	d.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	d.wg.Go(d.send)
	d.wg.Go(d.receive)
	return d
}

func networkOf(a netip.Addr) (tcpip.NetworkProtocolNumber, string) {
	if a.Is4() {
		return header.IPv4ProtocolNumber, "IPv4"
	}
	return header.IPv6ProtocolNumber, "IPv6"
}

// send carries packets from the device's stack to the tun.Device.
func (d *testDevice) send() {
	for {
		p := d.link.ReadContext(d.ctx)
		if p == nil {
			return
		}
		b := make([]byte, 16, 16+p.Size())
		for _, s := range p.AsSlices() {
			b = append(b, s...)
		}
		p.DecRef()
		if d.capture != nil {
			d.capture(false, b[16:])
		}
		if _, err := d.tun.Write([][]byte{b}, 16); err != nil {
			return
		}
	}
}

// receive carries packets from the tun.Device to the device's stack, until it is closed.
func (d *testDevice) receive() {
	bufs := make([][]byte, d.tun.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 16+1<<16)
	}
	sizes := make([]int, len(bufs))
	for {
		n, err := d.tun.Read(bufs, sizes, 16)
		if err != nil {
			return
		}
		for i, b := range bufs[:n] {
			packet := b[16 : 16+sizes[i]]
			if d.capture != nil {
				d.capture(true, packet)
			}
			p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
			if packet[0]>>4 == 4 {
				d.link.InjectInbound(header.IPv4ProtocolNumber, p)
			} else {
				d.link.InjectInbound(header.IPv6ProtocolNumber, p)
			}
			p.DecRef()
		}
	}
}

// stop ends the device; its tun.Device must be closed already.
func (d *testDevice) stop() {
	d.cancel()
	d.wg.Wait()
	d.stack.Destroy()
	d.link.Close()
}

func (d *testDevice) dial(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	protocol, _ := networkOf(to.Addr())
	return gonet.DialContextTCP(ctx, d.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()}, protocol)
}

// inUserspace gives f a device behind a Userspace and a listener of this host's
// loopback at which all its connections end; then nothing may be left.
func inUserspace(t testing.TB, change func(*UserspaceConfig), f func(u *Userspace, d *testDevice, l *net.TCPListener)) {
	ignore := goleak.IgnoreCurrent()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	config := UserspaceConfig{
		Addresses: []netip.Addr{gateway4, gateway6},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, l.Addr().String())
		},
	}
	if change != nil {
		change(&config)
	}
	u, err := NewUserspace(config)
	if err != nil {
		t.Fatal(err)
	}
	d := newTestDevice(t, u, 1420, nil, device4, device6)
	func() {
		defer d.stop()
		defer u.Close()
		defer l.Close()
		f(u, d, l)
	}()
	if err := u.Close(); err != nil {
		t.Error("second Close:", err)
	}
	if got := u.Stats().Open; got != 0 {
		t.Errorf("%d connections open after Close", got)
	}
	if err := goleak.Find(ignore); err != nil {
		t.Error(err)
	}
}

// connect returns both ends of a device's connection.
func connectDevice(t testing.TB, d *testDevice, l *net.TCPListener, to netip.AddrPort) (device *gonet.TCPConn, host *net.TCPConn) {
	device, err := d.dial(to)
	if err != nil {
		t.Fatal(err)
	}
	host, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	device.SetDeadline(deadline)
	host.SetDeadline(deadline)
	return device, host
}

func TestUserspaceSplice(t *testing.T) {
	for _, to := range []netip.AddrPort{server4, server6} {
		_, family := networkOf(to.Addr())
		t.Run(family, func(t *testing.T) {
			dialed := make(chan string, 1)
			change := func(c *UserspaceConfig) {
				dial := c.Dial
				c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					dialed <- network + " " + address
					return dial(ctx, network, address)
				}
			}
			inUserspace(t, change, func(u *Userspace, d *testDevice, l *net.TCPListener) {
				device, host := connectDevice(t, d, l, to)
				if got, want := <-dialed, "tcp "+to.String(); got != want {
					t.Errorf("dialed %q, want %q", got, want)
				}
				data := randomBytes(1 << 20)
				var wg sync.WaitGroup
				check := func(who string, c net.Conn) {
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("%s read %d bytes, %v; want the %d sent", who, len(got), err, len(data))
					}
				}
				// Each direction ends alone: the device first, and the host answers after that.
				wg.Go(func() { device.Write(data); device.CloseWrite() })
				check("host", host)
				wg.Go(func() { host.Write(data); host.CloseWrite() })
				check("device", device)
				wg.Wait()
				device.Close()
				host.Close()
				if s := u.Stats(); s.Dialed != 1 || s.Refused != 0 || s.Failed != 0 {
					t.Errorf("stats %+v, want one connection dialed", s)
				}
			})
		})
	}
}

func TestUserspaceReset(t *testing.T) {
	t.Run("by host", func(t *testing.T) {
		inUserspace(t, nil, func(_ *Userspace, d *testDevice, l *net.TCPListener) {
			device, host := connectDevice(t, d, l, server4)
			host.SetLinger(0)
			host.Close()
			if _, err := device.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("device reads %v, want a reset", err)
			}
		})
	})
	t.Run("by device", func(t *testing.T) {
		inUserspace(t, nil, func(_ *Userspace, d *testDevice, l *net.TCPListener) {
			_, host := connectDevice(t, d, l, server4)
			for _, e := range d.stack.RegisteredEndpoints() {
				e.Abort()
			}
			if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("host reads %v, want a reset", err)
			}
		})
	})
	t.Run("by idleness", func(t *testing.T) {
		inUserspace(t, nil, func(u *Userspace, d *testDevice, l *net.TCPListener) {
			u.limits.idle = 50 * time.Millisecond
			device, host := connectDevice(t, d, l, server4)
			if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("host reads %v, want a reset", err)
			}
			if _, err := device.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("device reads %v, want a reset", err)
			}
		})
	})
	t.Run("by Close", func(t *testing.T) {
		inUserspace(t, nil, func(u *Userspace, d *testDevice, l *net.TCPListener) {
			_, host := connectDevice(t, d, l, server4)
			u.Close()
			if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("host reads %v, want a reset", err)
			}
		})
	})
}

func TestUserspaceRefuses(t *testing.T) {
	refusal := errors.New("refused")
	inUserspace(t, func(c *UserspaceConfig) {
		c.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
			if address != server4.String() {
				t.Errorf("dialed %s", address)
			}
			return nil, refusal
		}
	}, func(u *Userspace, d *testDevice, _ *net.TCPListener) {
		for _, to := range []string{"127.0.0.1:22", "100.64.0.1:80", "[fd00:64::1]:80", "169.254.169.254:80", "[::ffff:127.0.0.1]:22"} {
			if c, err := d.dial(netip.MustParseAddrPort(to)); err == nil {
				t.Errorf("connected to %s", to)
				c.Close()
			}
		}
		if got := u.Stats(); got.Refused != 5 || got.Failed != 0 {
			t.Errorf("stats %+v, want 5 refused", got)
		}
		if _, err := d.dial(server4); err == nil {
			t.Error("connected to a host that refuses")
		}
		if got := u.Stats(); got.Refused != 5 || got.Failed != 1 {
			t.Errorf("stats %+v, want 5 refused and 1 failed", got)
		}
	})
}

func TestForwardable(t *testing.T) {
	own := []netip.Addr{gateway4, gateway6}
	for address, want := range map[string]bool{
		"192.0.2.1":              true,
		"10.1.2.3":               true,
		"100.64.0.2":             true,
		"240.0.0.1":              true,
		"2001:db8::1":            true,
		"fd00:64::2":             true,
		"64:ff9b::c000:201":      true,
		"::ffff:192.0.2.1":       true,
		"0.0.0.0":                false,
		"0.1.2.3":                false,
		"127.0.0.1":              false,
		"127.255.255.254":        false,
		"169.254.169.254":        false,
		"224.0.0.1":              false,
		"239.255.255.250":        false,
		"255.255.255.255":        false,
		"100.64.0.1":             false,
		"::":                     false,
		"::1":                    false,
		"::7f00:1":               false,
		"::ffff:127.0.0.1":       false,
		"::ffff:169.254.169.254": false,
		"fe80::1":                false,
		"ff02::1":                false,
		"fd00:64::1":             false,
	} {
		if got := forwardable(netip.MustParseAddr(address), own); got != want {
			t.Errorf("forwardable(%s) = %v, want %v", address, got, want)
		}
	}
	if forwardable(netip.Addr{}, nil) {
		t.Error("the zero Addr is forwardable")
	}
}

func TestUserspaceLimits(t *testing.T) {
	inUserspace(t, nil, func(u *Userspace, d *testDevice, l *net.TCPListener) {
		u.limits.perDevice = 2
		connectDevice(t, d, l, server4)
		device, host := connectDevice(t, d, l, server4)
		if _, err := d.dial(server4); err == nil {
			t.Fatal("third connection of a device that may have two")
		}
		if s := u.Stats(); s.Open != 2 || s.Refused != 1 {
			t.Errorf("stats %+v, want 2 open and 1 refused", s)
		}
		if _, err := d.dial(server6); err != nil { // comes from the device's other address
			t.Fatal(err)
		}
		u.limits.conversations = 3
		if _, err := d.dial(server6); err == nil {
			t.Fatal("fourth connection where there may be three")
		}
		device.CloseWrite()
		host.CloseWrite()
		for deadline := time.Now().Add(30 * time.Second); ; {
			if _, err := d.dial(server4); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("a connection that ended on both sides still counts")
			}
		}
	})
}

func TestUserspaceDialTimeout(t *testing.T) {
	silence := func() (begun chan struct{}, ended chan error, change func(*UserspaceConfig)) {
		begun, ended = make(chan struct{}, 1), make(chan error, 1)
		return begun, ended, func(c *UserspaceConfig) {
			c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				begun <- struct{}{}
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil, ctx.Err()
			}
		}
	}
	t.Run("timeout", func(t *testing.T) {
		_, ended, change := silence()
		inUserspace(t, change, func(u *Userspace, d *testDevice, _ *net.TCPListener) {
			u.limits.dial = 20 * time.Millisecond
			if _, err := d.dial(server4); err == nil {
				t.Error("connected to a host that does not answer")
			}
			if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dialing ended with %v", err)
			}
		})
	})
	t.Run("Close", func(t *testing.T) {
		begun, ended, change := silence()
		inUserspace(t, change, func(u *Userspace, d *testDevice, _ *net.TCPListener) {
			failed := make(chan error)
			go func() {
				_, err := d.dial(server4)
				failed <- err
			}()
			<-begun
			u.Close()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("dialing ended with %v", err)
			}
			for _, e := range d.stack.RegisteredEndpoints() {
				e.Abort()
			}
			<-failed
		})
	})
}

// A device that sends a SYN and vanishes holds nothing after Close.
func TestUserspaceHalfOpen(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	local, remote := net.Pipe()
	var dials atomic.Int32
	u, err := NewUserspace(UserspaceConfig{Dial: func(context.Context, string, string) (net.Conn, error) {
		dials.Add(1)
		return local, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the repetitions belong to the same attempt
		u.Write([][]byte{tcpSYN(device4, server4)}, 0)
	}
	buf := [][]byte{make([]byte, 1<<16)}
	if n, err := u.Read(buf, []int{0}, 0); n != 1 || err != nil {
		t.Fatalf("read %d packets, %v; want the SYN-ACK", n, err)
	}
	if flags := header.TCP(header.IPv4(buf[0]).Payload()).Flags(); flags != header.TCPFlagSyn|header.TCPFlagAck {
		t.Errorf("answered with flags %s, want SYN-ACK", flags)
	}
	u.Close()
	if _, err := remote.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the host's connection reads %v, want its end", err)
	}
	if got := dials.Load(); got != 1 {
		t.Errorf("dialed %d times", got)
	}
	if _, err := u.Read(buf, []int{0}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := u.Write(buf, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
	if err := goleak.Find(ignore); err != nil {
		t.Error(err)
	}
}

// tcpSYN returns an IPv4 packet without TCP options.
func tcpSYN(from netip.Addr, to netip.AddrPort) []byte {
	b := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	src, dst := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: src, DstAddr: dst})
	ip.SetChecksum(^ip.CalculateChecksum())
	segment := header.TCP(ip.Payload())
	segment.Encode(&header.TCPFields{SrcPort: 40000, DstPort: to.Port(), SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
	segment.SetChecksum(^segment.CalculateChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, header.TCPMinimumSize)))
	return b
}

// Only the gateway's own addresses answer echo requests; UDP is told that nobody listens.
func TestUserspaceOtherProtocols(t *testing.T) {
	u, err := NewUserspace(UserspaceConfig{Addresses: []netip.Addr{gateway4, gateway6}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, test := range []struct {
		name     string
		from, to netip.Addr
		udp      bool
		want     string
	}{
		{"echo to the gateway", device4, gateway4, false, "echo reply"},
		{"echo to the gateway", device6, gateway6, false, "echo reply"},
		{"echo to another", device4, server4.Addr(), false, ""},
		{"echo to another", device6, server6.Addr(), false, ""},
		{"UDP to another", device4, server4.Addr(), true, "port unreachable"},
		{"UDP to another", device6, server6.Addr(), true, "port unreachable"},
	} {
		_, family := networkOf(test.from)
		packet := echoRequest(test.from, test.to)
		if test.udp {
			packet = udpPacket(test.from, test.to)
		}
		// A request to the gateway marks the end of what there is to read.
		end := echoRequest(device4, gateway4)
		u.Write([][]byte{packet, end}, 0)
		if got := kindOf(readPacket(t, u)); test.want != "" && got != test.want {
			t.Errorf("%s, %s: answered by %q, want %q", test.name, family, got, test.want)
		} else if test.want == "" && got != "echo reply" {
			t.Errorf("%s, %s: answered by %q", test.name, family, got)
		}
		if test.want != "" {
			readPacket(t, u)
		} else if n := u.link.NumQueued(); n > 0 {
			t.Errorf("%s, %s: answered", test.name, family)
		}
	}
}

func readPacket(t *testing.T, u *Userspace) []byte {
	t.Helper()
	bufs, sizes := [][]byte{make([]byte, 1<<16)}, []int{0}
	if n, err := u.Read(bufs, sizes, 0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	return bufs[0][:sizes[0]]
}

func echoRequest(from, to netip.Addr) []byte {
	body := []byte{8, 0, 0, 0, 0, 1, 0, 1, 'e', 'c', 'h', 'o'}
	if from.Is6() {
		body[0] = 128
		src, dst := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice())
		header.ICMPv6(body).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: body, Src: src, Dst: dst}))
		return innerPacket(from, to, uint8(header.ICMPv6ProtocolNumber), body)
	}
	header.ICMPv4(body).SetChecksum(header.ICMPv4Checksum(body, 0))
	return innerPacket(from, to, uint8(header.ICMPv4ProtocolNumber), body)
}

func udpPacket(from, to netip.Addr) []byte {
	body := make([]byte, 12)
	h := header.UDP(body)
	h.Encode(&header.UDPFields{SrcPort: 1000, DstPort: 53, Length: uint16(len(body))})
	src, dst := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice())
	h.SetChecksum(^h.CalculateChecksum(header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(len(body)))))
	return innerPacket(from, to, uint8(header.UDPProtocolNumber), body)
}

func innerPacket(from, to netip.Addr, protocol uint8, body []byte) []byte {
	src, dst := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice())
	if from.Is6() {
		b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(body))
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(body)), TransportProtocol: tcpip.TransportProtocolNumber(protocol), HopLimit: 64, SrcAddr: src, DstAddr: dst})
		return append(b, body...)
	}
	b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(cap(b)), TTL: 64, Protocol: protocol, SrcAddr: src, DstAddr: dst})
	ip.SetChecksum(^ip.CalculateChecksum())
	return append(b, body...)
}

// kindOf names the ICMP messages that matter here.
func kindOf(packet []byte) string {
	var kind [3]byte
	if packet[0]>>4 == 4 {
		ip := header.IPv4(packet)
		kind = [3]byte{ip.Protocol(), ip.Payload()[0], ip.Payload()[1]}
	} else {
		ip := header.IPv6(packet)
		kind = [3]byte{ip.NextHeader(), ip.Payload()[0], ip.Payload()[1]}
	}
	switch kind {
	case [3]byte{1, 0, 0}, [3]byte{58, 129, 0}:
		return "echo reply"
	case [3]byte{1, 3, 3}, [3]byte{58, 1, 4}:
		return "port unreachable"
	}
	return fmt.Sprint(kind)
}

func TestNewUserspaceErrors(t *testing.T) {
	for _, c := range []UserspaceConfig{
		{MTU: 1279},
		{MTU: 65536},
		{MTU: -1},
		{Addresses: []netip.Addr{{}}},
		{Addresses: []netip.Addr{gateway4, gateway4}},
	} {
		if u, err := NewUserspace(c); err == nil {
			t.Errorf("%+v: no error", c)
			u.Close()
		}
	}
}

// FuzzUserspace feeds what devices may send after decryption.
func FuzzUserspace(f *testing.F) {
	u, err := NewUserspace(UserspaceConfig{
		Addresses: []netip.Addr{gateway4, gateway6},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no network")
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	d := newTestDevice(f, u, 1420, nil, device4, device6) // takes the answers
	f.Cleanup(func() { u.Close(); d.stop() })
	f.Add([]byte{})
	f.Add([]byte{0x45})
	f.Add([]byte{0x60, 58})
	f.Add(tcpSYN(device4, server4))
	f.Add(echoRequest(device4, gateway4))
	f.Add(echoRequest(device6, gateway6))
	f.Add(udpPacket(device6, server6.Addr()))
	f.Add(binary.BigEndian.AppendUint64([]byte{0x60, 0, 0, 0, 0, 8, 44, 64, 39: 1}, 0)) // fragment header
	f.Fuzz(func(t *testing.T, packet []byte) {
		if n, err := u.Write([][]byte{packet}, 0); n != 1 || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
}

// BenchmarkUserspace measures one device's download and upload through the stack:
// the device's own stack runs here too.
func BenchmarkUserspace(b *testing.B) {
	for _, up := range []bool{true, false} {
		b.Run(map[bool]string{true: "upload", false: "download"}[up], func(b *testing.B) {
			inUserspace(b, nil, func(_ *Userspace, d *testDevice, l *net.TCPListener) {
				device, host := connectDevice(b, d, l, server4)
				device.SetDeadline(time.Time{})
				host.SetDeadline(time.Time{})
				var from, to net.Conn = host, device
				if up {
					from, to = device, host
				}
				chunk := make([]byte, 64<<10)
				b.SetBytes(int64(len(chunk)))
				b.ReportAllocs()
				go func() {
					for range b.N {
						from.Write(chunk)
					}
				}()
				b.ResetTimer()
				if _, err := io.CopyN(io.Discard, to, int64(b.N)*int64(len(chunk))); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// One device's dials to where nobody answers are in nobody else's way, and what a connection holds is bounded.
func TestUserspaceDialsPerDevice(t *testing.T) {
	begun, release := make(chan struct{}, 1024), make(chan struct{})
	u, err := NewUserspace(UserspaceConfig{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		begun <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, errors.New("nobody is there")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	var send tcpip.TCPSendBufferSizeRangeOption
	var receive tcpip.TCPReceiveBufferSizeRangeOption
	for _, option := range []tcpip.GettableTransportProtocolOption{&send, &receive} {
		if err := u.stack.TransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			t.Fatal(err)
		}
	}
	if send.Max > 1<<20 || receive.Max > 1<<20 || send.Default > 256<<10 || receive.Default > 256<<10 {
		t.Errorf("%+v, %+v", send, receive)
	}
	if u.limits.dials*4 > u.limits.handshakes || u.limits.dials >= u.limits.perDevice {
		t.Errorf("%+v", u.limits)
	}

	other := device4.Next()
	knock := func(device netip.Addr, n int) {
		for port := range uint16(n) {
			u.Write([][]byte{tcpSYN(device, netip.AddrPortFrom(server4.Addr(), 1000+port))}, 0)
		}
	}
	resets := func(n int) (got map[netip.Addr]int) {
		got = make(map[netip.Addr]int)
		buf := [][]byte{make([]byte, 1<<16)}
		for range n {
			if n, err := u.Read(buf, []int{0}, 0); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			ip := header.IPv4(buf[0])
			if !header.TCP(ip.Payload()).Flags().Contains(header.TCPFlagRst) {
				t.Fatal("answered with something else than RST")
			}
			got[fromStack(ip.DestinationAddress())]++
		}
		return got
	}
	knock(device4, u.limits.dials+10)
	if got := resets(10); got[device4] != 10 {
		t.Errorf("%v", got)
	}
	knock(other, 3)
	for range u.limits.dials + 3 {
		<-begun
	}
	close(release)
	if got := resets(u.limits.dials + 3); got[device4] != u.limits.dials || got[other] != 3 {
		t.Errorf("%v", got)
	}
	u.Close() // waits for conversations
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.byDevice) != 0 || u.refused.Load() != 10 || u.failed.Load() != uint64(u.limits.dials+3) {
		t.Errorf("%v, %d refused, %d failed", u.byDevice, u.refused.Load(), u.failed.Load())
	}
}
