package meshtest

import (
	"net"
	"net/netip"
	"os"
	"time"
)

type packet struct {
	data []byte
	from netip.AddrPort
}

// packets is a UDP socket.
type packets struct {
	host     *Host
	port     uint16
	queue    chan packet
	closed   chan struct{}
	done     bool // guarded by the network's mutex
	deadline *deadline
}

// ReadFrom implements [net.PacketConn].
func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		select {
		case <-p.closed:
			return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed}
		default:
		}
		moved, passed, stop := p.deadline.watch()
		select {
		case q := <-p.queue:
			stop()
			return copy(b, q.data), net.UDPAddrFromAddrPort(q.from), nil
		case <-p.closed:
			stop()
			return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed}
		case <-passed:
			return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: os.ErrDeadlineExceeded}
		case <-moved:
			stop()
		}
	}
}

// WriteTo implements [net.PacketConn]. What does not get through is lost.
func (p *packets) WriteTo(b []byte, addr net.Addr) (int, error) {
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: net.InvalidAddrError("not a UDP address")}
	}
	to := u.AddrPort()
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	n := p.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.done {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: net.ErrClosed}
	}
	if !n.passes(p.host.addr, to.Addr()) || n.lost() {
		return len(b), nil
	}
	q := packet{append([]byte(nil), b...), netip.AddrPortFrom(p.host.addr, p.port)}
	time.AfterFunc(n.delay(), func() { n.deliver(q, to) })
	return len(b), nil
}

// deliver puts a datagram into the queue of its socket.
func (n *Network) deliver(q packet, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[to.Addr()]
	if h == nil || h.udp[to.Port()] == nil || !n.passes(q.from.Addr(), to.Addr()) {
		return
	}
	select {
	case h.udp[to.Port()].queue <- q:
	default:
	}
}

// Close implements [net.PacketConn].
func (p *packets) Close() error {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	p.close()
	return nil
}

// close is Close with the network's mutex held.
func (p *packets) close() {
	if !p.done {
		p.done = true
		close(p.closed)
		delete(p.host.udp, p.port)
	}
}

// LocalAddr implements [net.PacketConn].
func (p *packets) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.host.Addr(), p.port))
}

// SetDeadline implements [net.PacketConn].
func (p *packets) SetDeadline(t time.Time) error { p.deadline.set(t); return nil }

// SetReadDeadline implements [net.PacketConn].
func (p *packets) SetReadDeadline(t time.Time) error { p.deadline.set(t); return nil }

// SetWriteDeadline implements [net.PacketConn]. Writes do not wait.
func (p *packets) SetWriteDeadline(time.Time) error { return nil }
