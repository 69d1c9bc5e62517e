package vpn

import (
	"sync"
	"time"
)

// pending finds the device whose response is awaited by receiver index.
type pending struct {
	mu    sync.Mutex // guards the field below
	peers map[uint32]*peer
}

func (w *pending) put(index uint32, p *peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.peers == nil {
		w.peers = make(map[uint32]*peer)
	}
	w.peers[index] = p
}

func (w *pending) get(index uint32) *peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peers[index]
}

func (w *pending) remove(index uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.peers, index)
}

// initiate makes and sends an initiation.
func (g *Gateway) initiate(q request) {
	if q.peer != nil && (q.peer.dead.Load() || g.fenced()) {
		g.postpone(q.peer)
		return
	}
	generation := g.generation.Load()
	d, ok := g.cfg.Lookup(q.key)
	if !ok {
		g.count.unknownDevice.Add(1)
		g.Drop(q.key)
		return
	}
	p, err := g.initiator(q, d)
	if err != nil {
		g.requests.cancel(q.key)
		g.cfg.Log.Debug("initiate", "error", err)
		return
	}
	to, begun := g.begin(p, q, d)
	g.recheck(q.key, generation)
	if !begun {
		return
	}
	if g.fenced() {
		g.postpone(p)
		return
	}
	m, e, err := g.makeInitiation(p, to)
	if err != nil {
		g.cfg.Log.Debug("make initiation", "error", err)
		g.postpone(p)
		return
	}
	g.cfg.Notify(e)
	if p.dead.Load() { // dropped meanwhile
		return
	}
	if !g.send([][]byte{m[:]}, to) {
		g.postpone(p)
		return
	}
	g.count.initiationsSent.Add(1)
	p.txBytes.Add(initiationSize)
	p.timers.anySent()
}

// initiator returns the state of the device to initiate to; a takeover makes it where there is none.
func (g *Gateway) initiator(q request, d Device) (*peer, error) {
	if q.peer != nil {
		return q.peer, nil
	}
	if p := g.peer(q.key); p != nil && !p.dead.Load() {
		return p, nil
	}
	p, err := g.newPeer(d)
	if err != nil {
		return nil, err
	}
	return g.adopt(p), nil
}

// begin decides whether and where an initiation goes now, and starts its retransmission. Having begun, its caller sends
// or postpones it.
func (g *Gateway) begin(p *peer, q request, d Device) (to *endpoint, ok bool) {
	now := g.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.peer != nil {
		defer p.queued.Store(false) // not before the retransmission is running
	}
	wanted := q.takeover == nil || g.requests.begun(q)
	if p.dead.Load() {
		return nil, false
	}
	if !wanted {
		g.schedule.at(p, now) // it may have been made for this
		return nil, false
	}
	if p.quiet.Load() { // Initiate was before Mute
		return nil, false
	}
	// Where an initiation has come to the device it follows us, and the first answer may be lost: so it is repeated
	// also where it could not be begun any more.
	if q.target == nil && p.target == nil && !q.retry && !g.mayBegin(p, now) {
		return nil, false
	}
	g.apply(p, d)
	sent := time.Duration(p.sentHandshake.Load())
	recent := sent != 0 && now-sent < RekeyTimeout
	if recent && (q.target == nil || p.target != nil && p.target.addr == q.target.addr) {
		g.await(p, q, sent)
		return nil, false
	}
	if q.target != nil {
		p.target, p.established = q.target, true
		g.route(p)
	}
	if !q.retry {
		p.attempts = 0
	}
	if to = p.target; to == nil {
		to = p.endpoint.Load()
		if kp := p.current.Load(); kp != nil && kp.imported.Load() && p.candidate != nil && p.attempts%2 == 0 {
			to = p.candidate // the device's answer decides where it is
		}
	}
	if to == nil {
		return nil, false
	}
	p.sentHandshake.Store(int64(now)) // before it is sent, so that nobody asks for another one meanwhile
	at := now + RekeyTimeout + jitter()
	p.timers.retransmit.Store(int64(at))
	g.schedule.at(p, at)
	return to, true
}

