package vpn

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	userspaceNIC   = tcpip.NICID(1)
	userspaceQueue = 2048 // packets towards devices; more are dropped, TCP sends them again
)

// UserspaceConfig says how Userspace reaches the world.
type UserspaceConfig struct {
	// MTU inside the tunnel in bytes, 1280 to 65535. 0: 1420.
	MTU int

	// Addresses are the gateway's own inner addresses. They answer echo
	// requests and refuse connections.
	Addresses []netip.Addr

	// Dial connects to a device's destination, an address and port, in network
	// "tcp". Connections should have CloseWrite and SetLinger as *net.TCPConn
	// has; without, an end of data ends both directions. nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Log takes connections that could not be made, at level Debug. nil: none.
	Log *slog.Logger
}

// Userspace is a tun.Device that needs no privileges: the other end of it is not
// the kernel but gVisor's TCP/IP stack in this process, which terminates each TCP
// connection of a device and makes one of the host's own in its place.
//
//	device ─► Gateway ─► Write ─► stack ─► conversation ─► Dial ─► host's network
//	device ◄─ Gateway ◄─ Read ◄── stack ◄─ conversation ◄───────── host's network
//
// Other than TCP it forwards nothing: UDP is answered with "port unreachable", so
// that applications turn to TCP at once; echo requests are answered by the
// gateway's own addresses only.
//
// Write never blocks. Both may be called by any goroutine, Read by one.
type Userspace struct {
	mtu    int
	own    []netip.Addr
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	log    *slog.Logger
	limits userspaceLimits

	stack  *stack.Stack
	link   *channel.Endpoint
	events chan tun.Event
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // conversations

	mu       sync.Mutex          // guards the fields below
	closed   bool                // no conversation begins any more
	talking  int                 // conversations, those being dialed included
	byDevice map[netip.Addr]load // by device address

	dialed, refused, failed atomic.Uint64
}

// UserspaceStats are counters since NewUserspace, but for Open.
type UserspaceStats struct {
	Open    int    // connections now, those being dialed included
	Dialed  uint64 // connections that were made
	Refused uint64 // destination not allowed, or too many connections or dials
	Failed  uint64 // destination did not answer, or the device went away
}

var _ tun.Device = (*Userspace)(nil)

// NewUserspace builds the stack; it starts no goroutine but the stack's own.
func NewUserspace(c UserspaceConfig) (*Userspace, error) {
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.MTU < 1280 || c.MTU > 65535 {
		return nil, fmt.Errorf("new userspace stack: MTU %d: want 1280 to 65535", c.MTU)
	}
	for _, a := range c.Addresses {
		if !a.IsValid() || a.Is4In6() {
			return nil, fmt.Errorf("new userspace stack: invalid address %s", a)
		}
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	u := &Userspace{
		mtu:      c.MTU,
		own:      slices.Clone(c.Addresses),
		dial:     c.Dial,
		log:      c.Log,
		limits:   defaultUserspaceLimits,
		link:     channel.New(userspaceQueue, uint32(c.MTU), ""),
		events:   make(chan tun.Event, 1),
		byDevice: make(map[netip.Addr]load),
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			// forwardable refuses loopback destinations with an RST.
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
			ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: true}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := u.configure(); err != nil {
		u.cancel()
		u.stack.Destroy()
		return nil, fmt.Errorf("new userspace stack: %w", err)
	}
	u.events <- tun.EventUp
	return u, nil
}

// configure makes the stack take packets for any address and send from any.
func (u *Userspace) configure() error {
	sack := tcpip.TCPSACKEnabled(true)
	cubic := tcpip.CongestionControlOption("cubic")
	send := tcpip.TCPSendBufferSizeRangeOption{Min: leastStackBuffer, Default: stackBuffer, Max: mostStackBuffer}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: leastStackBuffer, Default: stackBuffer, Max: mostStackBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &cubic, &send, &receive} {
		if err := u.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set TCP option %T: %s", option, err)
		}
	}
	if err := u.stack.CreateNIC(userspaceNIC, u.link); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	for _, a := range u.own {
		protocol := header.IPv6ProtocolNumber
		if a.Is4() {
			protocol = header.IPv4ProtocolNumber
		}
		address := tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := u.stack.AddProtocolAddress(userspaceNIC, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %s", a, err)
		}
	}
	if err := u.stack.SetPromiscuousMode(userspaceNIC, true); err != nil {
		return fmt.Errorf("take packets for any address: %s", err)
	}
	if err := u.stack.SetSpoofing(userspaceNIC, true); err != nil {
		return fmt.Errorf("send from any address: %s", err)
	}
	u.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: userspaceNIC},
		{Destination: header.IPv6EmptySubnet, NIC: userspaceNIC},
	})
	forwarder := tcp.NewForwarder(u.stack, stackBuffer, u.limits.handshakes, u.answer)
	u.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	return nil
}

