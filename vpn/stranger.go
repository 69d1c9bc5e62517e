package vpn

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// Limits of what is told to Config.Unknown, in messages per second.
const (
	strangerRate  = 2000 // in total
	strangerSlots = 1024 // sources are told apart by a hash into that many
	sourceRate    = 50   // of each
	sourceBurst   = 10
)

// strangers limits how often messages under unknown keys are told.
type strangers struct {
	seed maphash.Seed

	mu      sync.Mutex // guards the fields below
	total   bucket
	sources [strangerSlots]bucket
}

func newStrangers() *strangers { return &strangers{seed: maphash.MakeSeed()} }

// allow reports whether one more message of that source may be told. An unknown source cannot pick whose slot it shares.
func (s *strangers) allow(source netip.Addr, now time.Duration) bool {
	if source.Is6() {
		source = netip.PrefixFrom(source, 64).Masked().Addr()
	}
	slot := maphash.Comparable(s.seed, source) % strangerSlots
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sources[slot].take(sourceRate, sourceBurst, now) && s.total.take(strangerRate, strangerRate/10, now)
}

// unknown tells of a transport message under a receiver index that nobody has here.
func (g *Gateway) unknown(m []byte, from conn.Endpoint, now time.Duration) {
	g.count.unknownIndex.Add(1)
	if g.cfg.Unknown == nil {
		return
	}
	addr := addrPort(from)
	if !g.strangers.allow(addr.Addr(), now) {
		g.count.strangersDropped.Add(1)
		return
	}
	g.cfg.Unknown(le.Uint32(m[4:]), addr, m)
}

// InjectTransport opens a transport message that another gateway has received from addr and not known. It copies. A
// message that is not known here either is not told to Config.Unknown.
func (g *Gateway) InjectTransport(m []byte, addr netip.AddrPort) {
	ep, err := g.parseEndpoint(addr)
	if err != nil || messageType(m) != typeTransport || len(m) > bufferSize {
		g.count.malformed.Add(1)
		return
	}
	g.count.transportInjected.Add(1)
	now := g.now()
	r := &receiver{g: g, injected: true}
	m = bytes.Clone(m)
	r.transport(m, m, ep, now)
	r.flush(now)
}