// await retransmits when RekeyTimeout has passed since the handshake message sent last, which was our response perhaps,
// if something waits for a handshake and no retransmission is running. Under p.mu.
func (g *Gateway) await(p *peer, q request, sent time.Duration) {
	if p.timers.retransmit.Load() != 0 || !q.retry && q.target == nil && len(p.staged) == 0 {
		return
	}
	if !q.retry {
		p.attempts = 0
	}
	at := sent + RekeyTimeout + jitter()
	p.timers.retransmit.Store(int64(at))
	g.schedule.at(p, at)
}

// postpone tries again soon what the fence has held back, unless p is quiet by now. It is no attempt: when the device
// is reached is not known.
func (g *Gateway) postpone(p *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() {
		return
	}
	p.queued.Store(false)
	if p.quiet.Load() {
		return
	}
	p.attempts = max(p.attempts-1, 0)
	p.sentHandshake.Store(0)
	at := g.now() + fenceRetry
	p.timers.retransmit.Store(int64(at))
	g.schedule.at(p, at)
}

// makeInitiation makes the next initiation to p and waits for its response. The event tells its timestamp.
func (g *Gateway) makeInitiation(p *peer, to *endpoint) (m [initiationSize]byte, e Event, err error) {
	local, err := g.indices.reserve()
	if err != nil {
		return m, e, err
	}
	p.mu.Lock()
	ts, ok := nextSent(g.cfg.Now(), p.sent)
	if !ok || p.dead.Load() {
		p.mu.Unlock()
		g.indices.release(local)
		return m, e, errDead
	}
	if err := g.needSecret(p); err != nil {
		p.mu.Unlock()
		g.indices.release(local)
		return m, e, err
	}
	p.sent = ts
	secret := p.secret
	p.mu.Unlock()

	m, out, err := g.identity.initiate(p.remote, &secret, local, ts)
	clear(secret[:])
	if err != nil {
		g.indices.release(local)
		return m, e, err
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() || p.quiet.Load() {
		out.erase()
		g.indices.release(local)
		return m, e, errDead
	}
	g.abandon(p)
	out.made = g.now()
	p.pending = out
	g.pending.put(local, p)
	g.putMACs(p, m[:])
	e = p.event(Sent, g.cfg.Now())
	e.Endpoint, e.Initiator = to.addr, true
	return m, e, nil
}

// abandon forgets the pending handshake, if there is one. Under p.mu.
func (g *Gateway) abandon(p *peer) {
	if p.pending != nil {
		g.pending.remove(p.pending.local)
		g.indices.release(p.pending.local)
		p.pending.erase()
		p.pending = nil
	}
}

// handleResponse finishes our handshake: the device is at the address that the response came from.
func (g *Gateway) handleResponse(m []byte, from *endpoint) {
	p := g.pending.get(le.Uint32(m[8:]))
	if p == nil {
		g.count.badHandshake.Add(1)
		return
	}
	p.mu.Lock()
	out := p.pending
	if out == nil || out.local != le.Uint32(m[8:]) || out.late(g.now()) {
		p.mu.Unlock()
		g.count.badHandshake.Add(1)
		return
	}
	state, psk := *out, p.psk
	p.mu.Unlock()

	k, err := g.identity.finish(state, &psk, m)
	state.erase()
	clear(psk[:])
	if err != nil {
		g.count.badHandshake.Add(1)
		return
	}
	g.farewell(p, from)
	g.complete(p, out, newKeypair(p, &k, g.now(), true), from)
}

// complete makes the keypair of our pending handshake current and uses it at once, since the device may not send
// before it has heard from us (whitepaper §5.4.5).
func (g *Gateway) complete(p *peer, out *outgoing, kp *keypair, from *endpoint) {
	p.mu.Lock()
	if p.dead.Load() || p.pending != out {
		p.mu.Unlock()
		kp.erase() // the index belongs to out, which is done with
		return
	}
	g.pending.remove(out.local)
	out.erase()
	p.pending = nil
	if p.current.Load() == nil {
		g.confirmed.Add(1)
	}
	retired := p.install(kp)
	g.indices.put(kp)
	g.retire(retired[:]...)
	p.timers.anyReceived()
	erase := kp.created + eraseAfter
	p.timers.erase.Store(int64(erase))
	g.schedule.at(p, kp.created+RejectAfterTime)
	p.rxBytes.Add(responseSize)
	g.count.responsesReceived.Add(1)
	g.establish(p, from)
	staged := g.unstage(p)
	p.mu.Unlock()
	if len(staged) > 0 {
		g.sendStaged(p, staged)
	} else {
		g.sendKeepalive(p)
	}
}
