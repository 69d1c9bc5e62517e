package mesh

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits of connections whose other side has not proven to be admitted.
const (
	maxStrangers      = 256 // in all, but for those from where peers are
	maxStrangersPerIP = 32  // from one source
	peekTimeout       = 5 * time.Second
	helloBytes        = 64 << 10 // read until the other side has said who it is; a certificate is 300
	gossipStreamLimit = 1 << 20  // read from one stream of memberlist: 3,000 members
	gossipBytes       = 16 << 20 // and from all of them that are open; memberlist holds them twice

	// TLS handshakes with strangers, each of which costs about half a
	// millisecond: more wait, and those that have waited are closed.
	handshakeRate  = 100 // per second
	handshakeBurst = 200
	handshakeWait  = time.Second
)

// stranger is an accepted connection of which nothing is known yet. It holds
// a place in the gate until it is closed or known.
type stranger struct {
	net.Conn
	from     netip.AddrPort
	gate     *gate
	familiar bool         // comes from where a peer is
	source   netip.Prefix // what it counts as
	left     sync.Once
	first    []byte // peeked
	quota    int64  // bytes that may still be read; 0: no limit, below: none left

	mu     sync.Mutex // guards the fields below
	gossip bool       // what is read counts against the gate's gossipBytes
	used   int64      // of them
	closed bool
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

// limit lets n more bytes be read, until the stranger is known. The goroutine
// that reads calls it.
func (s *stranger) limit(n int64) { s.quota = n }

// limitGossip is limit for a stream of memberlist.
func (s *stranger) limitGossip() {
	s.limit(gossipStreamLimit)
	s.mu.Lock()
	s.gossip = true
	s.mu.Unlock()
}

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
	if !s.count(n) {
		return 0, errors.New("too much is read from strangers")
	}
	return n, err
}

// count takes n bytes from what all gossip may be, and says whether there were
// so many.
func (s *stranger) count(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gossip || s.closed {
		return true
	}
	s.used += int64(n)
	return s.gate.hold(int64(n)) <= gossipBytes
}

// known gives back the place in the gate and lifts the limit. The connection
// stays. The goroutine that reads calls it.
func (s *stranger) known() {
	s.quota = 0
	s.leave()
}

func (s *stranger) leave() { s.left.Do(func() { s.gate.leave(s) }) }

// Close closes the connection and gives back the place in the gate.
func (s *stranger) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.gate.hold(-s.used)
	}
	s.mu.Unlock()
	s.leave()
	return s.Conn.Close()
}

// CloseWrite ends our direction, where the network can do that.
func (s *stranger) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// gate counts strangers. Those from addresses of peers are not kept out by any
// number of others.
type gate struct {
	familiar func(netip.Addr) bool // whether a peer is there; called under no lock. Nil: none is

	mu        sync.Mutex // guards the fields below
	strangers map[*stranger]bool
	from      map[netip.Prefix]int
	bytes     int64 // of gossip that strangers were read
	tokens    float64
	filled    time.Time // tokens were counted
}

// source is what an address counts as: a host, or the network of a stranger with
// a global IPv6 address, in which one host may have any. A LAN is not one source:
// its gateways, and one hostile host among them, have one /64.
func source(a netip.Addr, familiar bool) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() && !familiar && !a.IsLinkLocalUnicast() && !a.IsPrivate() && !a.IsLoopback() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero Addr gives the zero Prefix, a source like any other
	return p
}

// enter takes a place for s and says whether there was one. Where all are
// taken, s takes that of another, out, which the caller closes: were it kept
// out, a flood of silent connections would keep out everybody.
func (g *gate) enter(s *stranger) (entered bool, out *stranger) {
	s.familiar = g.familiar != nil && g.familiar(s.from.Addr())
	s.source = source(s.from.Addr(), s.familiar)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.from[s.source] >= maxStrangersPerIP {
		return false, nil
	}
	if g.from == nil {
		g.from, g.strangers = map[netip.Prefix]int{}, map[*stranger]bool{}
	}
	g.from[s.source]++
	if s.familiar {
		return true, nil
	}
	if len(g.strangers) >= maxStrangers {
		for out = range g.strangers { // a random one
			break
		}
	}
	g.strangers[s] = true
	return true, out
}

// leave gives the place of s back.
func (g *gate) leave(s *stranger) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.strangers, s)
	if g.from[s.source]--; g.from[s.source] <= 0 {
		delete(g.from, s.source)
	}
}

// hold adds n to the bytes of gossip that are held, and returns them.
func (g *gate) hold(n int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bytes += n
	return g.bytes
}

// pace waits until s may begin a TLS handshake, and says false if that would
// be too long.
func (g *gate) pace(ctx context.Context, s *stranger) bool {
	if s.familiar {
		return true
	}
	g.mu.Lock()
	now := time.Now()
	g.tokens = min(handshakeBurst, g.tokens+handshakeRate*now.Sub(g.filled).Seconds())
	g.filled = now
	wait := max(0, time.Duration((1-g.tokens)/handshakeRate*float64(time.Second)))
	if wait <= handshakeWait {
		g.tokens--
	}
	g.mu.Unlock()
	return wait <= handshakeWait && sleep(ctx, wait) == nil
}
