package vpn

import "time"

const (
	muteGrace   = 600 * time.Millisecond // from Mute on, for the last knock and a round trip; later, Heard is told
	handedGrace = 200 * time.Millisecond // the same, from a final export on: the heir is asked to knock
	heardAgain  = 100 * time.Millisecond // between two tellings of a device that was exported for good
	aloneGrace  = 2 * time.Second        // a device that was heard within this is ours, whoever is out of reach
)

// A session may be quiet: nothing is sealed under its keys, no handshake is begun, one under way is given up, but what
// comes in is opened.
//
//	           Mute                  another gateway has claimed the device
//	sending ─────────────► quiet ─┬─ Unmute, Initiate, TakeOver, new keys ─► sending
//	           Export, final      └─ Drop, end of the keys ─► (nothing)
//
// Going back to sending after a final export is allowed: the counters that were given away are above all that this
// gateway uses. The device accepts what it says until it has heard from the heir.

// Mute lets nothing more leave for a device that another gateway has claimed; what comes in from it is opened. If it
// is still heard muteGrace later, the event Heard is told, once. Initiate, TakeOver, Unmute and new keys, which an
// initiation of the device's own makes, end it; Drop and the end of the keys end the session. After a final export it
// does nothing: the device may be further away than any grace, and whoever forwards its packets knows its heir.
func (g *Gateway) Mute(k Key) {
	p := g.peer(k)
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() || p.listen.Load() != 0 || p.handed.Load() {
		return
	}
	p.listen.Store(int64(g.now() + muteGrace))
	for range g.silence(p) {
		g.count.muted.Add(1)
	}
}

// Unmute ends Mute, and takes a final export back as far as sending goes.
func (g *Gateway) Unmute(k Key) {
	if p := g.peer(k); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		g.speak(p)
	}
}

// Alone says whether a gateway is out of reach that may be serving devices of ours: as long as one is, no handshake is
// begun with a device that was not heard within the last 2 s, if there are keys of our own making. Those that were begun
// or that Initiate asked for go on.
func (g *Gateway) Alone(alone bool) { g.alone.Store(alone) }

// silence makes p quiet and returns the packets that waited for keys. A response that is under way is not taken: its
// keys would be known to nobody else. Those of a response of ours are, as the device asked for them. Under p.mu.
func (g *Gateway) silence(p *peer) (staged [][]byte) {
	p.quiet.Store(true)
	p.target = nil
	p.timers.retransmit.Store(0)
	g.abandon(p)
	for _, kp := range [...]*keypair{p.current.Load(), p.previous} {
		if kp != nil {
			kp.sealer.stop(true)
		}
	}
	return g.unstage(p)
}

// speak ends silence. Under p.mu.
func (g *Gateway) speak(p *peer) {
	if !p.quiet.Load() {
		return
	}
	for _, kp := range [...]*keypair{p.current.Load(), p.previous} {
		if kp != nil {
			kp.sealer.stop(false)
		}
	}
	p.listen.Store(0)
	p.handed.Store(false)
	p.quiet.Store(false)
}

// divert takes a packet for a quiet device. No lock is held.
func (g *Gateway) divert(p *peer, packet []byte) {
	if p.handed.Load() && g.cfg.Forward != nil {
		g.count.forwarded.Add(1)
		g.cfg.Forward(p.key, packet)
		return
	}
	g.count.muted.Add(1)
}

// mayBegin reports whether a handshake that nobody has asked for by Initiate may be begun with p.
func (g *Gateway) mayBegin(p *peer, now time.Duration) bool {
	if p.quiet.Load() {
		return false
	}
	kp := p.current.Load()
	return !g.alone.Load() || now-time.Duration(p.heard.Load()) <= aloneGrace || !kp.usable(now) || kp.imported.Load()
}

// listened tells that a device was heard that was muted some time ago, once, or exported for good, again and again.
func (g *Gateway) listened(p *peer, now time.Duration) {
	at := p.listen.Load()
	if at == 0 || int64(now) < at {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Load() || p.listen.Load() != at || !p.quiet.Load() {
		return
	}
	next := int64(1<<63 - 1)
	if p.handed.Load() {
		next = int64(now + heardAgain)
	}
	p.listen.Store(next)
	g.outbox.put(&notice{Event: p.event(Heard, g.cfg.Now())})
}

// Deliver seals a packet for a device and sends it, as if it had come from the TUN. It is for packets that the device's
// former gateway forwarded. It copies and does not block; it reports whether there is a session.
func (g *Gateway) Deliver(k Key, packet []byte) bool {
	p := g.peer(k)
	if p == nil || p.quiet.Load() || len(packet) > bufferSize-headerSize-tagSize-paddingMultiple {
		return false
	}
	packet, _, dst, ok := parseIP(packet)
	if !ok || g.allowed.lookup(dst) != p {
		g.count.badPacket.Add(1)
		return false
	}
	b := make([]byte, headerSize+len(packet), headerSize+len(packet)+paddingMultiple+tagSize)
	copy(b[headerSize:], packet)
	t := &transmitter{g: g}
	t.run(p, [][]byte{b[:cap(b)]}, []int{len(packet)}, g.now())
	return true
}
