package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// udpBind is a conn.Bind of UDP sockets that neither copies nor allocates where conn.StdNetBind does, with one socket
// of each address family per shard. The kernel gives all of a device's datagrams to one of them (SO_REUSEPORT).
type udpBind struct {
	shards int
	open   atomic.Pointer[udpSockets] // nil: closed
}

type udpSockets struct{ v4, v6 []*udpSocket } // of a family that the host lacks: none

var (
	_ segmentBind   = (*udpBind)(nil)
	_ conn.Endpoint = (*udpEndpoint)(nil)
)

// newBind returns a closed bind with that many shards.
func newBind(shards int) conn.Bind { return &udpBind{shards: shards} }

// socketBuffer is asked for in each direction; without CAP_NET_ADMIN the kernel gives up to net.core.[rw]mem_max.
const socketBuffer = 7 << 20

// Open implements conn.Bind.
func (b *udpBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	if b.open.Load() != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	s, actual, err := b.listen(port)
	for tries := 0; port == 0 && errors.Is(err, unix.EADDRINUSE) && tries < 100; tries++ { // the port is free in one family only
		s, actual, err = b.listen(port)
	}
	if err != nil {
		return nil, 0, err
	}
	if !b.open.CompareAndSwap(nil, s) {
		s.close()
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	var functions []conn.ReceiveFunc
	for _, socket := range slices.Concat(s.v4, s.v6) {
		functions = append(functions, newUDPReceiver(socket).copyOut())
	}
	return functions, actual, nil
}

// listen opens the sockets of both families at one port.
func (b *udpBind) listen(port uint16) (*udpSockets, uint16, error) {
	s := new(udpSockets)
	for _, family := range []struct {
		network string
		sockets *[]*udpSocket
	}{{"udp4", &s.v4}, {"udp6", &s.v6}} {
		for i := range b.shards {
			socket, err := openUDP(family.network, port, i, b.shards)
			if errors.Is(err, unix.EAFNOSUPPORT) {
				break
			}
			if err != nil {
				s.close()
				return nil, 0, err
			}
			*family.sockets = append(*family.sockets, socket)
			port = uint16(socket.conn.LocalAddr().(*net.UDPAddr).Port)
		}
	}
	if len(s.v4)+len(s.v6) == 0 {
		return nil, 0, unix.EAFNOSUPPORT
	}
	return s, port, nil
}

func (s *udpSockets) close() (err error) {
	for _, socket := range slices.Concat(s.v4, s.v6) {
		err = errors.Join(err, socket.conn.Close())
	}
	return err
}

// openUDP opens the i-th of n sockets at a port. The first one is bound alone, so that a port which somebody else has
// is refused, also if that is another gateway of the same user.
func openUDP(network string, port uint16, i, n int) (*udpSocket, error) {
	listener := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = setUDPOptions(int(fd), network, i > 0) }); e != nil {
			return e
		}
		return err
	}}
	packets, err := listener.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s := &udpSocket{conn: packets.(*net.UDPConn), six: network == "udp6"}
	if s.raw, err = s.conn.SyscallConn(); err == nil {
		err = errors.Join(s.raw.Control(func(fd uintptr) {
			_, e := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
			s.segment.Store(e == nil)
			if n > 1 && i == 0 {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		}), err)
	}
	if err != nil {
		s.conn.Close()
		return nil, fmt.Errorf("set up UDP socket: %w", err)
	}
	s.sends.New = func() any { return newUDPSend() }
	return s, nil
}

// setUDPOptions is called before bind. What only makes faster may fail.
func setUDPOptions(fd int, network string, reuse bool) error {
	for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBuffer)
	}
	// Before Linux 5.12, which can be asked whether it is on, UDP_GRO has faults.
	if _, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO); err == nil {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}
	if reuse {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	if network == "udp4" {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
}

// Close implements conn.Bind. A closed bind may be opened again.
func (b *udpBind) Close() error {
	s := b.open.Swap(nil)
	if s == nil {
		return nil
	}
	return s.close()
}

func (b *udpBind) segmentSockets() (sockets []segmentSocket, families int) {
	s := b.open.Load()
	if s == nil {
		return nil, 1
	}
	for i := range b.shards {
		if i < len(s.v4) {
			sockets = append(sockets, newUDPReceiver(s.v4[i]))
		}
		if i < len(s.v6) {
			sockets = append(sockets, newUDPReceiver(s.v6[i]))
		}
	}
	return sockets, max(1, len(sockets)/b.shards)
}

// Send implements conn.Bind for any number of messages; those of one size that follow each other go out as one
// datagram that the kernel or the network card cuts. Where a card cannot (EIO), they go out one by one from then on,
// and the error is a conn.ErrUDPGSODisabled once.
func (b *udpBind) Send(messages [][]byte, to conn.Endpoint) error {
	ep, ok := to.(*udpEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s := b.open.Load()
	if s == nil {
		return net.ErrClosed
	}
	sockets := s.v4
	if ep.Addr().Is6() {
		sockets = s.v6
	}
	if len(sockets) == 0 {
		return unix.EAFNOSUPPORT
	}
	socket := sockets[int(ep.Port())%len(sockets)]
	return sendSegmented(&socket.segment, func(segment bool) error { return socket.send(messages, ep, segment) })
}

// sendSegmented sends with segmentation if it works, and without from the first time on that the card refuses it.
func sendSegmented(works *atomic.Bool, send func(segment bool) error) error {
	segment := works.Load()
	err := send(segment)
	if !segment || !errors.Is(err, unix.EIO) {
		return err
	}
	first := works.Swap(false)
	if err = send(false); first {
		return conn.ErrUDPGSODisabled{RetryErr: err}
	}
	return err
}

// SetMark implements conn.Bind.
func (b *udpBind) SetMark(mark uint32) (err error) {
	s := b.open.Load()
	if s == nil {
		return nil
	}
	for _, socket := range slices.Concat(s.v4, s.v6) {
		err = errors.Join(err, socket.raw.Control(func(fd uintptr) {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
		}))
	}
	return err
}

// BatchSize implements conn.Bind.
func (b *udpBind) BatchSize() int { return conn.IdealBatchSize }

// ParseEndpoint implements conn.Bind.
func (b *udpBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &udpEndpoint{AddrPort: netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}, nil
}

// udpEndpoint is a remote address, and the local one that its datagrams came to, which the answers come from. It is
// not changed once made, so it may be shared.
type udpEndpoint struct {
	netip.AddrPort
	src   netip.Addr // invalid: the kernel chooses
	iface int32      // that they came in by; 0: not known
}

// ClearSrc implements conn.Endpoint and does nothing: an endpoint of ParseEndpoint has no source.
func (e *udpEndpoint) ClearSrc() {}

// SrcToString implements conn.Endpoint.
func (e *udpEndpoint) SrcToString() string { return e.src.String() }

// DstToString implements conn.Endpoint.
func (e *udpEndpoint) DstToString() string { return e.AddrPort.String() }

// DstToBytes implements conn.Endpoint.
func (e *udpEndpoint) DstToBytes() []byte {
	b, _ := e.AddrPort.MarshalBinary()
	return b
}

// DstIP implements conn.Endpoint.
func (e *udpEndpoint) DstIP() netip.Addr { return e.Addr() }

// SrcIP implements conn.Endpoint.
func (e *udpEndpoint) SrcIP() netip.Addr { return e.src }
