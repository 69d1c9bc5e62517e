package mesh

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Network is what the operating system gives: sockets. [System] is the real
// one, package meshtest has one in memory. All methods may be called from
// several goroutines.
type Network interface {
	// ListenPacket opens a UDP socket at addr, which is [host]:port.
	ListenPacket(addr string) (net.PacketConn, error)
	// Listen opens a TCP listener at addr, which is [host]:port.
	Listen(addr string) (net.Listener, error)
	// Dial opens a TCP connection. It ends with ctx. A link-local address may
	// lack its zone, also that of a packet that is sent.
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// Source returns the local address from which to would be reached. For
	// the zero Addr it returns the one by which others most likely reach this
	// host. The result is the zero Addr if there is none.
	Source(to netip.Addr) netip.Addr
	// Local says whether a is an address of this host.
	Local(a netip.Addr) bool
}

// System is the operating system's network.
var System Network = system{}

type system struct{}

func (system) ListenPacket(addr string) (net.PacketConn, error) {
	conn, err := net.ListenPacket("udp", addr)
	if u, ok := conn.(*net.UDPConn); ok {
		return linkConn{u}, nil
	}
	return conn, err
}

func (system) Listen(addr string) (net.Listener, error) {
	return net.Listen("tcp", addr)
}

func (system) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	// Heartbeats notice a dead peer long before these probes; they are for
	// the connections of a join.
	d := net.Dialer{KeepAlive: 15 * time.Second}
	return dialAny(ctx, d, onLinks(addr))
}

// Source asks the routing table by connecting a UDP socket, which sends
// nothing.
func (s system) Source(to netip.Addr) netip.Addr {
	if to.IsValid() {
		return routeTo(to)
	}
	// Documentation addresses (RFC 5737, RFC 3849): only a default route
	// leads there.
	for _, anywhere := range []string{"192.0.2.1", "2001:db8::1"} {
		if a := routeTo(netip.MustParseAddr(anywhere)); a.IsValid() && !a.IsLoopback() {
			return a
		}
	}
	return firstPrivate()
}

// Local looks through the interfaces.
func (system) Local(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // not known: nothing follows
	}
	for _, n := range addrs {
		if n, ok := n.(*net.IPNet); ok {
			if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == a {
				return true
			}
		}
	}
	return false
}

func routeTo(to netip.Addr) netip.Addr {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return local.AddrPort().Addr().Unmap().WithZone("")
}

// firstPrivate returns the first private address of an interface, IPv4
// before IPv6, those that lead to other hosts before those within this one,
// else a link-local one, else loopback.
func firstPrivate() netip.Addr {
	cards, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}
	}
	var best netip.Addr
	rank := 0
	for _, c := range cards {
		addrs, err := c.Addrs()
		if err != nil || c.Flags&net.FlagUp == 0 {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				if r := fitness(c.Name, c.Flags, ip.Unmap()); r > rank {
					best, rank = ip.Unmap(), r
				}
			}
		}
	}
	return best
}

// inner are beginnings of names of interfaces that end in this host:
// containers, virtual machines, tunnels.
var inner = []string{
	"docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "cni", "podman", "lxc", "lxd", "flannel", "cali", "tun", "tap",
	"wg", "utun", "gatemesh",
}

// fitness says how good an address of an interface is to be reached at from
// the LAN; 0: not at all.
func fitness(name string, flags net.Flags, ip netip.Addr) int {
	within := flags&net.FlagPointToPoint != 0 ||
		slices.ContainsFunc(inner, func(s string) bool { return strings.HasPrefix(name, s) })
	r := 0
	switch {
	case ip.IsLoopback():
		within = true
		if r = 1; ip.Is4() {
			r = 2
		}
	case ip.IsLinkLocalUnicast() && ip.Is6():
		r = 3
	case ip.IsLinkLocalUnicast():
		r = 4
	case ip.IsGlobalUnicast() && ip.Is6():
		r = 5
	case ip.IsGlobalUnicast():
		r = 6
	}
	if r > 0 && !within {
		r += 6
	}
	return r
}
