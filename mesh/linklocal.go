package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
)

// A link-local IPv6 address is of one link (RFC 4007), and a socket must be told
// which. Gateways tell each other addresses without one, as a link has another
// name at each of them: who sends to such an address tries all its links, where
// at most one holds it.

// maxLinks bounds how many are tried.
const maxLinks = 16

// onLinks returns a, or with each link of this host that may hold it.
func onLinks(a netip.AddrPort) []netip.AddrPort {
	ip := a.Addr()
	if !ip.Is6() || !ip.IsLinkLocalUnicast() || ip.Zone() != "" {
		return []netip.AddrPort{a}
	}
	var all []netip.AddrPort
	for _, link := range links() {
		all = append(all, netip.AddrPortFrom(ip.WithZone(link), a.Port()))
	}
	return all
}

// links returns the interfaces with a link-local IPv6 address of ours.
func links() (names []string) {
	cards, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, c := range cards {
		addrs, err := c.Addrs()
		if err != nil || c.Flags&net.FlagUp == 0 || len(names) == maxLinks {
			continue
		}
		if slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast()
		}) {
			names = append(names, c.Name)
		}
	}
	return names
}

// dialAny opens a TCP connection to the first of addrs that answers.
func dialAny(ctx context.Context, d net.Dialer, addrs []netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(addrs))
	for _, a := range addrs {
		go func() {
			conn, err := d.DialContext(ctx, "tcp", a.String())
			results <- result{conn, err}
		}()
	}
	var first net.Conn
	err := errors.New("no link for a link-local address")
	for i := range addrs {
		r := <-results
		switch {
		case r.err == nil && first == nil:
			first = r.conn
			cancel()
		case r.err == nil:
			r.conn.Close()
		case i == 0:
			err = r.err
		default:
			err = errors.Join(err, r.err)
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, err
}

// linkConn is a UDP socket that sends to link-local addresses without a link.
type linkConn struct{ *net.UDPConn }

// WriteTo implements [net.PacketConn].
func (c linkConn) WriteTo(b []byte, to net.Addr) (n int, err error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return c.UDPConn.WriteTo(b, to)
	}
	err = errors.New("no link for a link-local address")
	sent := false
	for _, a := range onLinks(u.AddrPort()) {
		if n, err = c.WriteToUDPAddrPort(b, a); err == nil {
			sent = true
		}
	}
	if sent {
		return len(b), nil
	}
	return n, err
}
