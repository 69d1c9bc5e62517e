package vpn

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Initiations that go before others are limited, as whoever knows where a device is can say that he is there. A device
// begins one in 5 s; the others take the way of those whose sender is not known.
const (
	firstRate  = 5 // per second and address
	firstBurst = 5
	firstSlots = 4096 // addresses are told apart by a hash into that many
)

// whereabouts is the set of addresses at which devices with a session are, by their keyed hashes. Should two devices have
// been at one address, it is forgotten with the first of them that leaves. Nothing but precedence depends on it.
type whereabouts struct {
	seed maphash.Seed // set once

	mu    sync.RWMutex // guards the fields below
	addr  map[uint64]struct{}
	begun [firstSlots]bucket
}

func newWhereabouts() *whereabouts {
	return &whereabouts{seed: maphash.MakeSeed(), addr: make(map[uint64]struct{})}
}

func (w *whereabouts) has(addr netip.AddrPort) bool {
	h := maphash.Comparable(w.seed, addr)
	w.mu.RLock()
	defer w.mu.RUnlock()
	_, ok := w.addr[h]
	return ok
}

// precedes reports whether an initiation from there goes before others.
func (w *whereabouts) precedes(addr netip.AddrPort, now time.Duration) bool {
	if !w.has(addr) {
		return false
	}
	slot := maphash.Comparable(w.seed, addr) % firstSlots
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun[slot].take(firstRate, firstBurst, now)
}

// move follows a device from one address to another; nil: none.
func (w *whereabouts) move(from, to *endpoint) {
	if from != nil && to != nil && from.addr == to.addr {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if from != nil {
		delete(w.addr, maphash.Comparable(w.seed, from.addr))
	}
	if to != nil {
		w.addr[maphash.Comparable(w.seed, to.addr)] = struct{}{}
	}
}

// locate notes where a device is confirmed to be. Every write of peer.endpoint that may change the address goes this
// way. Under p.mu.
func (g *Gateway) locate(p *peer, at *endpoint) { g.whereabouts.move(p.endpoint.Swap(at), at) }
