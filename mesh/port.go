package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// tlsHandshake is the first byte of a TLS connection: the content type of a
// handshake record (RFC 8446 section 5.1). memberlist's streams begin with
// [hasLabel].
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
// the limits is closed at once, it or another stranger.
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
		s := &stranger{Conn: conn, from: addrOf(conn.RemoteAddr()), gate: &p.gate}
		entered, out := p.gate.enter(s)
		if out != nil {
			out.Close()
		}
		if !entered {
			conn.Close()
			continue
		}
		spawn(func() { serve(s) })
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
