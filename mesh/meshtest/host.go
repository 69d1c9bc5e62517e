package meshtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"gatemesh/mesh"
)

// Host is the network as one process sees it.
type Host struct {
	net  *Network
	addr netip.Addr
	// The fields below are guarded by the mutex of the network.
	dead bool
	port uint16 // the last one that was given out
	tcp  map[uint16]*listener
	udp  map[uint16]*packets
}

var _ mesh.Network = (*Host)(nil)

// Addr returns the host's address.
func (h *Host) Addr() netip.Addr {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.addr
}

// Source implements [mesh.Network].
func (h *Host) Source(netip.Addr) netip.Addr { return h.Addr() }

// Local implements [mesh.Network].
func (h *Host) Local(a netip.Addr) bool { return h.Addr() == a }

// Listen implements [mesh.Network].
func (h *Host) Listen(addr string) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	port, err := h.bind(addr, func(p uint16) bool { return h.tcp[p] != nil })
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: err}
	}
	l := &listener{host: h, port: port, queue: make(chan *conn, 128), closed: make(chan struct{})}
	h.tcp[port] = l
	return l, nil
}

// ListenPacket implements [mesh.Network].
func (h *Host) ListenPacket(addr string) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	port, err := h.bind(addr, func(p uint16) bool { return h.udp[p] != nil })
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Err: err}
	}
	p := &packets{host: h, port: port, queue: make(chan packet, 256), closed: make(chan struct{}), deadline: newDeadline()}
	h.udp[port] = p
	return p, nil
}

// bind parses addr and picks a port. h.net.mu is held.
func (h *Host) bind(addr string, taken func(uint16) bool) (uint16, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, err
	}
	if ip, err := netip.ParseAddr(host); host != "" && (err != nil || ip != h.addr && !ip.IsUnspecified()) {
		return 0, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	p, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port: %w", err)
	}
	if h.dead {
		return 0, net.ErrClosed
	}
	if p == 0 {
		for p = uint64(h.next()); taken(uint16(p)); p = uint64(h.next()) {
			continue
		}
	}
	if taken(uint16(p)) {
		return 0, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	return uint16(p), nil
}

// next returns the next port to give out. h.net.mu is held.
func (h *Host) next() uint16 {
	if h.port++; h.port < 40000 {
		h.port = 40000
	}
	return h.port
}

// Dial implements [mesh.Network]. It takes a round trip; a host on which
// nobody listens refuses, one that is not reached never answers.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	n, own := h.net, h.Addr()
	// The connection is made where the first segment arrives.
	if err := n.travel(ctx, own, to.Addr()); err != nil {
		return fail(err)
	}
	n.mu.Lock()
	var c *conn
	refused := false
	if other := n.hosts[to.Addr()]; h.dead || h.addr != own {
		n.mu.Unlock()
		return fail(net.ErrClosed)
	} else if l := other.listener(to.Port()); l == nil || len(l.queue) == cap(l.queue) {
		refused = true
	} else {
		var theirs *conn
		c, theirs = n.connect(h, netip.AddrPortFrom(own, h.next()), other, to)
		n.dials++
		l.queue <- theirs // there is room, and nobody else sends without n.mu
	}
	n.mu.Unlock()
	if err := n.travel(ctx, to.Addr(), own); err != nil {
		if c != nil {
			c.Close()
		}
		return fail(err)
	}
	if refused {
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	return c, nil
}

// listener returns that of a port, or nil. The network's mutex is held.
func (h *Host) listener(port uint16) *listener {
	if h == nil {
		return nil
	}
	return h.tcp[port]
}

// travel waits as long as a segment of a handshake takes; it is sent again
// each 200 ms while it does not get through, or its host is not there.
func (n *Network) travel(ctx context.Context, from, to netip.Addr) error {
	for {
		n.mu.Lock()
		d, ok := n.latency, n.passes(from, to)
		n.mu.Unlock()
		if !ok {
			d = 200 * time.Millisecond
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		if ok {
			return nil
		}
	}
}

// listener is a TCP socket that listens.
type listener struct {
	host   *Host
	port   uint16
	queue  chan *conn
	closed chan struct{}
	done   bool // guarded by the network's mutex
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	l.close()
	return nil
}

// close resets what was not accepted. The network's mutex is held.
func (l *listener) close() {
	if l.done {
		return
	}
	l.done = true
	close(l.closed)
	delete(l.host.tcp, l.port)
	for {
		select {
		case c := <-l.queue:
			c.in.reset(l.host)
			c.out.reset(l.host)
		default:
			return
		}
	}
}

// Addr implements [net.Listener].
func (l *listener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), l.port))
}
