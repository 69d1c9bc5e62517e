package vpn

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"
)

// allowedIPs says which device has an inner address (whitepaper §2, cryptokey routing). Readers do not lock:
// each change publishes a new table that shares all but the changed path with the old one.
type allowedIPs struct {
	table atomic.Pointer[bart.Table[*peer]]
	mu    sync.Mutex // serializes writers
}

// lookup returns the device with the longest prefix that contains addr, or nil.
func (a *allowedIPs) lookup(addr netip.Addr) *peer {
	t := a.table.Load()
	if t == nil {
		return nil
	}
	p, _ := t.Lookup(addr)
	return p
}

// insert gives the prefixes to p, taking them from whoever has them.
func (a *allowedIPs) insert(p *peer, prefixes []netip.Prefix) { a.put(p, prefixes, true) }

// claim gives those of the prefixes to p that nobody has.
func (a *allowedIPs) claim(p *peer, prefixes []netip.Prefix) { a.put(p, prefixes, false) }

func (a *allowedIPs) put(p *peer, prefixes []netip.Prefix, take bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.table.Load()
	if t == nil {
		t = new(bart.Table[*peer])
	}
	for _, prefix := range prefixes {
		if owner, ok := t.Get(prefix); !ok || take && owner != p {
			t = t.InsertPersist(prefix, p)
		}
	}
	a.table.Store(t)
}

// remove takes those of the prefixes from p that p still has.
func (a *allowedIPs) remove(p *peer, prefixes []netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.table.Load()
	if t == nil {
		return
	}
	for _, prefix := range prefixes {
		if owner, ok := t.Get(prefix); ok && owner == p {
			t = t.DeletePersist(prefix)
		}
	}
	a.table.Store(t)
}

// canonical returns the valid prefixes, masked, IPv4-mapped ones as IPv4.
func canonical(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p = p.Masked(); p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}
