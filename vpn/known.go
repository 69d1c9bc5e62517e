package vpn

import (
	"hash/maphash"
	"net/netip"
	"sync"
)

// known is the set of addresses at which devices with a session are, by their keyed hashes. Should two devices have
// been at one address, it is forgotten with the first of them that leaves. Nothing but precedence depends on it.
type known struct {
	seed maphash.Seed // set once

	mu   sync.RWMutex // guards the field below
	addr map[uint64]struct{}
}

func newKnown() *known {
	return &known{seed: maphash.MakeSeed(), addr: make(map[uint64]struct{})}
}

func (k *known) has(addr netip.AddrPort) bool {
	h := maphash.Comparable(k.seed, addr)
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, ok := k.addr[h]
	return ok
}

// move follows a device from one address to another; nil: none.
func (k *known) move(from, to *endpoint) {
	if from != nil && to != nil && from.addr == to.addr {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if from != nil {
		delete(k.addr, maphash.Comparable(k.seed, from.addr))
	}
	if to != nil {
		k.addr[maphash.Comparable(k.seed, to.addr)] = struct{}{}
	}
}

// locate notes where a device is confirmed to be. Every write of peer.endpoint that may change the address goes this
// way. Under p.mu.
func (g *Gateway) locate(p *peer, at *endpoint) { g.known.move(p.endpoint.Swap(at), at) }
