package vpn

import (
	"errors"
	"time"
)

// Why an initiation is not answered.
var (
	errStale    = errors.New("timestamp is not newer than the last one")
	errFrequent = errors.New("initiations come too fast")
	errDead     = errors.New("session was dropped meanwhile")
)

// handleInitiation answers an initiation or lets another gateway do so. What costs least comes first: one X25519 opens
// it, at most one more proves it, and only what is proven and no replay gets to SteerFunc and to the three of the response.
func (g *Gateway) handleInitiation(d *datagram) {
	m := d.message()
	in, err := g.identity.openInitiation(m)
	if err != nil {
		g.count.badHandshake.Add(1)
		return
	}
	generation := g.generation.Load()
	device, ok := g.cfg.Lookup(in.device)
	if !ok {
		g.count.unknownDevice.Add(1)
		return
	}
	p, err := g.prove(in, device)
	if err != nil {
		g.recheck(in.device, generation)
		g.refused(err)
		return
	}
	from := newEndpoint(d.from)
	if !d.injected && !g.cfg.Steer(in.device, from.addr, m) {
		g.count.initiationsSteered.Add(1)
		p.mu.Lock()
		g.remotes.put(p)
		p.mu.Unlock()
		g.recheck(in.device, generation)
		return
	}
	if g.fenced() { // what cannot be answered is not accepted either, so that its timestamp is not used up
		g.count.fenced.Add(1)
		return
	}
	p, response, err := g.answer(in, p, device, from)
	g.recheck(in.device, generation)
	if err != nil {
		g.refused(err)
		return
	}
	p.rxBytes.Add(uint64(len(m)))
	g.sendResponse(p, response, from)
}

// refused counts an initiation that is not answered.
func (g *Gateway) refused(err error) {
	switch {
	case errors.Is(err, errStale):
		g.count.staleTimestamp.Add(1)
	case errors.Is(err, errFrequent):
		g.count.tooFrequent.Add(1)
	case errors.Is(err, errHandshake), errors.Is(err, errLowOrder):
		g.count.badHandshake.Add(1)
	default:
		g.cfg.Log.Debug("answer initiation", "error", err)
	}
}

// prove authenticates the device that an initiation names and refuses replays and floods. It changes nothing of the
// device's state, which it returns; where there is none, it returns one that nobody else knows of. That costs an X25519.
func (g *Gateway) prove(in *incoming, d Device) (p *peer, err error) {
	if p = g.peer(d.Key); p == nil {
		if p, err = g.newPeer(d); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() {
		return nil, errDead
	}
	if err = g.needSecret(p); err != nil {
		return p, err
	}
	if in.proven, err = in.openTimestamp(&p.secret); err == nil {
		err = p.admits(in.proven, d.Received, g.now())
	}
	if err != nil {
		g.remotes.put(p)
	}
	return p, err
}

// admits refuses the timestamp of an initiation that is a replay, or too soon after the last accepted one (whitepaper
// §5.1). Under p.mu.
func (p *peer) admits(ts, received Timestamp, now time.Duration) error {
	switch {
	case !after(ts, later(p.received, received)):
		return errStale
	case now-p.lastInitiation <= initiationInterval:
		return errFrequent
	}
	return nil
}

// answer keeps the new keys of a proven device as next and makes the response to its candidate address.
func (g *Gateway) answer(in *incoming, p *peer, d Device, from *endpoint) (_ *peer, response []byte, err error) {
	live := g.adopt(p)
	if live != p { // another worker was faster, with another initiation of the same device
		return nil, nil, errFrequent
	}
	psk, err := g.accept(p, in.proven, d)
	if err != nil {
		return nil, nil, err
	}
	local, err := g.indices.reserve()
	if err != nil {
		return nil, nil, err
	}
	m, k, err := in.respond(p.public, &psk, local)
	clear(psk[:])
	if err != nil {
		g.indices.release(local)
		return nil, nil, err
	}
	if err := g.offer(p, in.proven, newKeypair(p, &k, g.now(), false), m[:], from); err != nil {
		return nil, nil, err
	}
	return p, m[:], nil
}

// sendResponse lets a response leave, unless its session was dropped meanwhile.
func (g *Gateway) sendResponse(p *peer, m []byte, to *endpoint) {
	if p.dead.Load() || !g.send([][]byte{m}, to) {
		return
	}
	g.count.responsesSent.Add(1)
	p.txBytes.Add(responseSize)
	p.timers.anySent()
}

// accept takes an initiation's timestamp for p: no other one with it, or an older one, is accepted after that.
func (g *Gateway) accept(p *peer, ts Timestamp, d Device) (psk Key, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() {
		return psk, errDead
	}
	g.apply(p, d)
	now := g.now()
	if err := p.admits(ts, d.Received, now); err != nil {
		return psk, err
	}
	p.received, p.lastInitiation = ts, now
	return p.psk, nil
}

// offer keeps a keypair as next and completes the response m with its macs.
func (g *Gateway) offer(p *peer, ts Timestamp, kp *keypair, m []byte, from *endpoint) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() || p.received != ts {
		g.retire(kp)
		return errDead
	}
	g.putMACs(p, m)
	retired := p.install(kp)
	g.indices.put(kp)
	g.retire(retired[:]...)
	p.sentHandshake.Store(int64(kp.created))
	p.timers.anyReceived()
	erase := kp.created + eraseAfter
	p.timers.erase.Store(int64(erase))
	g.schedule.at(p, kp.created+RejectAfterTime)
	e := p.event(Answered, g.cfg.Now())
	e.Endpoint, e.Initiator = from.addr, false
	g.outbox.put(&notice{Event: e})
	return nil
}

