package meshtest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"gatemesh/mesh"
)

const lanQuery = time.Second // how often who listens asks, as multicast DNS does

// lan is the multicast of a network. The network's mutex guards it.
type lan struct{ conns map[*lanConn]bool }

func newLANState() lan { return lan{map[*lanConn]bool{}} }

// drop closes what is open on h. n.mu is held.
func (l *lan) drop(h *Host) {
	for c := range l.conns {
		if c.host == h {
			c.close()
		}
	}
}

// LAN returns multicast as the host at addr sees it, which must have been
// started by Host. All hosts are on one segment.
func (n *Network) LAN(addr netip.Addr) mesh.LAN { return lanHost{n, addr} }

type lanHost struct {
	net  *Network
	addr netip.Addr
}

// Open implements [mesh.LAN].
func (l lanHost) Open(_ string, port uint16, _ *slog.Logger) (mesh.LANConn, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	h := l.net.hosts[l.addr]
	if h == nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Err: net.ErrClosed}
	}
	c := &lanConn{
		net: l.net, host: h, from: netip.AddrPortFrom(l.addr, port),
		seen: make(chan heard, 256), closed: make(chan struct{}),
	}
	l.net.lan.conns[c] = true
	c.ask()
	return c, nil
}

type heard struct {
	hint []byte
	from netip.AddrPort
}

// lanConn is one process on the LAN. The network's mutex guards done, hint
// and timer.
type lanConn struct {
	net    *Network
	host   *Host
	from   netip.AddrPort
	seen   chan heard
	closed chan struct{}
	done   bool
	hint   []byte
	timer  *time.Timer
}

// ask queries all others, now and each second: two datagrams that may be
// lost. n.mu is held.
func (c *lanConn) ask() {
	for other := range c.net.lan.conns {
		if other != c && other.hint != nil && c.net.passes(c.host.addr, other.host.addr) && !c.net.lost() {
			other.tell(c)
		}
	}
	c.timer = time.AfterFunc(lanQuery, func() {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		if !c.done {
			c.ask()
		}
	})
}

// tell sends the hint of c to another. n.mu is held.
func (c *lanConn) tell(to *lanConn) {
	if !c.net.passes(c.host.addr, to.host.addr) || c.net.lost() {
		return
	}
	h := heard{append([]byte(nil), c.hint...), c.from}
	time.AfterFunc(c.net.delay(), func() {
		select {
		case to.seen <- h:
		default:
		}
	})
}

// Announce implements [mesh.LANConn].
func (c *lanConn) Announce(hint []byte) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.done {
		return net.ErrClosed
	}
	c.hint = append([]byte(nil), hint...)
	for other := range c.net.lan.conns {
		if other != c {
			c.tell(other)
		}
	}
	return nil
}

// Receive implements [mesh.LANConn].
func (c *lanConn) Receive(ctx context.Context) ([]byte, netip.AddrPort, error) {
	select {
	case h := <-c.seen:
		return h.hint, h.from, nil
	case <-c.closed:
		return nil, netip.AddrPort{}, net.ErrClosed
	case <-ctx.Done():
		return nil, netip.AddrPort{}, ctx.Err()
	}
}

// Close implements [mesh.LANConn].
func (c *lanConn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.close()
	return nil
}

// close is Close with the network's mutex held.
func (c *lanConn) close() {
	if c.done {
		return
	}
	c.done = true
	c.timer.Stop()
	close(c.closed)
	delete(c.net.lan.conns, c)
}
