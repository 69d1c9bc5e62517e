package vpn

import (
	"net/netip"
	"slices"
	"time"
)

// Session is a device's session as it is now.
type Session struct {
	Device           Key
	Endpoint         netip.AddrPort // confirmed address; invalid: none yet
	Handshake        time.Time      // of the current or last keys, wall clock; zero: none yet
	Since            time.Time      // first confirmation in this gateway, wall clock; zero: none yet
	RxBytes, TxBytes uint64         // whole messages, handshakes included
	Confirmed        bool           // it has keys that can be used
	Initiator        bool           // we began the handshake of the current keys
}

// Sessions returns all sessions, in no order, also those that are not confirmed yet and those whose keys have expired.
func (g *Gateway) Sessions() []Session {
	now := g.now()
	live := g.live()
	sessions := make([]Session, 0, len(live))
	for _, p := range live {
		p.mu.Lock()
		s := Session{
			Device: p.key, Handshake: p.handshake, Since: p.since,
			RxBytes: p.rxBytes.Load(), TxBytes: p.txBytes.Load(),
		}
		if ep := p.endpoint.Load(); ep != nil {
			s.Endpoint = ep.addr
		}
		if kp := p.current.Load(); kp != nil {
			s.Confirmed, s.Initiator = !kp.expired(now), kp.initiator
		}
		p.mu.Unlock()
		sessions = append(sessions, s)
	}
	return sessions
}

// Count is the number of confirmed devices, that is those with keys that can be used.
func (g *Gateway) Count() int { return int(g.confirmed.Load()) }

func (g *Gateway) live() []*peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	peers := make([]*peer, 0, len(g.peers))
	for _, p := range g.peers {
		peers = append(peers, p)
	}
	return peers
}

func (g *Gateway) peer(k Key) *peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peers[k]
}

// newPeer makes the state of a device that has none. It costs one X25519, unless the device was named lately.
func (g *Gateway) newPeer(d Device) (*peer, error) {
	p := &peer{}
	if lately, ok := g.remotes.get(d.Key); ok {
		p.remote, p.secret = lately.remote, lately.secret
	} else {
		p.remote = remoteOf(d.Key)
		if err := g.needSecret(p); err != nil {
			return nil, err
		}
	}
	p.update(d)
	return p, nil
}

// needSecret makes what p's handshakes need, with one X25519, if that has not been done. Under p.mu, or before p is
// published.
func (g *Gateway) needSecret(p *peer) (err error) {
	if p.secret == ([32]byte{}) {
		p.secret, err = g.identity.shared(p.remote)
	}
	return err
}

// adopt makes p the state of its device, unless there is one already, which is returned instead. Either way it is
// forgotten some time after it was last used.
func (g *Gateway) adopt(p *peer) *peer {
	g.mu.Lock()
	if live := g.peers[p.key]; live != nil && !live.dead.Load() {
		g.mu.Unlock()
		return live
	}
	g.peers[p.key] = p
	g.mu.Unlock()
	erase := g.now() + eraseAfter
	p.timers.erase.Store(int64(erase))
	g.schedule.at(p, erase)
	return p
}

// update takes over what the cluster knows. Under p.mu, or before p is published.
func (p *peer) update(d Device) {
	p.psk = d.PresharedKey
	p.received, p.sent = later(p.received, d.Received), later(p.sent, d.Sent)
	p.addresses = canonical(d.Addresses)
}

// apply is update with a change of addresses followed. Under p.mu.
func (g *Gateway) apply(p *peer, d Device) { g.bestow(p, g.withdraw(p, d)) }

// withdraw is update with the addresses that are p's no longer taken from it. Under p.mu.
func (g *Gateway) withdraw(p *peer, d Device) (changed bool) {
	before := p.addresses
	p.update(d)
	changed = !slices.Equal(before, p.addresses)
	if changed && p.routed {
		lost := slices.DeleteFunc(slices.Clone(before), func(a netip.Prefix) bool { return slices.Contains(p.addresses, a) })
		g.allowed.remove(p, lost)
	}
	return changed
}

// bestow gives p its addresses: where they have changed, whoever has them; else those that nobody has, as when another
// device had one of them meanwhile. Under p.mu.
func (g *Gateway) bestow(p *peer, changed bool) {
	switch {
	case !p.routed:
	case changed:
		g.allowed.insert(p, p.addresses)
	default:
		g.allowed.claim(p, p.addresses)
	}
}

