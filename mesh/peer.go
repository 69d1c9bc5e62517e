package mesh

import (
	"crypto/ed25519"
	"net/netip"
	"slices"
	"time"
)

const (
	maxPeerAddrs = 8
	maxPeers     = 4096 // serf's word for who exists is not proof
)

// peer is what we know of one other member. All fields are guarded by the
// mutex of the Mesh.
type peer struct {
	id            ID
	key           ed25519.PublicKey
	name, version string
	boot          uint64           // of the process that was linked last
	gossip        uint64           // in its name in serf
	addr          netip.AddrPort   // where it says that it listens
	addrs         []netip.AddrPort // where it was or may be reached, the best first
	listens       netip.AddrPort   // where the process that was linked last listens for certain; zero: not known

	link    *link // nil: not linked
	opening bool  // our dial got its hello and is about to become the link
	up      bool  // Up was told, and neither Down nor Left since
	down    bool  // Down was told, and no Up since
	left    bool  // it said goodbye
	synced  bool
	serf    gossipStatus // the best of its names there
	since   time.Time    // of status
	was     Status       // to move since

	heard  time.Time // last sign of life on a link
	rtt    time.Duration
	beat   []byte
	beatAt time.Time

	asked   time.Time   // when witnesses were asked; zero: they were not
	replies map[ID]bool // of witnesses, by whether they hear it

	fell     time.Time // when Down was told; counts while down
	dials    int       // under way
	roused   bool      // a dial is wanted beside one that is under way
	rousedAt time.Time
	refused  time.Time // when it would not have us, or we would not have it
	backoff  time.Duration
	next     time.Time // when to dial again
}

// status derives what others are told of p.
func (p *peer) status() Status {
	switch {
	case p.left:
		return Left
	case p.link != nil, p.up:
		return Alive
	case p.serf == gossipAlive && !p.down:
		return Alive
	}
	return Failed
}

// touch moves since when the status has changed.
func (p *peer) touch(now time.Time) {
	if s := p.status(); s != p.was {
		p.was, p.since = s, now
	}
}

func (p *peer) member(now time.Time) Member {
	p.touch(now)
	m := Member{
		ID: p.id, Key: p.key, Name: p.name, Version: p.version, Addr: p.addr,
		Status: p.was, Linked: p.link != nil, Synced: p.synced, RTT: p.rtt, Beat: p.beat, Since: p.since,
	}
	if p.link != nil {
		m.Protocol = p.link.proto
	}
	if !p.beatAt.IsZero() {
		m.BeatAge = now.Sub(p.beatAt)
	}
	return m
}

// learn adds an address at which p may be; first says that it was reached
// there just now.
func (p *peer) learn(a netip.AddrPort, first bool) {
	if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() {
		return
	}
	i := slices.Index(p.addrs, a)
	switch {
	case i >= 0 && !first:
		return
	case i >= 0:
		p.addrs = slices.Delete(p.addrs, i, i+1)
	case len(p.addrs) == maxPeerAddrs:
		p.addrs = p.addrs[:maxPeerAddrs-1]
	}
	if first {
		p.addrs = slices.Insert(p.addrs, 0, a)
	} else {
		p.addrs = append(p.addrs, a)
	}
}

// peer returns the entry of id, which is made if there is none; nil if there
// are too many, or it is barred. m.mu is held.
func (m *Mesh) peer(id ID) *peer {
	p := m.peers[id]
	if _, barred := m.barred[id]; p == nil && !barred && len(m.peers) < maxPeers {
		p = &peer{id: id, since: time.Now()}
		m.peers[id] = p
	}
	return p
}

// peerAt says whether a may be where a peer is: one that was linked once, or is
// in the book.
func (m *Mesh) peerAt(a netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.booked[a] {
		return true
	}
	for _, p := range m.peers {
		if p.key != nil && slices.ContainsFunc(p.addrs, func(b netip.AddrPort) bool { return b.Addr() == a }) {
			return true
		}
	}
	return false
}

// install makes l the link to its peer. It says false if l must go: because
// the existing link is to be kept, or we are leaving.
func (m *Mesh) install(l *link) bool {
	now := time.Now()
	m.mu.Lock()
	p := m.peer(l.id)
	if p == nil || m.leaving {
		m.mu.Unlock()
		return false
	}
	if l.dialer == m.self.id {
		p.opening = false
	}
	old := p.link
	if old != nil && old.hello.Boot == l.hello.Boot && !prefer(l.dialer, old.dialer) && p.fresh(now) {
		m.mu.Unlock()
		return false
	}
	if p.up && p.boot != l.hello.Boot { // the process that we knew is gone
		m.fall(p, Down)
	}
	p.key, p.name, p.version, p.boot = l.key, l.hello.Name, l.hello.Version, l.hello.Boot
	p.gossip = l.hello.gossip()
	p.addr, p.listens = l.hello.Addr, netip.AddrPort{}
	if l.dialer == m.self.id {
		p.learn(l.addr, true)
		p.listens = l.addr
	} else if l.addr.Addr() == l.hello.Addr.Addr() { // no translation of addresses, and it has not moved
		p.listens = l.hello.Addr
	}
	p.learn(l.hello.Addr, false)
	listens := netip.AddrPortFrom(l.addr.Addr(), l.hello.Addr.Port())
	p.learn(listens, false)
	if len(m.who) < maxWho { // so that it is not dialed for another, at the cost of this link
		m.who[listens] = p.id
	}
	p.link, p.synced, p.left, p.down, p.roused = l, false, false, false, false
	p.heard, p.asked, p.backoff, p.next = now, time.Time{}, 0, time.Time{}
	p.rtt = l.rtt
	p.touch(now)
	if !p.up {
		p.up = true
		m.note(Up, p)
	}
	m.mu.Unlock()
	if old != nil {
		old.close(errReplaced)
	}
	wake(m.due)
	return true
}

// prefer says whether a link that was dialed by a replaces one that was
// dialed by b and lives: over one that is silent the peer may have given us up. Both ends come to the same: the lower
// wins, and of two by the same dialer the newer, as it makes a second one only when it has lost the first.
func prefer(a, b ID) bool { return a.Compare(b) <= 0 }

// unlink is told by a link that it is closed. If its peer was thought alive,
// somebody looks at once.
func (m *Mesh) unlink(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[l.id]
	if p == nil || p.link != l {
		return
	}
	p.link, p.synced = nil, false
	p.touch(time.Now())
	if p.up {
		p.next = time.Now()
		wake(m.due)
	}
}

// fall gives the verdict k, Down or Left, on a peer that is up. The caller
// closes the link that is returned, without the lock. m.mu is held.
func (m *Mesh) fall(p *peer, k EventKind) *link {
	l := p.link
	if !p.up {
		return l
	}
	p.up, p.link, p.synced, p.asked = false, nil, false, time.Time{}
	p.down, p.left = k == Down, k == Left
	now := time.Now()
	p.fell, p.next = now, now.Add(beatInterval)
	p.touch(now)
	m.note(k, p)
	wake(m.due)
	return l
}

// condemn is fall for callers without the lock, as long as l is the link to
// the peer; nil: as long as it has none.
func (m *Mesh) condemn(id ID, l *link, k EventKind, why string) {
	m.mu.Lock()
	p := m.peers[id]
	gone := p != nil && p.up && p.link == l
	if gone {
		m.fall(p, k)
	}
	m.mu.Unlock()
	if !gone {
		return
	}
	if l != nil {
		l.close(errVerdict)
	}
	m.log.Info("peer gone", "peer", id, "verdict", k, "why", why)
}
