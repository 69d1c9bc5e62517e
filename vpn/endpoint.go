package vpn

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// endpoint is an address in the form that the bind sends to, with what is compared per packet. But for single and bare
// it is immutable.
type endpoint struct {
	conn.Endpoint
	addr   netip.AddrPort
	src    netip.Addr                    // our address that the device talks to, where the bind knows it
	single atomic.Bool                   // batches are refused: one message at a time. The next handshake, with a new endpoint, tries again
	bare   atomic.Pointer[conn.Endpoint] // the same without src, which was refused; nil: it was not
}

func newEndpoint(ep conn.Endpoint) *endpoint {
	return &endpoint{Endpoint: ep, addr: addrPort(ep), src: ep.SrcIP()}
}

// form is what the bind is to be given.
func (e *endpoint) form() conn.Endpoint {
	if bare := e.bare.Load(); bare != nil {
		return *bare
	}
	return e.Endpoint
}

// unbindSource leaves it to the kernel which of our addresses messages leave from, because sending from the one that
// the device talks to failed: it may have been taken from the host, or its interface. It reports whether that is new,
// so that sending is worth another attempt. The device's next message names its source again.
func (g *Gateway) unbindSource(e *endpoint) bool {
	if !e.src.IsValid() || e.bare.Load() != nil {
		return false
	}
	bare, err := g.parseEndpoint(e.addr)
	if err != nil {
		return false
	}
	e.bare.Store(&bare)
	e.single.Store(false) // if batches were refused, it was for the source perhaps
	return true
}

// sourceRefused reports whether a message may not have left because of the source address that was asked for.
func sourceRefused(err error) bool {
	for _, refusal := range [...]error{syscall.EINVAL, syscall.ENODEV, syscall.EADDRNOTAVAIL, syscall.ENETUNREACH, syscall.EHOSTUNREACH} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// addrPort is the destination of an endpoint, IPv4-mapped addresses as IPv4. It does not allocate for binds whose
// endpoints are netip.AddrPorts inside, as those of conn.StdNetBind.
func addrPort(ep conn.Endpoint) netip.AddrPort {
	if e, ok := ep.(interface {
		Addr() netip.Addr
		Port() uint16
	}); ok {
		return netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
	}
	a, err := netip.ParseAddrPort(ep.DstToString())
	if err != nil {
		return netip.AddrPortFrom(ep.DstIP().Unmap(), 0)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
