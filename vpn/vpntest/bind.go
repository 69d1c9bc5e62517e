package vpntest

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// Bind is a conn.Bind on a host of an Internet, like a UDP socket. Its endpoints are *Endpoint.
type Bind struct {
	net  *Internet
	host netip.Addr

	// Batch is the batch size; it is set before Open. 0: 1.
	Batch int
	// Queue is how many received datagrams wait at most; more are dropped. It is set before Open. 0: 1024.
	Queue int

	mu     sync.Mutex // guards the fields below
	local  netip.AddrPort
	queue  chan Datagram
	closed chan struct{} // nil: not open
}

var (
	_ conn.Bind     = (*Bind)(nil)
	_ conn.Endpoint = (*Endpoint)(nil)
)

// Bind returns a Bind on a host, which needs no registration.
func (n *Internet) Bind(host netip.Addr) *Bind { return &Bind{net: n, host: host} }

// Open implements conn.Bind. Port 0 takes the next one from 49152. A port in use gives EADDRINUSE.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	queue := make(chan Datagram, cmp.Or(b.Queue, 1024))
	closed := make(chan struct{})
	b.queue = queue
	local, err := b.net.open(b, netip.AddrPortFrom(b.host, port))
	if err != nil {
		return nil, 0, err
	}
	b.local, b.closed = local, closed
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		return receive(queue, closed, bufs, sizes, eps)
	}
	return []conn.ReceiveFunc{receive}, local.Port(), nil
}

func (n *Internet) open(b *Bind, local netip.AddrPort) (netip.AddrPort, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if local.Port() == 0 {
		local = netip.AddrPortFrom(local.Addr(), n.nextPort)
		if n.nextPort++; n.nextPort == 0 {
			n.nextPort = firstPort
		}
	}
	if n.sockets[local] != nil {
		return local, syscall.EADDRINUSE
	}
	n.sockets[local] = b
	return local, nil
}

func receive(queue chan Datagram, closed chan struct{}, bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	select {
	case <-closed:
		return 0, net.ErrClosed
	default:
	}
	var d Datagram
	select {
	case <-closed:
		return 0, net.ErrClosed
	case d = <-queue:
	}
	for i := 0; ; i++ {
		sizes[i] = copy(bufs[i], d.Payload)
		eps[i] = &Endpoint{d.From}
		if i+1 == len(bufs) {
			return i + 1, nil
		}
		select {
		case d = <-queue:
		default:
			return i + 1, nil
		}
	}
}

// put is called by the Internet under its lock.
func (b *Bind) put(d Datagram) {
	select {
	case b.queue <- d:
	default:
	}
}

// Local is the address that the Bind sends from; invalid before Open.
func (b *Bind) Local() netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.local
}

// Move gives an open Bind a new address, as when a device changes its network; what is sent to the old one is lost.
func (b *Bind) Move(to netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	delete(b.net.sockets, b.local)
	b.net.sockets[to] = b
	b.local = to
}

// Close implements conn.Bind. A closed Bind may be opened again.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil {
		return nil
	}
	close(b.closed)
	b.closed = nil
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	delete(b.net.sockets, b.local)
	return nil
}

// Send implements conn.Bind.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if len(bufs) > b.BatchSize() {
		return errors.New("more datagrams than the batch size")
	}
	b.mu.Lock()
	local, open := b.local, b.closed != nil
	b.mu.Unlock()
	if !open {
		return net.ErrClosed
	}
	for _, buf := range bufs {
		b.net.Send(local, to.AddrPort, buf)
	}
	return nil
}

// ParseEndpoint implements conn.Bind.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &Endpoint{a}, nil
}

// BatchSize implements conn.Bind.
func (b *Bind) BatchSize() int { return max(b.Batch, 1) }

// SetMark implements conn.Bind and does nothing.
func (b *Bind) SetMark(uint32) error { return nil }

// Endpoint is a remote address.
type Endpoint struct{ netip.AddrPort }

// ClearSrc implements conn.Endpoint and does nothing.
func (e *Endpoint) ClearSrc() {}

// SrcToString implements conn.Endpoint.
func (e *Endpoint) SrcToString() string { return "" }

// DstToString implements conn.Endpoint.
func (e *Endpoint) DstToString() string { return e.AddrPort.String() }

// DstToBytes implements conn.Endpoint.
func (e *Endpoint) DstToBytes() []byte {
	b, _ := e.AddrPort.MarshalBinary()
	return b
}

// DstIP implements conn.Endpoint.
func (e *Endpoint) DstIP() netip.Addr { return e.Addr() }

// SrcIP implements conn.Endpoint; it is not known.
func (e *Endpoint) SrcIP() netip.Addr { return netip.Addr{} }