// route lets packets for the device's addresses come to p, whoever had them before. Under p.mu.
func (g *Gateway) route(p *peer) {
	p.routed = true
	g.allowed.insert(p, p.addresses)
}

// Refresh looks devices up again because the store has changed, all live ones when none is named: those that are gone
// or disabled are dropped, changed addresses are applied at once, a changed preshared key at the next handshake. A
// handshake that is being answered or begun by what the store said before is looked up again by its worker.
func (g *Gateway) Refresh(keys ...Key) {
	g.generation.Add(1) // before the devices are looked for: a worker that makes one afterwards sees it
	if len(keys) == 0 {
		for _, p := range g.live() {
			keys = append(keys, p.key)
		}
		keys = append(keys, g.vault.devices()...) // a device that is in two is refreshed twice
		keys = append(keys, g.remotes.devices()...)
	}
	g.refresh(keys...)
}

// recheck looks a device up again if the store has changed since that generation, in which it was looked up for a
// handshake: Refresh may have found nothing to refresh yet.
func (g *Gateway) recheck(k Key, generation uint64) {
	if g.generation.Load() != generation {
		g.refresh(k)
	}
}

// refresh takes all addresses away that are to be taken away before it gives any, so that one which passes from device
// to device is not lost, whatever the order of keys.
func (g *Gateway) refresh(keys ...Key) {
	type refreshed struct {
		*peer
		changed bool
	}
	var rest []refreshed
	for _, k := range keys {
		d, ok := g.cfg.Lookup(k)
		if !ok {
			g.vault.drop(k)
			g.remotes.drop(k)
		}
		p := g.peer(k)
		if p == nil {
			continue
		}
		if !ok {
			g.forget(p, true)
			continue
		}
		p.mu.Lock()
		if !p.dead.Load() {
			rest = append(rest, refreshed{p, g.withdraw(p, d)})
		}
		p.mu.Unlock()
	}
	for _, p := range rest {
		p.mu.Lock()
		if !p.dead.Load() {
			g.bestow(p.peer, p.changed)
		}
		p.mu.Unlock()
	}
}

// Drop forgets a session at once, because another gateway has a newer one: nothing more is sent, the keys are erased,
// and what still comes in under them is not accepted. A takeover that has not begun yet does not.
func (g *Gateway) Drop(k Key) {
	g.requests.cancel(k) // first: a takeover that begins before has a session that is found
	if p := g.peer(k); p != nil {
		g.forget(p, true)
	}
}

// forget ends p. The cluster is told if it knows of the session.
func (g *Gateway) forget(p *peer, dropped bool) {
	p.mu.Lock()
	if p.dead.Load() {
		p.mu.Unlock()
		return
	}
	if p.established { // told before the device's next session can begin, which waits for dead
		gone := p.event(Gone, g.cfg.Now())
		gone.Dropped, gone.Initiator = dropped, gone.Initiator || p.handshake.IsZero()
		g.outbox.put(&notice{Event: gone})
	}
	p.dead.Store(true)
	g.whereabouts.move(p.endpoint.Load(), nil)
	current := p.current.Swap(nil)
	if current != nil {
		g.confirmed.Add(-1)
	}
	g.retire(current, p.previous, p.next)
	p.previous, p.next = nil, nil
	g.abandon(p)
	g.discard(p)
	if p.routed {
		p.routed = false
		g.allowed.remove(p, p.addresses)
	}
	clear(p.secret[:])
	clear(p.psk[:])
	clear(p.cookie[:])
	p.mu.Unlock()

	g.schedule.remove(p)
	g.mu.Lock()
	if g.peers[p.key] == p {
		delete(g.peers, p.key)
	}
	g.mu.Unlock()
}

// retire erases keypairs and gives their indices back; nil ones are skipped.
func (g *Gateway) retire(keypairs ...*keypair) {
	for _, kp := range keypairs {
		if kp != nil {
			g.indices.remove(kp)
			if !kp.foreign {
				g.indices.release(kp.local)
			}
			g.vault.retire(kp)
			kp.erase()
		}
	}
}

// event fills in what p knows. Under p.mu.
func (p *peer) event(kind EventKind, at time.Time) Event {
	e := Event{Kind: kind, Device: p.key, Received: p.received, Sent: p.sent, At: at}
	if ep := p.endpoint.Load(); ep != nil {
		e.Endpoint = ep.addr
	}
	if kp := p.current.Load(); kp != nil {
		e.Initiator, e.Index = kp.initiator, kp.local
	}
	return e
}
