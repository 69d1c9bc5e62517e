package vpn

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// ErrNoSession says that there are no keys of a device that could be used.
var ErrNoSession = errors.New("no session with that device")

// ErrNoParts says that the counters of a session's keys cannot be cut any further. A handshake was asked for; none
// is begun within RekeyTimeout of the last one or while Alone forbids it, so whoever waits for new keys asks again.
var ErrNoParts = errors.New("session cannot be handed over before its next handshake")

// ErrBusy says that a handshake with a device is under way, or that its confirmation was not told yet: the new keys would
// be known to nobody else.
var ErrBusy = errors.New("a handshake with that device is under way")

// busyLeast is how long after an initiation or a response a handshake is taken to be under way. A device that answers
// later, to what was sent again, is confirmed here anew.
const busyLeast = time.Second

// share is the last export of a keypair.
type share struct {
	id      keyID
	to      uint64      // incarnation; 0: none, the keys came here
	flushed atomic.Bool // its heir knows the floor
}

// Incarnation names this run of the engine, at random. An export is made for one incarnation and refused by others.
func (g *Gateway) Incarnation() uint64 { return g.incarnation }

// Export returns what the engine with incarnation to needs to go on with the confirmed session of a device: a secret,
// to be sent to that one gateway over an authenticated, encrypted stream and kept in memory only. It must be imported
// within 1 s or not at all, as its keys look younger there by that time. Each call gives away a part of the keys'
// counters that is never given again, so every attempt to send needs an export of its own. The preshared key is not in
// it: the heir looks the device up itself.
//
// With final this gateway stops sending under those keys first, but goes on opening what comes in: packets for the
// device go to Config.Forward from then on, until Drop, the end of the keys, new keys or Unmute. If the device is still
// heard handedGrace later, the event Heard is told, and again each heardAgain. Errors: ErrNoSession, also of a device
// that is muted, ErrNoParts, and with final ErrBusy.
func (g *Gateway) Export(k Key, to uint64, final bool) ([]byte, error) {
	p := g.peer(k)
	if p == nil {
		return nil, ErrNoSession
	}
	now := g.now()
	p.mu.Lock()
	s, err := g.export(p, to, final, now)
	var staged [][]byte
	if err == nil && final {
		p.handed.Store(true)
		staged = g.silence(p)
		p.listen.Store(int64(now + handedGrace))
	}
	p.mu.Unlock()
	if err != nil {
		if errors.Is(err, ErrNoParts) {
			g.want(p, now)
		}
		return nil, err
	}
	for _, b := range staged {
		g.divert(p, b[headerSize:])
	}
	g.count.exports.Add(1)
	b := s.encode()
	s.erase()
	return b, nil
}

// export cuts the counters of p's confirmed keypairs; with final they are stopped. Under p.mu.
func (g *Gateway) export(p *peer, to uint64, final bool, now time.Duration) (s session, err error) {
	current := p.current.Load()
	if p.dead.Load() || p.quiet.Load() && !p.handed.Load() || current == nil || current.expired(now) {
		return s, ErrNoSession
	}
	if final && (p.shaking(now) || current.untold.Load()) { // told afterwards, a confirmation would undo it
		return s, ErrBusy
	}
	s = session{to: to, from: g.incarnation, device: p.key, received: p.received, sent: p.sent}
	if ep := p.endpoint.Load(); ep != nil {
		s.address = ep.addr
	}
	for _, kp := range [...]*keypair{current, p.previous} {
		if kp == nil || kp.expired(now) || !kp.confirmed.Load() && !kp.imported.Load() {
			continue
		}
		if kp.created > current.created { // current may be older, but not in an export
			continue
		}
		if pair, ok := g.exportPair(kp, to, final, now); ok {
			s.pairs[s.n] = pair
			s.n++
		} else if kp == current {
			return s, ErrNoParts
		}
	}
	s.number = g.exported.Add(1)
	return s, nil
}

// shaking reports whether an answer of the device to a handshake message of ours may be under way. Under p.mu.
func (p *peer) shaking(now time.Duration) bool {
	return p.next != nil && now-p.next.created < busyLeast || p.pending != nil && now-p.pending.made < busyLeast
}

// exportPair is export for one keypair. Its peer's mu is held.
func (g *Gateway) exportPair(kp *keypair, to uint64, final bool, now time.Duration) (exportedKeys, bool) {
	send, piece, ok := kp.sealer.cut(final)
	receive, there := kp.opener.key()
	if !ok || !there {
		return exportedKeys{}, false
	}
	sh := &share{id: identify(&send, &receive), to: to}
	kp.share.Store(sh)
	g.vault.enter(kp, sh.id)
	sh.flushed.Store(true)
	return exportedKeys{
		id: sh.id, send: send, receive: receive, local: kp.local, remote: kp.sealer.remote,
		age: now - kp.created, initiator: kp.initiator, part: piece, floor: kp.opener.next(),
	}, true
}

// Import keeps an export until it is taken over, replaced or its keys are too old, and says whose it is. Nothing is
// sent and nothing is accepted under its keys until TakeOver. It copies. It refuses what is malformed, made for
// another incarnation, too old, of a device that is not enrolled, or not above all that was held of those keys before.
// Drop leaves it: it is of another gateway's session.
func (g *Gateway) Import(export []byte) (Key, error) {
	h, err := g.openExport(export)
	if err == nil {
		var next time.Duration
		if next, err = g.vault.put(h); err == nil {
			if next == h.at { // else the sweeper looks before
				g.schedule.rouse()
			}
			g.count.imports.Add(1)
			return h.device, nil
		}
		h.erase()
	}
	g.count.importsRefused.Add(1)
	return Key{}, fmt.Errorf("import session: %w", err)
}

// openExport checks what needs no comparison with what is held.
func (g *Gateway) openExport(export []byte) (*held, error) {
	s, err := decode(export)
	if err != nil {
		return nil, err
	}
	if s.to != g.incarnation {
		s.erase()
		return nil, errIncarnation
	}
	if _, ok := g.cfg.Lookup(s.device); !ok {
		s.erase()
		return nil, errNotEnrolled
	}
	now := g.now()
	h := &held{session: s}
	s.erase()
	for i := range h.pairs[:h.n] {
		h.created[i] = now - h.pairs[i].age
	}
	if h.expire(now); h.n == 0 {
		return nil, errTooOld
	}
	return h, nil
}

// Holds reports whether there is an import of a device to be taken over.
func (g *Gateway) Holds(k Key) bool { return g.vault.holds(k) }

// Sweep erases imports whose keys are too old. Run does so by itself; Sweep is for the time between two of them.
func (g *Gateway) Sweep() { g.vault.sweep(g.now()) }
