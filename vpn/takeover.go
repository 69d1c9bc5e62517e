package vpn

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// After a takeover new keys are made soon, at a random time from 1 s to 3 s, or later where there are too many.
const (
	minRenewal    = time.Second
	renewalJitter = 2 * time.Second
	renewalRate   = 500 // per second
)

// TakeOver makes the imported session of a device ours: its keys are used for opening and sealing from now on, and the
// device is sent an empty message under each of them, which makes it follow. Its caller has claimed the device before.
// New keys are made soon, paced. addr, if it is valid, is where the device is; else it is where its export says. It looks
// the device up and does not block otherwise. Where there is a session already, the keys join it: the newer ones are
// used for sending. Without an import, or when the device is not enrolled any more, it returns ErrNoSession, and
// Initiate is what is left. The first message that the device sends is told as Confirmed, Imported.
func (g *Gateway) TakeOver(k Key, addr netip.AddrPort) error {
	h := g.vault.take(k)
	if h == nil {
		return ErrNoSession
	}
	defer h.erase()
	generation := g.generation.Load()
	d, ok := g.cfg.Lookup(k)
	if !ok {
		return ErrNoSession
	}
	p := g.peer(k)
	if p == nil {
		p = g.adopt(g.newHeir(d))
	}
	if !g.inherit(p, d, h, addr) {
		return ErrNoSession
	}
	g.count.takenOver.Add(1)
	g.recheck(k, generation)
	g.knock(p)
	return nil
}

// newHeir makes the state of a device that is taken over. What its handshakes need is made with the first of them.
func (g *Gateway) newHeir(d Device) *peer {
	p := &peer{remote: remoteOf(d.Key)}
	p.update(d)
	return p
}

// inherit gives p what was held and reports whether it has keys that can be used now.
func (g *Gateway) inherit(p *peer, d Device, h *held, addr netip.AddrPort) bool {
	now := g.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() {
		return false
	}
	g.apply(p, d)
	p.received, p.sent = later(p.received, h.received), later(p.sent, h.sent)
	had := p.current.Load() != nil
	came := false
	for i := range h.pairs[:h.n] {
		came = g.inheritPair(p, &h.pairs[i], h.created[i], now) || came
	}
	current := p.current.Load()
	if !had && current != nil {
		g.confirmed.Add(1)
	}
	if !came || current.expired(now) {
		g.schedule.at(p, now) // it may have been made for this
		return false
	}
	g.arrive(p, h, addr)
	g.speak(p)
	p.established = true
	p.timers.erase.Store(max(p.timers.erase.Load(), int64(current.created+eraseAfter)))
	g.route(p)
	if current.imported.Load() {
		p.handshake = g.cfg.Now().Add(current.created - now)
		g.renewSoon(p, now)
	}
	g.schedule.at(p, earliest(p.timers.next(), p.nextExpiry()))
	return true
}

// inheritPair makes p use an imported keypair, or go on with it if p has had it all the time; it reports whether it
// does. Under p.mu.
func (g *Gateway) inheritPair(p *peer, from *exportedKeys, created, now time.Duration) bool {
	if now-created >= RejectAfterTime {
		return false
	}
	start := from.part.lo + rand.Uint64N(maxOffset)
	kp := p.has(from.id)
	if kp == nil {
		kp = importKeypair(p, from, created, start)
		retired := p.join(kp)
		g.retire(retired)
		if retired == kp { // newer ones are there
			return false
		}
		g.vault.enter(kp, from.id)
		g.indices.put(kp) // last: what comes in finds it with its floor
		return true
	}
	kp.opener.raise(from.floor)
	if !kp.sealer.advance(from.part, start) {
		return false
	}
	kp.imported.Store(true)
	kp.confirmed.Store(false)
	g.vault.enter(kp, from.id)
	return true
}

// importKeypair makes a keypair that nobody but its caller knows yet.
func importKeypair(p *peer, from *exportedKeys, created time.Duration, start uint64) *keypair {
	kp := newKeypair(p, &keys{send: from.send, receive: from.receive, local: from.local, remote: from.remote}, created, from.initiator)
	kp.foreign = true
	kp.imported.Store(true)
	kp.confirmed.Store(false)
	kp.opener.floor = from.floor
	kp.sealer.part = from.part
	kp.sealer.next.Store(start)
	kp.sealer.limit.Store(from.part.end())
	kp.share.Store(&share{id: from.id})
	return kp
}

// has returns p's current or previous keypair if that is its name, else nil. Under p.mu.
func (p *peer) has(id keyID) *keypair {
	for _, kp := range [...]*keypair{p.current.Load(), p.previous} {
		if kp == nil {
			continue
		}
		if s := kp.share.Load(); s != nil && s.id == id {
			return kp
		}
	}
	return nil
}