// Read waits for packets to devices; os.ErrClosed after Close.
func (u *Userspace) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	p := u.link.ReadContext(u.ctx)
	if p == nil {
		return 0, os.ErrClosed
	}
	n := 0
	for ; p != nil; p = u.link.Read() {
		size := 0
		for _, s := range p.AsSlices() {
			size += copy(bufs[n][offset+size:], s)
		}
		p.DecRef()
		sizes[n] = size
		if n++; n == len(bufs) {
			break
		}
	}
	return n, nil
}

// Write gives the stack packets of devices; it copies them. What is no IP packet
// is dropped.
func (u *Userspace) Write(bufs [][]byte, offset int) (int, error) {
	if u.ctx.Err() != nil {
		return 0, os.ErrClosed
	}
	for _, b := range bufs {
		packet := b[offset:]
		protocol, ok := u.protocol(packet)
		if !ok {
			continue
		}
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		u.link.InjectInbound(protocol, p)
		p.DecRef()
	}
	return len(bufs), nil
}

// protocol tells what the stack shall take packet for, if it shall have it: in
// promiscuous mode it would answer IPv6 echo requests in anybody's name.
func (u *Userspace) protocol(packet []byte) (tcpip.NetworkProtocolNumber, bool) {
	if len(packet) == 0 {
		return 0, false
	}
	switch packet[0] >> 4 {
	case header.IPv4Version:
		return header.IPv4ProtocolNumber, true
	case header.IPv6Version:
		if len(packet) < header.IPv6MinimumSize {
			return 0, false
		}
		ip := header.IPv6(packet)
		payload := packet[header.IPv6MinimumSize:]
		echo := ip.TransportProtocol() == header.ICMPv6ProtocolNumber && len(payload) > 0 && header.ICMPv6Type(payload[0]) == header.ICMPv6EchoRequest
		return header.IPv6ProtocolNumber, !echo || slices.Contains(u.own, netip.AddrFrom16(ip.DestinationAddress().As16()))
	}
	return 0, false
}

// Close ends all connections and Read, and waits until they are gone.
// It may be called more than once.
func (u *Userspace) Close() error {
	u.mu.Lock()
	first := !u.closed
	u.closed = true
	u.mu.Unlock()
	if !first {
		return nil
	}
	u.cancel()
	u.stack.Close()
	u.wg.Wait()
	u.stack.Wait()
	u.link.Close()
	close(u.events)
	return nil
}

// Stats may be called at any time.
func (u *Userspace) Stats() UserspaceStats {
	u.mu.Lock()
	open := u.talking
	u.mu.Unlock()
	return UserspaceStats{Open: open, Dialed: u.dialed.Load(), Refused: u.refused.Load(), Failed: u.failed.Load()}
}

// File returns nil: there is no descriptor.
func (u *Userspace) File() *os.File { return nil }

// MTU returns the configured MTU.
func (u *Userspace) MTU() (int, error) { return u.mtu, nil }

// Name returns "userspace".
func (u *Userspace) Name() (string, error) { return "userspace", nil }

// Events holds one tun.EventUp and is closed by Close.
func (u *Userspace) Events() <-chan tun.Event { return u.events }

// BatchSize returns how many packets Read gives at once at most.
func (u *Userspace) BatchSize() int { return conn.IdealBatchSize }
