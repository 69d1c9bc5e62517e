package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net/netip"
	"slices"
	"time"
)

// Status is what a member is seen as.
type Status uint8

// The states of a member; the third is [Left].
const (
	Alive  Status = 1 // linked, or serf sees it and the links do not deny it
	Failed Status = 2 // not seen
)

// Left is both a Status, gone for good by its own word, and the EventKind
// that tells of it.
const Left = 3

// String returns alive, failed or left.
func (s Status) String() string {
	switch s {
	case Alive:
		return "alive"
	case Failed:
		return "failed"
	case Left:
		return "left"
	}
	return "unknown"
}

// Member is another gateway as we see it.
type Member struct {
	ID            ID
	Key           ed25519.PublicKey // nil until it was linked
	Name, Version string
	Addr          netip.AddrPort // where it says that it listens
	Status        Status
	Linked        bool          // a link is up
	Protocol      uint          // the version that the link talks; 0: there is none
	Synced        bool          // and what it had when the link came up is merged
	RTT           time.Duration // smoothed; 0: not measured
	Beat          []byte        // payload of its last heartbeat; not to be changed
	BeatAge       time.Duration // since that came in
	Since         time.Time     // of Status
}

// EventKind says what happened.
type EventKind uint8

// The kinds of events; the third is [Left]. Of one member, Up comes first, and between two Up there
// is a Down or a Left.
const (
	Up     EventKind = 1 // a link to it is authenticated
	Down   EventKind = 2 // it is dead: the fast verdict
	Beat   EventKind = 4 // a heartbeat with payload came in
	Synced EventKind = 5 // the first exchange of every state on a new link is complete
	// Stalled says that we ourselves did not run for more than a second. All
	// links are torn down and made anew: Synced comes again for each, or Down.
	Stalled EventKind = 6
	// Shunned says that a member, which is admitted here, refuses us: as
	// evicted, or until we are admitted again.
	Shunned EventKind = 7
)

// String returns the kind in lower case.
func (k EventKind) String() string {
	switch k {
	case Up:
		return "up"
	case Down:
		return "down"
	case Left:
		return "left"
	case Beat:
		return "beat"
	case Synced:
		return "synced"
	case Stalled:
		return "stalled"
	case Shunned:
		return "shunned"
	}
	return "unknown"
}

// Event is something that happened to a member, or to us.
type Event struct {
	Kind   EventKind
	Member Member        // zero if Stalled; of Shunned only ID and Key
	Gap    time.Duration // if Stalled: how long we did not run
	Final  bool          // if Shunned: evicted
}

// maxEvents bounds the events that wait to be told. Beyond it heartbeats are
// left out; the next one says the same.
const maxEvents = 4096

// note queues an event about p. m.mu is held.
func (m *Mesh) note(k EventKind, p *peer) {
	if m.cfg.Events == nil || k == Beat && len(m.events) >= maxEvents {
		return
	}
	m.events = append(m.events, Event{Kind: k, Member: p.member(time.Now())})
	wake(m.told)
}

// tellEvents calls Config.Events, one event after the other.
func (m *Mesh) tellEvents(ctx context.Context) error {
	for {
		select {
		case <-m.told:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		events := m.events
		m.events = nil
		m.mu.Unlock()
		for _, e := range events {
			m.cfg.Events(e)
		}
	}
}

// Members returns all others that we know of, ordered by ID.
func (m *Mesh) Members() []Member {
	now := time.Now()
	m.mu.Lock()
	list := make([]Member, 0, len(m.peers))
	for _, p := range m.peers {
		list = append(list, p.member(now))
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b Member) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return list
}
