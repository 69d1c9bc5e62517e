package mesh

import (
	"context"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const (
	dialTimeout  = time.Second            // of TCP
	probeTimeout = 250 * time.Millisecond // of TCP, when a link broke
	retryMin     = 500 * time.Millisecond // of a peer that should be there
	retryMax     = 5 * time.Second
	higherWaits  = time.Second // so that the lower ID dials first
	rejoinMin    = 2 * time.Second
	rejoinMax    = 5 * time.Second
	maxDials     = 32
	maxSeeds     = 64
	maxWho       = 4096
)

// Connect makes the mesh dial addrs now, and later like those of Config.Book.
// It does not block and may be called before Run; of many calls that are not
// worked on yet the last are dropped.
func (m *Mesh) Connect(addrs []netip.AddrPort) {
	select {
	case m.wanted <- slices.Clone(addrs):
	default:
	}
}

// reach dials: peers that should be linked, with patience that grows, and for
// ever a random one of all addresses at which nobody is linked.
func (m *Mesh) reach(ctx context.Context) error {
	rejoin, first := time.Now(), true
	var seeds []netip.AddrPort
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case addrs := <-m.wanted:
			for _, a := range addrs {
				if len(seeds) < maxSeeds && !slices.Contains(seeds, a) {
					seeds = append(seeds, a)
				}
				m.tryAddr(ctx, a)
			}
			continue
		case <-m.due:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		if !now.Before(rejoin) {
			m.tryAbsent(ctx, seeds, first)
			first = false
			m.joinMissing()
			rejoin = now.Add(rejoinMin + mrand.N(rejoinMax-rejoinMin))
		}
		next := m.tryPeers(ctx, now)
		if next.IsZero() || rejoin.Before(next) {
			next = rejoin
		}
		timer.Reset(max(next.Sub(now), time.Millisecond))
	}
}

// tryPeers dials those that should be linked and are due, and returns when
// the next is.
func (m *Mesh) tryPeers(ctx context.Context, now time.Time) time.Time {
	var next time.Time
	var due []*peer
	m.mu.Lock()
	for _, p := range m.peers {
		if p.link != nil || p.left || p.dialing || m.leaving || !p.up && p.serf != gossipAlive || len(p.addrs) == 0 {
			continue
		}
		if p.next.IsZero() {
			p.next = now
			if m.self.id.Compare(p.id) > 0 {
				p.next = now.Add(higherWaits)
			}
		}
		if p.next.After(now) {
			if next.IsZero() || p.next.Before(next) {
				next = p.next
			}
			continue
		}
		p.dialing = true
		due = append(due, p)
	}
	m.mu.Unlock()
	for _, p := range due {
		m.run(func() { m.reachPeer(ctx, p) })
	}
	return next
}

// reachPeer dials the addresses of p one after the other. If p was up, the
// first attempt is the probe of a link that broke.
func (m *Mesh) reachPeer(ctx context.Context, p *peer) {
	m.mu.Lock()
	addrs, own, probe := slices.Clone(p.addrs), p.addr, p.up
	m.mu.Unlock()
	timeout := dialTimeout
	if probe {
		timeout = probeTimeout
	}
	for _, a := range addrs {
		id, err := m.dialLink(ctx, a, timeout)
		if err == nil && id == p.id || ctx.Err() != nil {
			break
		}
		if probe && refused(err) && (a == own || a == addrs[0]) {
			m.condemn(p.id, nil, Down, "its host refuses")
			break
		}
		timeout = dialTimeout
	}
	m.mu.Lock()
	p.dialing = false
	if p.link == nil {
		p.backoff = min(max(2*p.backoff, retryMin), retryMax)
		if next := time.Now().Add(p.backoff/2 + mrand.N(p.backoff)); next.After(p.next) {
			p.next = next
		}
	}
	m.mu.Unlock()
	wake(m.due)
}

// tryAbsent dials one random address at which nobody is linked; all of them
// if all is set.
func (m *Mesh) tryAbsent(ctx context.Context, seeds []netip.AddrPort, all bool) {
	book := slices.Clone(seeds)
	if m.cfg.Book != nil {
		book = append(book, m.cfg.Book()...)
	}
	m.mu.Lock()
	for _, p := range m.peers {
		if p.link == nil && !p.left {
			book = append(book, p.addrs...)
		}
	}
	book = slices.DeleteFunc(book, func(a netip.AddrPort) bool { return m.occupied(a) })
	m.mu.Unlock()
	if len(book) == 0 {
		return
	}
	if !all {
		book = []netip.AddrPort{book[mrand.IntN(len(book))]}
	}
	for _, a := range book {
		m.tryAddr(ctx, a)
	}
}

// occupied says whether there is no use in dialing a. m.mu is held.
func (m *Mesh) occupied(a netip.AddrPort) bool {
	if a == m.addr || !a.IsValid() || m.leaving {
		return true
	}
	id, met := m.who[a]
	if !met {
		return false
	}
	p := m.peers[id]
	return id == m.self.id || p != nil && p.link != nil
}

// tryAddr dials a in a goroutine, unless that is useless or under way.
func (m *Mesh) tryAddr(ctx context.Context, a netip.AddrPort) {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	m.mu.Lock()
	free := !m.occupied(a) && m.dialing[a] == 0 && len(m.dialing) < maxDials
	m.mu.Unlock()
	if free {
		m.run(func() { _, _ = m.dialLink(ctx, a, dialTimeout) })
	}
}