// confirm makes next current because a packet under it came from that address: the device has the keys.
func (g *Gateway) confirm(kp *keypair, from *endpoint) {
	p := kp.peer
	if !kp.imported.Load() {
		g.farewell(p, from)
	}
	p.mu.Lock()
	if !p.dead.Load() && kp.imported.Load() {
		g.followed(p, kp, from)
	}
	if p.dead.Load() || p.next != kp {
		p.mu.Unlock()
		return
	}
	if p.current.Load() == nil {
		g.confirmed.Add(1)
	}
	g.retire(p.promote(kp))
	g.establish(p, from)
	staged := g.unstage(p)
	p.mu.Unlock()
	g.sendStaged(p, staged)
}

// establish notes that p's current keypair is confirmed and that the device is at that address. Under p.mu.
func (g *Gateway) establish(p *peer, from *endpoint) {
	g.locate(p, from)
	p.timers.complete()
	p.attempts, p.target, p.candidate = 0, nil, nil
	g.speak(p)
	p.timers.renew.Store(0)
	p.established = true
	p.handshake = g.cfg.Now()
	if p.since.IsZero() {
		p.since = p.handshake
	}
	g.route(p)
	g.count.confirmed.Add(1)
	current := p.current.Load()
	current.untold.Store(true)
	g.outbox.put(&notice{Event: p.event(Confirmed, p.handshake), keys: current})
	p.roamed = nil // what comes now is told after it
}

// moved is called when a message under kp has come from elsewhere than the confirmed address. Where another gateway saw
// the device behind a NAT we may not reach it, so that moves nothing: the device is called back to where we do.
func (g *Gateway) moved(kp *keypair, from *endpoint, injected bool) {
	p := kp.peer
	at := p.endpoint.Load()
	injected = injected && at != nil
	switch {
	case injected && at.addr == from.addr:
	case kp.imported.Load():
		g.suspect(p, from)
	case !injected:
		g.roam(p, from)
	}
	if injected && at.addr != from.addr {
		g.sendKeepalive(p)
	}
}

// roam follows a device to a new address, from which a packet under confirmed keys has come.
func (g *Gateway) roam(p *peer, from *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.endpoint.Load()
	if p.dead.Load() {
		return
	}
	g.locate(p, from)
	if old != nil && old.addr != from.addr && p.roamed == nil {
		p.roamed = &notice{Event: p.event(Roamed, g.cfg.Now()), roamer: p}
		g.outbox.put(p.roamed)
	}
}

// suspect is roam for imported keys: the message may be a replay of one that the device sent to its former gateway. So
// a new address is only a candidate, which the next handshake, begun now, tries first.
func (g *Gateway) suspect(p *peer, from *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, current := p.endpoint.Load(), p.current.Load()
	switch {
	case p.dead.Load():
	case old == nil || old.addr == from.addr:
		g.locate(p, from)
	case current == nil || !current.imported.Load(): // what comes under older keys is late, or a replay
	case p.candidate == nil || p.candidate.addr != from.addr:
		p.candidate = from
		g.want(p, g.now())
	}
}
