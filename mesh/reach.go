package mesh

import (
	"cmp"
	"context"
	"errors"
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
	addrStagger  = 100 * time.Millisecond // between the addresses of one peer
	rouseWithin  = 100 * time.Millisecond // so that not all are dialed in the same moment
	rouseAgain   = time.Second            // of one peer
	higherWaits  = time.Second            // so that the lower ID dials first
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
	turns := map[netip.AddrPort]int{} // how often each absent address was dialed
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
			m.tryAbsent(ctx, seeds, turns, first)
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
		if m.leaving || !p.missing() || p.dials > 0 && (!p.roused || p.dials > 1) {
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
		p.dials++
		p.roused = false
		due = append(due, p)
	}
	m.mu.Unlock()
	for _, p := range due {
		m.run(func() { m.reachPeer(ctx, p) })
	}
	return next
}

// missing says whether p should be linked and is not. One that has fallen is
// missed for ever. m.mu is held.
func (p *peer) missing() bool {
	return p.link == nil && !p.left && len(p.addrs) > 0 && (p.up || p.down || p.serf == gossipAlive)
}

// patience says how long TCP may take to a peer that was given up so long ago,
// and the mean pause until it is dialed again. A split that heals soon must not
// leave time for both sides to act on their verdicts.
func patience(absent, rtt time.Duration) (timeout, pause time.Duration) {
	switch {
	case absent < 30*time.Second:
		return max(2*probeTimeout, missRTTs*rtt), 150 * time.Millisecond
	case absent < time.Hour:
		return dialTimeout, 750 * time.Millisecond
	case absent < 24*time.Hour:
		return dialTimeout, 1500 * time.Millisecond
	}
	return dialTimeout, retryMax
}

// reachPeer dials the addresses of p, each a moment after the one before, and
// returns when p answers or none does. If p was up, it is the probe of a link
// that broke.
func (m *Mesh) reachPeer(ctx context.Context, p *peer) {
	now := time.Now()
	m.mu.Lock()
	addrs, listens, probe, checks := slices.Clone(p.addrs), p.listens, p.up, m.checks
	timeout, pause := dialTimeout, time.Duration(0)
	switch {
	case probe:
		timeout = probeTimeout
	case p.down:
		timeout, pause = patience(now.Sub(p.fell), p.rtt)
	}
	m.mu.Unlock()
	type result struct {
		addr netip.AddrPort
		id   ID
		err  error
	}
	results := make(chan result, len(addrs))
	staggered, reached := context.WithCancel(ctx)
	for i, a := range addrs {
		m.run(func() {
			if err := sleep(staggered, time.Duration(i)*addrStagger); err != nil {
				results <- result{a, ID{}, err}
				return
			}
			id, err := m.dialLink(ctx, a, timeout)
			results <- result{a, id, err}
		})
	}
	for range addrs {
		r := <-results
		if r.err == nil && r.id == p.id {
			break
		}
		var no *RefusedError
		if errors.As(r.err, &no) { // it is there, and will not change its mind soon
			m.mu.Lock()
			if checks == m.checks {
				pause, p.refused = retryMax, time.Now()
			}
			m.mu.Unlock()
		}
		if probe && refused(r.err) && r.addr == listens {
			m.condemn(p.id, nil, Down, "its host refuses")
			break
		}
	}
	reached()
	m.mu.Lock()
	p.dials--
	if p.link == nil && !p.roused {
		if pause == 0 {
			p.backoff = min(max(2*p.backoff, retryMin), retryMax)
			pause = p.backoff
		}
		if next := time.Now().Add(pause/2 + mrand.N(pause)); next.After(p.next) {
			p.next = next
		}
	}
	m.mu.Unlock()
	wake(m.due)
}

// rouse has p dialed soon, though a dial is under way: there is a sign of its
// life. m.mu is held.
func (m *Mesh) rouse(p *peer, now time.Time) {
	if !p.down || !p.missing() || now.Sub(p.rousedAt) < rouseAgain || now.Sub(p.refused) < retryMax {
		return
	}
	p.roused, p.rousedAt, p.next = true, now, now.Add(mrand.N(rouseWithin))
	if m.self.id.Compare(p.id) > 0 {
		p.next = p.next.Add(rouseWithin)
	}
	wake(m.due)
}

// heardFrom is told that a datagram came from a, which proves nothing.
func (m *Mesh) heardFrom(a netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[m.who[a]]; p != nil {
		m.rouse(p, time.Now())
	}
}

// readBook returns what is in the book, and remembers that peers may be there.
func (m *Mesh) readBook() []netip.AddrPort {
	if m.cfg.Book == nil {
		return nil
	}
	book, booked := m.cfg.Book(), map[netip.Addr]bool{}
	for _, a := range book {
		booked[a.Addr().Unmap().WithZone("")] = true
	}
	m.mu.Lock()
	m.booked = booked
	m.mu.Unlock()
	return book
}

// tryAbsent dials an address at which nobody is linked, a random one of those
// whose turn it is; all of them if all is set.
func (m *Mesh) tryAbsent(ctx context.Context, seeds []netip.AddrPort, turns map[netip.AddrPort]int, all bool) {
	book := append(slices.Clone(seeds), m.readBook()...)
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
		mrand.Shuffle(len(book), func(i, j int) { book[i], book[j] = book[j], book[i] })
		book = []netip.AddrPort{slices.MinFunc(book, func(a, b netip.AddrPort) int {
			return cmp.Compare(turns[a], turns[b])
		})}
	}
	if len(turns) > maxWho {
		clear(turns)
	}
	for _, a := range book {
		turns[a]++
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