// join takes a keypair in as current or previous by its age, and returns the one that is left over, which may be kp.
// Under p.mu.
func (p *peer) join(kp *keypair) (retired *keypair) {
	current, previous := p.current.Load(), p.previous
	switch {
	case current == nil || kp.created > current.created:
		p.previous = current
		p.current.Store(kp)
		p.lastMinute.Store(false)
		if current == nil {
			p.previous = previous
			return nil
		}
		return previous
	case previous == nil || kp.created > previous.created:
		p.previous = kp
		return previous
	}
	return kp
}

// arrive notes where a device is that was taken over, and ends the calls of an earlier Initiate; a response that is
// under way is still taken. A confirmed address of ours that is newer than the export stays. Under p.mu.
func (g *Gateway) arrive(p *peer, h *held, addr netip.AddrPort) {
	if p.endpoint.Load() != nil && !p.current.Load().imported.Load() {
		return
	}
	if !addr.IsValid() {
		addr = h.address
	}
	if ep, err := g.parseEndpoint(addr); err == nil {
		g.locate(p, newEndpoint(ep))
	}
	p.target, p.candidate = nil, nil
	p.timers.retransmit.Store(0)
}

// renewSoon lets new keys be made early, at a pace that workers keep up with. Under p.mu.
func (g *Gateway) renewSoon(p *peer, now time.Duration) {
	var at time.Duration
	for taken := false; !taken; {
		last := g.lastRenewal.Load()
		at = max(time.Duration(last)+time.Second/renewalRate, now+minRenewal)
		taken = g.lastRenewal.CompareAndSwap(last, int64(at))
	}
	at += rand.N(renewalJitter)
	p.timers.renew.Store(int64(at))
	g.schedule.at(p, at)
}

// renew asks for new keys if p's are still those that were taken over.
func (g *Gateway) renew(p *peer, now time.Duration) {
	if kp := p.current.Load(); kp == nil || !kp.imported.Load() || p.timers.retransmit.Load() != 0 {
		return
	}
	sent := p.sentHandshake.Load()
	if g.mayBegin(p, now) && (sent == 0 || now-time.Duration(sent) >= RekeyTimeout) {
		g.want(p, now)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dead.Load() {
		g.renewSoon(p, now)
	}
}

// knock sends an empty message under each imported key, the previous one first: a device takes what its former gateway
// still says under a key only until then.
func (g *Gateway) knock(p *peer) {
	now := g.now()
	var messages [][]byte
	p.mu.Lock()
	to, current := p.endpoint.Load(), p.current.Load()
	for _, kp := range [...]*keypair{p.previous, current} {
		if kp == nil || !kp.usable(now) || !kp.imported.Load() && kp != current {
			continue
		}
		if m, ok := kp.sealer.seal(make([]byte, keepaliveSize), 0); ok {
			messages = append(messages, m)
		}
	}
	dead := p.dead.Load()
	p.mu.Unlock()
	if dead || to == nil || len(messages) == 0 {
		return
	}
	if !g.send(messages, to) {
		g.keepaliveSoon(p, now)
		return
	}
	g.count.txPackets.Add(uint64(len(messages)))
	g.count.txBytes.Add(uint64(keepaliveSize * len(messages)))
	p.txBytes.Add(uint64(keepaliveSize * len(messages)))
	p.timers.anySent()
}

// farewell sends a device an empty message under the imported keys that newer ones are about to replace, to where it
// has just been heard: the fence against its former gateway's late packets holds for one key only.
func (g *Gateway) farewell(p *peer, to *endpoint) {
	p.mu.Lock()
	kp := p.current.Load()
	if p.dead.Load() || kp == nil || !kp.imported.Load() || !kp.usable(g.now()) {
		p.mu.Unlock()
		return
	}
	m, ok := kp.sealer.seal(make([]byte, keepaliveSize), 0)
	p.mu.Unlock()
	if !ok || !g.send([][]byte{m}, to) {
		return
	}
	g.count.txPackets.Add(1)
	g.count.txBytes.Add(keepaliveSize)
	p.txBytes.Add(keepaliveSize)
}

// followed notes that a message under kp, which is imported, has come, and tells it if it is the first one from where
// the device is known to be: what comes from elsewhere may have been sent to its former gateway, which lives, and been
// kept back on its way. There only new keys confirm. Who feigns the known address can still deceive the claimant, with
// a message that the former gateway did not get, or got in the last second. Under p.mu.
func (g *Gateway) followed(p *peer, kp *keypair, from *endpoint) {
	current := p.current.Load()
	if at := p.endpoint.Load(); at != nil && at.addr != from.addr {
		return
	}
	if kp != current && kp != p.previous || kp.confirmed.Swap(true) || !current.imported.Load() {
		return
	}
	for _, kp := range [...]*keypair{current, p.previous} { // a device uses one of them
		if kp != nil && kp.imported.Load() {
			kp.confirmed.Store(true)
		}
	}
	if p.endpoint.Load() == nil {
		g.locate(p, from)
	}
	at := g.cfg.Now()
	if p.since.IsZero() {
		p.since = at
	}
	e := p.event(Confirmed, at)
	e.Imported = true
	g.outbox.put(&notice{Event: e})
}
