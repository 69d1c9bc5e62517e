package mesh

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// maxRefusals bounds the refusals that are remembered.
const maxRefusals = 64

// Refusal is why there was no link with whoever is at an address.
type Refusal struct {
	Addr   netip.AddrPort
	ID     ID     // zero: not known
	Reason string // in words
	ByUs   bool
	At     time.Time // of the last time
}

// refusal notes that a link was refused, if that is what err says.
func (m *Mesh) refusal(a netip.AddrPort, id ID, err error, byUs bool) {
	var no *RefusedError
	if !errors.As(err, &no) || no.code == refusedDuplicate || no.code == refusedSelf || no.code == refusedLeaving ||
		no.code == refusedLink {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusals = slices.DeleteFunc(m.refusals, func(r Refusal) bool { return r.Addr.Addr() == a.Addr() && r.ID == id })
	if len(m.refusals) == maxRefusals {
		m.refusals = m.refusals[1:]
	}
	m.refusals = append(m.refusals, Refusal{Addr: a, ID: id, Reason: no.Reason, ByUs: byUs || no.byUs, At: time.Now()})
}

// Refusals returns the last refusals, one of each address and key, the oldest first. Those of a peer that is linked
// now are left out.
func (m *Mesh) Refusals() []Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.DeleteFunc(slices.Clone(m.refusals), func(r Refusal) bool {
		p := m.peers[r.ID]
		return p != nil && p.link != nil
	})
	slices.SortFunc(out, func(a, b Refusal) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	return out
}
