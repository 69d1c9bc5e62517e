package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// What Config.Admit returns for who was a member: and never will be again, or
// is not before it is admitted anew.
var (
	ErrEvicted   = errors.New("evicted")
	ErrSuspended = errors.New("admitted by one that was evicted")
)

// Bar ends what there is with the given members, which Config.Admit refuses
// from now on: the links to them, with that word as the last, what serf says of
// them, and that they are dialled. They have Left, also those that were Down.
// Nothing of what they have sent, and is not taken in yet, is. Who is not among
// them any more may come back. Bar does not block and may be called before Run.
func (m *Mesh) Bar(ids ...ID) {
	m.mu.Lock()
	maps.DeleteFunc(m.barred, func(id ID, _ struct{}) bool { return !slices.Contains(ids, id) })
	m.mu.Unlock()
	for _, id := range ids {
		m.mu.Lock()
		if _, known := m.barred[id]; known || id == m.self.id {
			m.mu.Unlock()
			continue
		}
		m.barred[id] = struct{}{}
		var l *link
		if p := m.peers[id]; p != nil {
			if !p.up {
				m.note(Left, p)
			}
			l = m.fall(p, Left)
			delete(m.peers, id)
		}
		m.mu.Unlock()
		if l != nil {
			l.bar(refusedEvicted)
		}
	}
	m.prune()
}

// Recheck asks Config.Admit again about all that are linked, and bars the links
// of those that it calls evicted or suspended, who go Down and may come back.
// Those with whom a link was refused are dialed now. It does not block but for
// Admit.
func (m *Mesh) Recheck() {
	m.mu.Lock()
	m.checks++
	for _, p := range m.peers {
		if !p.refused.IsZero() {
			p.refused, p.next = time.Time{}, time.Now() // it waits for us
		}
	}
	m.mu.Unlock()
	wake(m.due)
	for _, l := range m.links() {
		err := m.admits(l)
		if err == nil {
			continue
		}
		m.mu.Lock()
		if p := m.peers[l.id]; p != nil && p.link == l {
			m.fall(p, Down)
		}
		m.mu.Unlock()
		code := refusedSuspended
		if errors.Is(err, ErrEvicted) {
			code = refusedEvicted
		}
		l.bar(code)
	}
}

func (m *Mesh) isBarred(id ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, barred := m.barred[id]
	return barred
}

// prune has serf forget those that are barred and that it still sees. It does
// not block.
func (m *Mesh) prune() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, n := range m.nodes {
		if _, barred := m.barred[n.id]; !barred {
			continue
		}
		select {
		case m.prunes <- name:
		default:
		}
	}
}

// bar ends a link: nothing is taken from it any more, and the peer is told why
// if it reads that soon.
func (l *link) bar(why reason) {
	l.barred.Store(true)
	l.mu.Lock()
	x := l.exchange
	l.mu.Unlock()
	if x != nil {
		x.wire.close()
	}
	l.lastWord(encode(kindRefuse, refusal{Code: why}))
	time.AfterFunc(farewellTimeout, func() { l.close(errBarred) })
}

// admits says why the other side of a link is no member any more against its
// will. One that leaves of its own hangs up when it has told all.
func (m *Mesh) admits(l *link) error {
	if m.cfg.Admit == nil {
		return nil
	}
	err := m.cfg.Admit(l.key, l.hello.Voucher)
	if errors.Is(err, ErrEvicted) || errors.Is(err, ErrSuspended) {
		return fmt.Errorf("peer is no member any more: %w", err)
	}
	return nil
}

// refusedBy reads the refusal of a peer that has proven its key. That we are
// evicted is believed of a member only.
func (m *Mesh) refusedBy(peer ed25519.PublicKey, body []byte) error {
	err := parseRefusal(body)
	var no *RefusedError
	if !errors.As(err, &no) || no.code != refusedEvicted && no.code != refusedSuspended {
		return err
	}
	if m.cfg.Admit == nil || m.cfg.Admit(peer, nil) != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cfg.Events != nil && len(m.events) < maxEvents {
		who := Member{ID: IDOf(peer), Key: peer}
		m.events = append(m.events, Event{Kind: Shunned, Member: who, Final: no.code == refusedEvicted})
		wake(m.told)
	}
	return err
}
