package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is what memberlist knows of the network: the port, without those
// streams that begin with a TLS handshake.
type transport struct {
	port      *port
	advertise netip.AddrPort
	label     []byte               // every packet and stream of the cluster begins with it
	heard     func(netip.AddrPort) // is told where datagrams come from; must not block
	packets   chan *memberlist.Packet
	streams   chan net.Conn
	ctx       context.Context // of what memberlist dials
	stop      context.CancelFunc
}

var _ memberlist.Transport = (*transport)(nil)

// maxPacket is more than memberlist sends in a datagram (UDPBufferSize and
// its encryption).
const maxPacket = 2048

// hasLabel is the first byte of memberlist's label header (its net.go:
// hasLabelMsg); the label's length and the label follow.
const hasLabel = 244

func newTransport(p *port, advertise netip.AddrPort, label string, heard func(netip.AddrPort)) *transport {
	t := &transport{
		port: p, advertise: advertise, heard: heard,
		label:   append([]byte{hasLabel, byte(len(label))}, label...),
		packets: make(chan *memberlist.Packet, 256),
		streams: make(chan net.Conn, 64),
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// receive hands datagrams to memberlist until the port is closed or ctx ends.
// When memberlist does not keep up, they are lost, as on the wire.
func (t *transport) receive(ctx context.Context) error {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.port.udp.ReadFrom(buf)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("receive: %w", err)
		default: // an ICMP answer to something that we sent
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
			continue
		}
		if n == len(buf) || !bytes.HasPrefix(buf[:n], t.label) {
			continue // too long, or not of our cluster
		}
		t.heard(addrOf(from))
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.packets <- p:
		default:
		}
	}
}

// take hands memberlist a stream, which it closes.
func (t *transport) take(s *stranger) {
	s.limitGossip()
	select {
	case t.streams <- s:
	default:
		s.Close()
	}
}

// drain ends what memberlist dialed, and the streams that it did not take.
func (t *transport) drain() {
	t.stop()
	for {
		select {
		case s := <-t.streams:
			s.Close()
		default:
			return
		}
	}
}

// FinalAdvertiseAddr implements [memberlist.Transport].
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(t.advertise.Addr().AsSlice()), int(t.advertise.Port()), nil
}

// WriteTo implements [memberlist.Transport].
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send packet: %w", err)
	}
	if _, err = t.port.udp.WriteTo(b, net.UDPAddrFromAddrPort(to)); err != nil {
		return time.Time{}, fmt.Errorf("send packet: %w", err)
	}
	return time.Now(), nil
}

// PacketCh implements [memberlist.Transport].
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout implements [memberlist.Transport].
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.port.network.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return &dialed{conn, context.AfterFunc(t.ctx, func() { conn.Close() })}, nil
}

// dialed is a connection that ends with the transport.
type dialed struct {
	net.Conn
	release func() bool
}

// Close implements [net.Conn].
func (d *dialed) Close() error {
	d.release()
	return d.Conn.Close()
}

// StreamCh implements [memberlist.Transport].
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements [memberlist.Transport]. The port is not memberlist's to
// close.
func (t *transport) Shutdown() error { return nil }
