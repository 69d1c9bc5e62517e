package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits of connections whose other side has not proven to be admitted.
const (
	maxStrangers      = 256 // in all
	maxStrangersPerIP = 32  // from one address, or one IPv6 /64
	peekTimeout       = 5 * time.Second
	gossipStreamLimit = 4 << 20 // bytes read from one stream of memberlist
)

// tlsHandshake is the first byte of a TLS connection: the content type of a
// handshake record (RFC 8446 section 5.1). memberlist's streams begin with
// its message type, 0 to 13, or 244 for a label.
const tlsHandshake = 0x16

// PortError says that the mesh could not listen.
type PortError struct {
	Network string // "tcp" or "udp"
	Addr    string // as asked for
	Err     error
}

// Error names the network and the address.
func (e *PortError) Error() string {
	return fmt.Sprintf("listen on %s %s: %v", e.Network, e.Addr, e.Err)
}

// Unwrap returns what the operating system said.
func (e *PortError) Unwrap() error { return e.Err }

// port is the one TCP and UDP port of a member.
type port struct {
	network Network
	tcp     net.Listener
	udp     net.PacketConn
	gate    gate
	log     *slog.Logger
}

// openPort listens on addr, [host]:port, for TCP and UDP. With port 0 it
// takes one that is free for both.
func openPort(network Network, addr string, log *slog.Logger) (*port, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &PortError{"tcp", addr, err}
	}
	for tries := 16; ; tries-- {
		tcp, err := network.Listen(addr)
		if err != nil {
			return nil, &PortError{"tcp", addr, err}
		}
		_, taken, err := net.SplitHostPort(tcp.Addr().String())
		if err != nil {
			return nil, errors.Join(&PortError{"tcp", addr, err}, tcp.Close())
		}
		udp, err := network.ListenPacket(net.JoinHostPort(host, taken))
		if err == nil {
			return &port{network: network, tcp: tcp, udp: udp, log: log}, nil
		}
		if err := errors.Join(&PortError{"udp", net.JoinHostPort(host, taken), err}, tcp.Close()); service != "0" || tries == 0 {
			return nil, err
		}
	}
}

// number returns the port's number.
func (p *port) number() uint16 {
	a, _ := p.tcp.Addr().(*net.TCPAddr)
	return uint16(a.Port)
}

func (p *port) close() error {
	return errors.Join(ignoreClosed(p.tcp.Close()), ignoreClosed(p.udp.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept takes connections until the port is closed or ctx ends, and hands
// each of them to serve in a goroutine that spawn starts. What comes beyond
// the limits is closed at once.
func (p *port) accept(ctx context.Context, spawn func(func()), serve func(*stranger)) error {
	for {
		conn, err := p.tcp.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default: // out of files, or the other side is gone already
			p.log.Debug("accept", "err", err)
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return err
			}
			continue
		}
		from := addrOf(conn.RemoteAddr())
		if !p.gate.enter(from.Addr()) {
			conn.Close()
			continue
		}
		s := &stranger{Conn: conn, from: from, gate: &p.gate}
		spawn(func() { serve(s) })
	}
}

// stranger is an accepted connection of which nothing is known yet. It holds
// a place in the gate until it is closed or known.
type stranger struct {
	net.Conn
	from  netip.AddrPort
	gate  *gate
	left  sync.Once
	first []byte // peeked
	quota int64  // bytes that may still be read; 0: no limit, below: none left
}

// peek returns the first byte, which will be read again.
func (s *stranger) peek() (byte, error) {
	if err := s.SetReadDeadline(time.Now().Add(peekTimeout)); err != nil {
		return 0, err
	}
	var b [1]byte
	if _, err := io.ReadFull(s.Conn, b[:]); err != nil {
		return 0, err
	}
	s.first = b[:]
	return b[0], s.SetReadDeadline(time.Time{})
}

// limit lets n more bytes be read.
func (s *stranger) limit(n int64) { s.quota = n }

// Read reads what was peeked, then from the connection. One goroutine calls
// it.
func (s *stranger) Read(b []byte) (int, error) {
	if len(s.first) > 0 && len(b) > 0 {
		n := copy(b, s.first)
		s.first = s.first[n:]
		return n, nil
	}
	if s.quota < 0 {
		return 0, errors.New("stream is too long")
	}
	n, err := s.Conn.Read(b)
	if s.quota > 0 {
		if s.quota -= int64(n); s.quota <= 0 {
			s.quota = -1
		}
	}
	return n, err
}

// known gives back the place in the gate. The connection stays.
func (s *stranger) known() { s.left.Do(func() { s.gate.leave(s.from.Addr()) }) }

// Close closes the connection and gives back the place in the gate.
func (s *stranger) Close() error {
	s.known()
	return s.Conn.Close()
}

// CloseWrite ends our direction, where the network can do that.
func (s *stranger) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// gate counts strangers.
type gate struct {
	mu    sync.Mutex // guards the fields below
	count int
	from  map[netip.Prefix]int
}

// source is what an address counts as: a host, or an IPv6 network, in which
// one host may have any address.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero Addr gives the zero Prefix, a source like any other
	return p
}

// enter takes a place for a connection from a and says whether there was one.
func (g *gate) enter(a netip.Addr) bool {
	p := source(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count >= maxStrangers || g.from[p] >= maxStrangersPerIP {
		return false
	}
	if g.from == nil {
		g.from = map[netip.Prefix]int{}
	}
	g.count++
	g.from[p]++
	return true
}

// leave gives a place back.
func (g *gate) leave(a netip.Addr) {
	p := source(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count--
	if g.from[p]--; g.from[p] <= 0 {
		delete(g.from, p)
	}
}

// addrOf returns the address of a socket, unmapped and without zone, or the
// zero AddrPort.
func addrOf(a net.Addr) netip.AddrPort {
	var p netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		p = a.AddrPort()
	case *net.UDPAddr:
		p = a.AddrPort()
	}
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
